use std::net::Ipv4Addr;

use etherparse::PacketBuilder;

use super::*;
use crate::flow::{FirstPacket, endpoints};
use crate::packet::Mac;

const DECOY_MAC: Mac = [0, 0x16, 0x3e, 0, 0, 1];
const DECOY: [u8; 4] = [10, 77, 0, 11];
const GATEWAY: [u8; 4] = [10, 77, 0, 1];
const OUTSIDE: [u8; 4] = [192, 0, 2, 1];

fn identity() -> Identity {
    Identity { domain: "web".into(), domid: 3, mac: DECOY_MAC, addresses: vec![Ipv4Addr::from(DECOY).into()] }
}

fn containment(profile: &str) -> Containment {
    let path = format!("{}/../rules/containment/{profile}.toml", env!("CARGO_MANIFEST_DIR"));
    let profile = Profile::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    let fence = vec!["198.51.100.0/24".parse().unwrap()];
    Containment::new(profile, fence, vec![Ipv4Addr::from(GATEWAY).into()])
}

fn tcp(source_mac: Mac, source: [u8; 4], to: ([u8; 4], u16), is_ack: bool) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(source_mac, [4; 6]).ipv4(source, to.0, 64).tcp(22, to.1, 1, 100).syn();
    let builder = if is_ack { builder.ack(1) } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

fn udp(to: ([u8; 4], u16)) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(DECOY_MAC, [4; 6])
        .ipv4(DECOY, to.0, 64)
        .udp(5000, to.1)
        .write(&mut frame, b"x")
        .unwrap();
    frame
}

fn judge(containment: &mut Containment, frame: &[u8], flows: &FlowTable) -> Result<Passage, Refusal> {
    let layers = Layers::decode(frame);
    let flow = endpoints(&layers).and_then(|ends| flows.find(&ends));
    containment.judge(&identity(), frame, &layers, flow, flows, 0)
}

fn flow_from_outside() -> FlowTable {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([4; 6], DECOY_MAC)
        .ipv4(OUTSIDE, DECOY, 64)
        .tcp(4000, 22, 1, 100)
        .syn()
        .write(&mut frame, b"")
        .unwrap();
    let layers = Layers::decode(&frame);
    let ends = endpoints(&layers).unwrap();
    let mut flows = FlowTable::default();
    flows.begin(FirstPacket { layers: &layers, ends, bytes: 54, begun: Direction::ToDecoy, domid: 3 }, 0);
    flows
}

#[test]
fn replies_only_refuses_what_a_decoy_begins_and_lets_its_syslog_go() {
    let table = [
        (tcp(DECOY_MAC, DECOY, (OUTSIDE, 4000), false), Err(Refusal::NotAReply)),
        (tcp(DECOY_MAC, DECOY, ([10, 77, 0, 12], 22), false), Err(Refusal::NotAReply)),
        (tcp(DECOY_MAC, DECOY, (GATEWAY, 22), false), Err(Refusal::NotAReply)),
        (tcp(DECOY_MAC, DECOY, (GATEWAY, 601), false), Ok(Passage::Begin)),
        (udp((GATEWAY, 514)), Ok(Passage::Begin)),
        (udp((GATEWAY, 601)), Err(Refusal::NotAReply)),
        (udp((OUTSIDE, 53)), Err(Refusal::NotAReply)),
        (tcp([2; 6], DECOY, (GATEWAY, 601), false), Err(Refusal::SourceMac)),
        (tcp(DECOY_MAC, OUTSIDE, (GATEWAY, 601), false), Err(Refusal::SourceAddress)),
        (tcp(DECOY_MAC, DECOY, ([198, 51, 100, 9], 80), true), Err(Refusal::Fence)),
        (tcp(DECOY_MAC, DECOY, ([169, 254, 169, 254], 80), false), Err(Refusal::Fence)),
    ];
    for (frame, expected) in table {
        let mut containment = containment("replies-only");
        assert_eq!(judge(&mut containment, &frame, &FlowTable::default()), expected, "{frame:x?}");
    }
}

