use std::net::{IpAddr, Ipv4Addr};

use etherparse::PacketBuilder;

use super::*;
use crate::containment::Profile;
use crate::inspector::Variables;

const DECOY_MAC: Mac = [0, 0x16, 0x3e, 0, 0, 1];
const OTHER_MAC: Mac = [0, 0x16, 0x3e, 0, 0, 2];
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 9];
const DECOY: [u8; 4] = [10, 77, 0, 11];
const OTHER: [u8; 4] = [10, 77, 0, 12];
const CLIENT: [u8; 4] = [192, 0, 2, 1];

struct House {
    switch: Switch,
    decoy: PortId,
    other: PortId,
    gateway: PortId,
    outside: PortId,
}

fn identity(domid: u32, mac: Mac, address: [u8; 4]) -> PortKind {
    let addresses = vec![IpAddr::V4(Ipv4Addr::from(address))];
    PortKind::Vif(Arc::new(Identity { domain: format!("decoy{domid}"), domid, mac, addresses }))
}

fn house() -> House {
    let profile =
        Profile::parse("name = \"t\"\noutbound = \"refuse\"\n[rate]\nbytes_per_s = 300\npackets_per_s = 100");
    let containment = Containment::new(profile.unwrap(), vec![], vec![]);
    let (inspector, _) = Inspector::load(&[], &Variables::with_home_net("any"));
    let mut switch = Switch::new(containment, inspector, None);
    House {
        decoy: switch.add_port(identity(1, DECOY_MAC, DECOY), 0).unwrap(),
        other: switch.add_port(identity(2, OTHER_MAC, OTHER), 0).unwrap(),
        gateway: switch.add_port(PortKind::Gateway, 0).unwrap(),
        outside: switch.add_port(PortKind::Interface(None), 0).unwrap(),
        switch,
    }
}

fn tcp(macs: (Mac, Mac), from: ([u8; 4], u16), to: ([u8; 4], u16), is_reply: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 100);
    let builder = if is_reply { builder.syn().ack(2) } else { builder.syn() };
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; 100]).unwrap();
    frame
}

impl House {
    fn forward(&mut self, from: PortId, frame: &[u8], now_us: u64) -> Vec<PortId> {
        let mut delivery = Delivery::default();
        self.switch.forward(from, &mut frame.to_vec(), &FrameMeta::default(), now_us, &mut delivery);
        delivery.ports
    }
}

#[test]
fn a_frame_from_outside_reaches_its_decoy_alone_and_the_reply_goes_back() {
    let mut house = house();
    let request = tcp((CLIENT_MAC, DECOY_MAC), (CLIENT, 4000), (DECOY, 22), false);
    assert_eq!(house.forward(house.outside, &request, 0), [house.decoy]);
    let reply = tcp((DECOY_MAC, CLIENT_MAC), (DECOY, 22), (CLIENT, 4000), true);
    assert_eq!(house.forward(house.decoy, &reply, 1), [house.outside]);
    assert!(house.switch.take_events().is_empty());
}

#[test]
fn what_a_decoy_begins_goes_nowhere_and_is_told_once() {
    let mut house = house();
    for (mac, to) in [(CLIENT_MAC, CLIENT), (OTHER_MAC, OTHER)] {
        let frame = tcp((DECOY_MAC, mac), (DECOY, 5000), (to, 80), false);
        assert!(house.forward(house.decoy, &frame, 0).is_empty());
        assert!(house.forward(house.decoy, &frame, 1).is_empty());
        let events = house.switch.take_events();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].id, EventId::ContainmentVerdict);
        assert_eq!(events[0].body["reason"], "not-a-reply");
        assert!(events[0].flow.as_ref().unwrap().community_id.is_some());
    }
    let counts = house.switch.counts();
    assert_eq!(counts[0].2.frames_refused, 4);
}

#[test]
fn a_decoys_mac_from_outside_is_dropped_and_not_learned() {
    let mut house = house();
    let frame = tcp((OTHER_MAC, DECOY_MAC), (OTHER, 4000), (DECOY, 22), false);
    assert!(house.forward(house.outside, &frame, 0).is_empty());
}

#[test]
fn gateway_and_real_network_are_not_bridged() {
    let mut house = house();
    let frame = tcp((CLIENT_MAC, [2; 6]), (CLIENT, 4000), ([10, 77, 0, 1], 22), false);
    assert!(house.forward(house.outside, &frame, 0).is_empty());
    let mut broadcast = vec![0xff; 6];
    broadcast.extend(CLIENT_MAC);
    broadcast.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 192, 0, 2, 1]);
    broadcast.extend([0, 0, 0, 0, 0, 0, 10, 77, 0, 11]);
    assert_eq!(house.forward(house.gateway, &broadcast, 0), [house.decoy, house.other]);
}

#[test]
fn the_bucket_limits_what_leaves_by_a_real_interface_only() {
    let mut house = house();
    for (uplink, expected) in [(house.outside, 1), (house.gateway, 3)] {
        let mac = if uplink == house.outside { CLIENT_MAC } else { [2; 6] };
        let request = tcp((mac, DECOY_MAC), (CLIENT, 4000), (DECOY, 22), false);
        house.forward(uplink, &request, 0);
        let reply = tcp((DECOY_MAC, mac), (DECOY, 22), (CLIENT, 4000), true);
        let gone = (0..3).filter(|_| !house.forward(house.decoy, &reply, 1).is_empty()).count();
        assert_eq!(gone, expected);
    }
}

