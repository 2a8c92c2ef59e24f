use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use events::EventId;

use super::*;
use crate::containment::{Containment, Profile};
use crate::inspector::{Inspector, Variables};
use crate::packet::{Layers, Mac};
use crate::switch::Touch;

const POOL_MAC: Mac = [0, 0x16, 0x3e, 0, 0, 20];
const DECOY_MAC: Mac = [0, 0x16, 0x3e, 0, 0, 1];
const OUTSIDE_MAC: Mac = [2, 0, 0, 0, 0, 9];
const POOL: [u8; 4] = [10, 77, 0, 20];
const DECOY: [u8; 4] = [10, 77, 0, 11];
const GATEWAY: [u8; 4] = [10, 77, 0, 1];
const ALICE: [u8; 4] = [192, 0, 2, 1];
const BOB: [u8; 4] = [192, 0, 2, 2];
const PROFILE: &str =
    "name = \"t\"\noutbound = \"refuse\"\n[[allow]]\nproto = \"tcp\"\nto = \"loghost\"\nport = 601";

struct House {
    switch: Switch,
    decoy: PortId,
    gateway: PortId,
    outside: PortId,
    delivery: Delivery,
}

fn spec(touch: Touch) -> PoolSpec {
    PoolSpec { name: "ssh".into(), mac: POOL_MAC, address: POOL.into(), touch }
}

fn identity(domid: u32, mac: Mac, address: [u8; 4]) -> Identity {
    Identity { domain: format!("d{domid}"), domid, mac, addresses: vec![IpAddr::from(address)] }
}

fn house_with(profile: &str, touch: Touch) -> House {
    let fence = vec!["203.0.113.0/24".parse().unwrap()];
    let containment = Containment::new(Profile::parse(profile).unwrap(), fence, vec![GATEWAY.into()]);
    let (inspector, _) = Inspector::load(&[], &Variables::with_home_net("any"));
    let mut switch = Switch::new(containment, inspector, None);
    switch.add_pool(spec(touch)).unwrap();
    let vif = PortKind::Vif(Arc::new(identity(1, DECOY_MAC, DECOY)));
    House {
        decoy: switch.add_port(vif, 0).unwrap(),
        gateway: switch.add_port(PortKind::Gateway, 0).unwrap(),
        outside: switch.add_port(PortKind::Interface(None), 0).unwrap(),
        switch,
        delivery: Delivery::default(),
    }
}

fn house() -> House {
    house_with(PROFILE, Touch::Any)
}

impl House {
    fn forward(&mut self, from: PortId, frame: &[u8], now_us: u64) -> Vec<PortId> {
        self.switch.forward(from, &mut frame.to_vec(), &FrameMeta::default(), now_us, &mut self.delivery);
        self.delivery.ports.clone()
    }

    /// A clone with a seat; answers its port and the frames that were held.
    fn clone(&mut self, domid: u32, source: [u8; 4], now_us: u64) -> (PortId, Vec<HeldFrame>) {
        let port = self.switch.add_clone(identity(domid, POOL_MAC, POOL), "ssh", now_us).unwrap();
        (port, self.switch.seat(domid, "ssh", source.into(), now_us).unwrap())
    }