#[test]
fn a_reply_goes_and_a_connection_backwards_through_its_port_does_not() {
    let flows = flow_from_outside();
    let mut containment = containment("replies-only");
    let reply = tcp(DECOY_MAC, DECOY, (OUTSIDE, 4000), true);
    assert_eq!(judge(&mut containment, &reply, &flows), Ok(Passage::Known));
    let backwards = tcp(DECOY_MAC, DECOY, (OUTSIDE, 4000), false);
    assert_eq!(judge(&mut containment, &backwards, &flows), Err(Refusal::NotAReply));
}

#[test]
fn an_icmp_error_goes_only_if_it_is_about_a_known_flow() {
    let mut containment = containment("replies-only");
    let mut quoted = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    quoted.extend(OUTSIDE);
    quoted.extend(DECOY);
    quoted.extend([0x0f, 0xa0, 0, 22, 0, 0, 0, 0]);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(DECOY_MAC, [4; 6])
        .ipv4(DECOY, OUTSIDE, 64)
        .icmpv4_raw(3, 3, [0; 4])
        .write(&mut frame, &quoted)
        .unwrap();
    assert_eq!(judge(&mut containment, &frame, &flow_from_outside()), Ok(Passage::Unflowed));
    assert_eq!(judge(&mut containment, &frame, &FlowTable::default()), Err(Refusal::NotAReply));
}

#[test]
fn arp_is_carried_with_own_addresses_only() {
    let arp = |mac: Mac, sender: [u8; 4]| {
        let mut frame = vec![0xff; 6];
        frame.extend(DECOY_MAC);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(mac);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend(GATEWAY);
        frame
    };
    let table = [
        (arp(DECOY_MAC, DECOY), Ok(Passage::Unflowed)),
        (arp(DECOY_MAC, [0; 4]), Ok(Passage::Unflowed)),
        (arp(DECOY_MAC, GATEWAY), Err(Refusal::Resolution)),
        (arp([2; 6], DECOY), Err(Refusal::Resolution)),
    ];
    for (frame, expected) in table {
        assert_eq!(judge(&mut containment("replies-only"), &frame, &FlowTable::default()), expected);
    }
}

#[test]
fn a_neighbour_advertisement_for_another_address_is_refused() {
    let advertise = |target: Ipv6Addr, mac: Mac| {
        let source = identity().link_local();
        let mut body = target.octets().to_vec();
        body.extend([2, 1]);
        body.extend(mac);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(DECOY_MAC, [4; 6])
            .ipv6(source.octets(), "fe80::1".parse::<Ipv6Addr>().unwrap().octets(), 255)
            .icmpv6_raw(136, 0, [0x60, 0, 0, 0])
            .write(&mut frame, &body)
            .unwrap();
        frame
    };
    use std::net::Ipv6Addr;
    let own = identity().link_local();
    let table = [
        (advertise(own, DECOY_MAC), Ok(Passage::Unflowed)),
        (advertise("fe80::1".parse().unwrap(), DECOY_MAC), Err(Refusal::Resolution)),
        (advertise(own, [2; 6]), Err(Refusal::Resolution)),
    ];
    for (frame, expected) in table {
        assert_eq!(judge(&mut containment("replies-only"), &frame, &FlowTable::default()), expected);
    }
}

#[test]
fn quota_lets_so_many_flows_begin_in_an_hour() {
    let mut containment = containment("quota");
    let flows = FlowTable::default();
    for port in 0..20 {
        let frame = tcp(DECOY_MAC, DECOY, (OUTSIDE, port), false);
        assert_eq!(judge(&mut containment, &frame, &flows), Ok(Passage::Begin));
    }
    let frame = tcp(DECOY_MAC, DECOY, (OUTSIDE, 80), false);
    assert_eq!(judge(&mut containment, &frame, &flows), Err(Refusal::Quota));
    let layers = Layers::decode(&frame);
    let next_hour = containment.judge(&identity(), &frame, &layers, None, &flows, HOUR_US);
    assert_eq!(next_hour, Ok(Passage::Begin));
}

#[test]
fn a_profile_with_a_fault_is_refused() {
    for text in [
        "name = \"x\"",
        "name = \"x\"\noutbound = \"quota\"",
        "name = \"x\"\noutbound = \"maybe\"",
        "name = \"x\"\noutbound = \"refuse\"\n[[allow]]\nproto = \"tcp\"\nto = \"nowhere\"\nport = 1",
        "name = \"x\"\noutbound = \"refuse\"\nsurprise = 1",
    ] {
        assert!(Profile::parse(text).is_err(), "{text}");
    }
}