#[test]
fn a_removed_port_gets_nothing_and_its_flows_end() {
    let mut house = house();
    let request = tcp((CLIENT_MAC, DECOY_MAC), (CLIENT, 4000), (DECOY, 22), false);
    house.forward(house.outside, &request, 0);
    house.switch.remove_port(house.decoy, 5);
    assert!(house.forward(house.outside, &request, 6).is_empty());
    let events = house.switch.take_events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].id, EventId::FlowEnd);
    assert_eq!(house.switch.add_port(identity(3, DECOY_MAC, DECOY), 7), Ok(house.decoy));
}

#[test]
fn two_ports_with_one_mac_are_refused() {
    let mut house = house();
    assert_eq!(house.switch.add_port(identity(9, DECOY_MAC, OTHER), 0), Err(PortError::MacInUse));
}

#[test]
fn a_mapped_clone_is_its_outer_station_to_everybody_else() {
    let mut house = house();
    let inner = Identity {
        domain: "clone".into(),
        domid: 7,
        mac: DECOY_MAC,
        addresses: vec![IpAddr::V4(Ipv4Addr::from(DECOY))],
    };
    let (outer_mac, outer) = ([0, 0x16, 0x3e, 0, 0, 7], [10, 77, 0, 70]);
    let station = Station { mac: outer_mac, address: outer.into() };
    let clone = house.switch.add_mapped(inner.clone(), station, 0).unwrap();
    assert_eq!(house.switch.add_mapped(inner.clone(), station, 0), Err(PortError::MacInUse));
    let homeless = Identity { addresses: vec![], ..inner };
    assert_eq!(house.switch.add_mapped(homeless, station, 0), Err(PortError::Addresses(0)));

    let request = tcp((CLIENT_MAC, outer_mac), (CLIENT, 4000), (outer, 22), false);
    let mut delivery = Delivery::default();
    let meta = FrameMeta::default();
    house.switch.forward(house.outside, &mut request.clone(), &meta, 0, &mut delivery);
    assert!(delivery.ports.is_empty());
    let made = delivery.made.first().unwrap();
    let inside = tcp((CLIENT_MAC, DECOY_MAC), (CLIENT, 4000), (DECOY, 22), false);
    assert_eq!((made.to, &made.frame), (clone, &inside));

    let mut reply = tcp((DECOY_MAC, CLIENT_MAC), (DECOY, 22), (CLIENT, 4000), true);
    house.switch.forward(clone, &mut reply, &meta, 1, &mut delivery);
    assert_eq!(delivery.ports, [house.outside]);
    assert_eq!(reply, tcp((outer_mac, CLIENT_MAC), (outer, 22), (CLIENT, 4000), true));
    house.switch.remove_port(clone, 2);
    let ended = house.switch.take_events();
    let flow = ended[0].flow.as_ref().unwrap();
    assert_eq!((flow.dest_ip, ended[0].domid), (IpAddr::from(outer), Some(7)));
    // The decoy whose address the guest has was never spoken to, and lives on.
    let to_decoy = tcp((CLIENT_MAC, DECOY_MAC), (CLIENT, 4000), (DECOY, 22), false);
    assert_eq!(house.forward(house.outside, &to_decoy, 3), [house.decoy]);
}

#[test]
fn a_domain_that_has_come_answers_on_the_connections_that_it_had() {
    let (mut there, mut here) = (house(), house());
    let request = tcp((CLIENT_MAC, DECOY_MAC), (CLIENT, 4000), (DECOY, 22), false);
    there.forward(there.outside, &request, 0);
    let reply = tcp((DECOY_MAC, CLIENT_MAC), (DECOY, 22), (CLIENT, 4000), true);
    assert!(here.forward(here.decoy, &reply, 1).is_empty(), "here it looks as if the decoy began it");
    let page = there.switch.flows_of(1, 0, 2);
    let flows: Vec<crate::flow::MovedFlow> = serde_json::from_value(page["flows"].clone()).unwrap();
    assert_eq!(here.switch.take_flows(1, &flows, Some([1, 0, 0, 0]), 3), Ok(1));
    assert_eq!(here.forward(here.decoy, &reply, 4), [here.gateway, here.outside]);
    assert_eq!(here.switch.flows_of(1, 0, 5)["quota"], serde_json::json!([1, 0, 0, 0]));
    // What is not its own, or there already, is left out; a domain without a port is refused.
    assert_eq!(here.switch.take_flows(1, &flows, None, 6), Ok(0));
    assert_eq!(here.switch.take_flows(2, &flows, None, 6), Ok(0));
    assert_eq!(here.switch.take_flows(9, &flows, None, 6).unwrap_err(), "domain 9 has no port");
}

#[test]
fn the_network_is_told_by_every_uplink_where_a_domain_is() {
    let house = house();
    let made = house.switch.announcements(1);
    let to: Vec<PortId> = made.iter().map(|made| made.to).collect();
    assert_eq!(to, [house.gateway, house.outside]);
    assert!(made.iter().all(|made| made.frame[..6] == [0xff; 6] && made.frame[6..12] == DECOY_MAC));
    assert!(house.switch.announcements(9).is_empty());
}