    fn reasons(&mut self) -> Vec<String> {
        let events = self.switch.take_events();
        let verdicts = events.iter().filter(|event| event.id == EventId::ContainmentVerdict);
        verdicts.map(|event| event.body["reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn tcp(macs: (Mac, Mac), from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 100);
    builder.write(&mut frame, b"1234").unwrap();
    frame[47] = flags;
    frame
}

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

fn syn(source: [u8; 4]) -> Vec<u8> {
    tcp((OUTSIDE_MAC, POOL_MAC), (source, 4000), (POOL, 22), SYN)
}

fn syn_ack(to: [u8; 4]) -> Vec<u8> {
    tcp((POOL_MAC, OUTSIDE_MAC), (POOL, 22), (to, 4000), SYN_ACK)
}

fn udp(source: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = PacketBuilder::ethernet2(OUTSIDE_MAC, POOL_MAC).ipv4(source, POOL, 64);
    ip.udp(4000, 161).write(&mut frame, b"x").unwrap();
    frame
}

fn icmp(source: [u8; 4], kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = PacketBuilder::ethernet2(OUTSIDE_MAC, POOL_MAC).ipv4(source, POOL, 64);
    ip.icmpv4_raw(kind, 1, [0; 4]).write(&mut frame, body).unwrap();
    frame
}

fn arp(macs: (Mac, Mac), operation: u16, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation(operation),
        &macs.0,
        &sender,
        &[0; 6],
        &target,
    );
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1).arp(packet.unwrap()).write(&mut frame).unwrap();
    frame
}

#[test]
fn the_first_packet_of_a_source_waits_for_its_clone() {
    let mut house = house();
    assert!(house.forward(house.outside, &syn(ALICE), 5).is_empty());
    let expected = Wanted { pool: "ssh".into(), source: ALICE.into(), protocol: "tcp".into(), port: 22 };
    assert_eq!(house.switch.take_wanted(), [expected]);
    let second = tcp((OUTSIDE_MAC, POOL_MAC), (ALICE, 4001), (POOL, 23), SYN);
    house.forward(house.outside, &second, 6);
    assert!(house.switch.take_wanted().is_empty());

    let (port, held) = house.clone(7, ALICE, 7);
    let frames: Vec<_> = held.iter().map(|held| (held.from, held.frame.clone(), held.time_us)).collect();
    assert_eq!(frames, [(house.outside, syn(ALICE), 5), (house.outside, second, 6)]);
    let mut delivery = Delivery::default();
    house.switch.deliver_held(&held[0], &mut delivery);
    assert_eq!(delivery.ports, [port]);
    assert_eq!(house.forward(port, &syn_ack(ALICE), 8), [house.outside]);
    assert!(house.switch.take_events().is_empty());
}

#[test]
fn each_source_has_its_clone_and_no_clone_another_ones_source() {
    let mut house = house();
    let (a, _) = house.clone(7, ALICE, 0);
    let (b, _) = house.clone(8, BOB, 0);
    assert_eq!(house.forward(house.outside, &syn(ALICE), 1), [a]);
    assert_eq!(house.forward(house.outside, &syn(BOB), 1), [b]);
    assert_eq!(house.forward(b, &syn_ack(BOB), 2), [house.outside]);
    assert!(house.switch.take_wanted().is_empty());
    // A reply to what the other clone was asked, a connection of its own, a word to the other clone and to a decoy.
    assert!(house.forward(b, &syn_ack(ALICE), 3).is_empty());
    let opened = tcp((POOL_MAC, OUTSIDE_MAC), (POOL, 5000), (ALICE, 80), SYN);
    assert!(house.forward(b, &opened, 3).is_empty());
    for mac in [POOL_MAC, DECOY_MAC] {
        let frame = tcp((POOL_MAC, mac), (POOL, 22), (BOB, 4000), ACK);
        assert!(house.forward(b, &frame, 3).is_empty());
    }
    assert_eq!(house.reasons(), ["other-source", "not-a-reply", "other-source"]);
    assert_eq!(house.forward(a, &syn_ack(ALICE), 4), [house.outside]);
}

#[test]
fn an_open_profile_lets_a_clone_out_but_not_to_others_sources() {
    let mut house = house_with("name = \"t\"\noutbound = \"open\"", Touch::Any);
    let (a, _) = house.clone(7, ALICE, 0);
    let (b, _) = house.clone(8, BOB, 0);
    let to = |address, port| tcp((POOL_MAC, OUTSIDE_MAC), (POOL, 5000), (address, port), SYN);
    assert!(house.forward(b, &to(ALICE, 80), 0).is_empty());
    assert!(house.forward(b, &to(DECOY, 80), 0).is_empty());
    assert!(house.forward(b, &to([224, 0, 0, 1], 80), 0).is_empty());
    let third = [198, 51, 100, 1];
    assert_eq!(house.forward(b, &to(third, 80), 0), [house.gateway, house.outside]);
    // The answer goes to who asked; the same question of the other clone would make two of one.
    let answer = tcp((OUTSIDE_MAC, POOL_MAC), (third, 80), (POOL, 5000), SYN_ACK);
    assert_eq!(house.forward(house.outside, &answer, 1), [b]);
    assert!(house.forward(a, &to(third, 80), 2).is_empty());
    assert!(house.switch.take_wanted().is_empty());
}

#[test]
fn the_switch_answers_arp_for_the_pool_and_no_clone_hears_the_question() {
    let mut house = house();
    let broadcast = arp((OUTSIDE_MAC, [0xff; 6]), ARP_REQUEST, ALICE, POOL);
    let unicast = arp((OUTSIDE_MAC, POOL_MAC), ARP_REQUEST, ALICE, POOL);
    for is_cloned in [false, true] {
        if is_cloned {
            house.clone(7, ALICE, 0);
        }
        for (frame, hearers) in [(&broadcast, vec![house.decoy]), (&unicast, vec![])] {
            assert_eq!(house.forward(house.outside, frame, 0), hearers);
            let made = house.delivery.made.pop().unwrap();
            assert_eq!(made.to, house.outside);
            let answer = Layers::decode(&made.frame);
            assert_eq!((answer.source_mac, answer.destination_mac), (POOL_MAC, OUTSIDE_MAC));
        }
    }
    // Decoys and pools do not see each other; who claims the pool's address is told nothing.
    let decoy_asks = arp((DECOY_MAC, [0xff; 6]), ARP_REQUEST, DECOY, POOL);
    house.forward(house.decoy, &decoy_asks, 0);
    assert!(house.delivery.made.is_empty());
    let announced = arp((OUTSIDE_MAC, [0xff; 6]), ARP_REQUEST, POOL, POOL);
    house.forward(house.outside, &announced, 0);
    assert!(house.delivery.made.is_empty());
    assert!(house.switch.take_wanted().is_empty());
}

#[test]
fn an_arp_reply_goes_to_the_clones_that_asked() {
    let mut house = house();
    let (a, _) = house.clone(7, ALICE, 0);
    let (b, _) = house.clone(8, BOB, 0);
    let reply = arp((OUTSIDE_MAC, POOL_MAC), ARP_REPLY, GATEWAY, POOL);
    assert!(house.forward(house.gateway, &reply, 0).is_empty());
    let question = arp((POOL_MAC, [0xff; 6]), ARP_REQUEST, POOL, GATEWAY);
    assert_eq!(house.forward(a, &question, 1), [house.gateway, house.outside]);
    assert_eq!(house.forward(house.gateway, &reply, 2), [a]);
    let other = arp((OUTSIDE_MAC, POOL_MAC), ARP_REPLY, ALICE, POOL);
    assert!(house.forward(house.gateway, &other, 2).is_empty());
    // Announcements and answers of a clone go nowhere; lies are refused and told.
    for (operation, target) in [(ARP_REQUEST, POOL), (ARP_REPLY, ALICE)] {
        assert!(house.forward(b, &arp((POOL_MAC, [0xff; 6]), operation, POOL, target), 3).is_empty());
    }
    assert!(house.reasons().is_empty());
    assert!(house.forward(b, &arp((POOL_MAC, [0xff; 6]), ARP_REPLY, GATEWAY, ALICE), 3).is_empty());
    assert!(house.forward(b, &arp((OUTSIDE_MAC, [0xff; 6]), ARP_REPLY, GATEWAY, ALICE), 3).is_empty());
    assert_eq!(house.reasons(), ["resolution", "source-mac"]);
}

#[test]
fn a_router_speaks_to_the_clone_whose_packet_it_quotes() {
    let mut house = house();
    let (a, _) = house.clone(7, ALICE, 0);
    let (b, _) = house.clone(8, BOB, 0);
    let router = [198, 51, 100, 9];
    for (port, source) in [(a, ALICE), (b, BOB)] {
        house.forward(house.outside, &syn(source), 0);
        let quoted = &syn_ack(source)[14..];
        assert_eq!(house.forward(house.outside, &icmp(router, 3, quoted), 1), [port]);
        // A clone's own error is about its own flow, or goes nowhere.
        let asked = syn(source)[14..].to_vec();
        let mut error = Vec::new();
        let ip = PacketBuilder::ethernet2(POOL_MAC, OUTSIDE_MAC).ipv4(POOL, source, 64);
        ip.icmpv4_raw(3, 3, [0; 4]).write(&mut error, &asked).unwrap();
        assert_eq!(house.forward(port, &error, 2), [house.outside]);
        assert!(house.forward(if port == a { b } else { a }, &error, 2).is_empty());
    }
    let of_nobody = icmp(router, 3, &syn_ack([192, 0, 2, 77])[14..]);
    assert!(house.forward(house.outside, &of_nobody, 1).is_empty());
    assert!(house.switch.take_wanted().is_empty());
}

#[test]
fn what_counts_as_a_first_touch_is_the_pools_to_say() {
    let fragment = |mut frame: Vec<u8>| {
        frame[20] = 0x20;
        frame
    };
    let table = [
        ("syn", syn(ALICE), true, true),
        ("ack", tcp((OUTSIDE_MAC, POOL_MAC), (ALICE, 4000), (POOL, 22), ACK), true, false),
        ("syn-ack", tcp((OUTSIDE_MAC, POOL_MAC), (ALICE, 4000), (POOL, 22), SYN_ACK), true, false),
        ("reset", tcp((OUTSIDE_MAC, POOL_MAC), (ALICE, 4000), (POOL, 22), RST), false, false),
        ("datagram", udp(ALICE), true, false),
        ("echo", icmp(ALICE, 8, b"ping"), true, false),
        ("echo reply", icmp(ALICE, 0, b"ping"), false, false),
        ("redirect", icmp(ALICE, 5, &syn_ack(ALICE)[14..]), false, false),
        ("fragment", fragment(udp(ALICE)), false, false),
        ("to another address", tcp((OUTSIDE_MAC, POOL_MAC), (ALICE, 4000), (DECOY, 22), SYN), false, false),
        ("from a decoy", syn(DECOY), false, false),
        ("from itself", syn(POOL), false, false),
        ("from a group", syn([224, 0, 0, 1]), false, false),
        ("from loopback", syn([127, 0, 0, 1]), false, false),
        ("from behind the fence", syn([203, 0, 113, 5]), false, false),
        ("broken", syn(ALICE)[..40].to_vec(), false, false),
    ];
    for (name, frame, any, on_syn) in table {
        for (touch, expected) in [(Touch::Any, any), (Touch::Syn, on_syn)] {
            let mut house = house_with(PROFILE, touch);
            assert!(house.forward(house.outside, &frame, 0).is_empty(), "{name}");
            assert_eq!(house.switch.take_wanted().len(), usize::from(expected), "{name} {touch:?}");
        }
    }
}

#[test]
fn a_source_that_gets_another_clone_has_nothing_left_at_the_old_one() {
    let mut house = house();
    let (old, _) = house.clone(7, ALICE, 0);
    house.forward(house.outside, &syn(ALICE), 1);
    let (new, _) = house.clone(8, ALICE, 2);
    let events = house.switch.take_events();
    assert_eq!((events.len(), events[0].id, events[0].domid), (1, EventId::FlowEnd, Some(7)));
    assert!(house.forward(old, &syn_ack(ALICE), 3).is_empty());
    assert_eq!(house.forward(house.outside, &syn(ALICE), 4), [new]);
    assert!(house.forward(old, &syn_ack(ALICE), 5).is_empty());
    assert_eq!(house.forward(new, &syn_ack(ALICE), 5), [house.outside]);
    // The clone goes; whoever comes from there is wanted again.
    house.switch.remove_port(new, 6);
    assert!(house.forward(house.outside, &syn(ALICE), 7).is_empty());
    assert_eq!(house.switch.take_wanted().len(), 1);
}

#[test]
fn a_shared_decoy_has_many_sources_and_each_can_be_taken_away() {
    let mut house = house();
    let (port, _) = house.clone(7, ALICE, 0);
    assert!(house.switch.seat(7, "ssh", BOB.into(), 0).unwrap().is_empty());
    for source in [ALICE, BOB] {
        assert_eq!(house.forward(house.outside, &syn(source), 1), [port]);
    }
    assert_eq!(house.switch.unseat("ssh", BOB.into(), 2), Ok(true));
    assert_eq!(house.switch.unseat("ssh", BOB.into(), 2), Ok(false));
    assert!(house.forward(port, &syn_ack(BOB), 3).is_empty());
    assert_eq!(house.forward(port, &syn_ack(ALICE), 3), [house.outside]);
    assert!(house.forward(house.outside, &syn(BOB), 4).is_empty());
    house.switch.refuse("ssh", BOB.into(), 5).unwrap();
    house.switch.take_wanted();
    house.forward(house.outside, &syn(BOB), 6);
    assert!(house.switch.take_wanted().is_empty());
}

#[test]
fn the_same_flow_of_two_clones_to_the_log_host_is_the_first_ones() {
    let mut house = house();
    let (a, _) = house.clone(7, ALICE, 0);
    // The gateway itself is the other one's source: it uses a published port from this host.
    let (b, _) = house.clone(8, GATEWAY, 0);
    let log = tcp((POOL_MAC, OUTSIDE_MAC), (POOL, 5000), (GATEWAY, 601), SYN);
    assert_eq!(house.forward(a, &log, 0), [house.gateway, house.outside]);
    assert!(house.forward(b, &log, 1).is_empty());
    assert_eq!(house.reasons(), ["other-source"]);
    let answer = tcp((OUTSIDE_MAC, POOL_MAC), (GATEWAY, 601), (POOL, 5000), SYN_ACK);
    assert_eq!(house.forward(house.gateway, &answer, 2), [a]);
    assert_eq!(house.forward(house.gateway, &syn(GATEWAY), 2), [b]);
    // A log connection of its own it may have.
    let own = tcp((POOL_MAC, OUTSIDE_MAC), (POOL, 5001), (GATEWAY, 601), SYN);
    assert_eq!(house.forward(b, &own, 3), [house.gateway]);
}

#[test]
fn refused_pools_and_seats_change_nothing() {
    let mut house = house();
    let name = || "ssh".to_owned();
    assert_eq!(house.switch.add_pool(spec(Touch::Any)), Err(PoolError::MacInUse(name())));
    let taken = PoolSpec { mac: DECOY_MAC, name: "b".into(), ..spec(Touch::Any) };
    assert_eq!(house.switch.add_pool(taken), Err(PoolError::MacInUse("b".into())));
    let again = PoolSpec { mac: [0, 1, 1, 1, 1, 1], ..spec(Touch::Any) };
    assert_eq!(house.switch.add_pool(again), Err(PoolError::Exists(name())));
    assert_eq!(house.switch.remove_pool("web"), Err(PoolError::NoPool("web".into())));
    let stranger = identity(9, DECOY_MAC, POOL);
    assert_eq!(house.switch.add_clone(stranger, "ssh", 0), Err(PoolError::NotTheClone(name())));
    let vif = PortKind::Vif(Arc::new(identity(9, POOL_MAC, POOL)));
    assert_eq!(house.switch.add_port(vif, 0), Err(super::super::PortError::MacInUse));
    let (port, _) = house.clone(7, ALICE, 0);
    let no_port = PoolError::NoPort { domid: 1, pool: name() };
    assert_eq!(house.switch.seat(1, "ssh", BOB.into(), 0).unwrap_err(), no_port);
    let group: IpAddr = "224.0.0.1".parse().unwrap();
    assert_eq!(house.switch.seat(7, "ssh", group, 0).unwrap_err(), PoolError::Source(group));
    assert_eq!(house.switch.remove_pool("ssh"), Err(PoolError::InUse { name: name(), clones: 1 }));
    assert_eq!(house.forward(house.outside, &syn(ALICE), 0), [port]);
    house.switch.remove_port(port, 1);
    assert_eq!(house.switch.remove_pool("ssh"), Ok(()));
    assert!(house.forward(house.outside, &syn(ALICE), 2).is_empty());
    assert!(house.switch.take_wanted().is_empty());
    assert_eq!(house.switch.add_pool(spec(Touch::Any)), Ok(()));
}

#[test]
fn a_flood_of_sources_stays_within_its_limits() {
    let mut house = house();
    for number in 0..5000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        house.forward(house.outside, &syn([11, a, b, c]), 0);
        house.switch.take_wanted();
    }
    let (_, waiting, count) = house.switch.pool_totals();
    assert_eq!((waiting, count.held, count.dropped), (1024, 5000, 5000 - 1024));
    house.switch.expire(4_000_000);
    assert_eq!(house.switch.pool_totals().1, 0);
}
