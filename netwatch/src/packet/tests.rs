use etherparse::PacketBuilder;

use super::*;

fn tcp_frame(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 0, 0, 1], [10, 77, 0, 11], 64)
        .tcp(40000, 22, 7, 1000)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

#[test]
fn tcp_over_ipv4_has_its_fields() {
    let frame = tcp_frame(b"hello");
    let packet = Packet::decode(&frame, 5);
    let ip = packet.layers.ip().unwrap();
    assert_eq!(ip.source, IpAddr::from([10, 0, 0, 1]));
    assert_eq!((ip.header.clone(), ip.payload.len()), (14..34, 25));
    let tcp = packet.layers.tcp().unwrap();
    assert_eq!((tcp.source_port, tcp.destination_port, tcp.flags), (40000, 22, Tcp::SYN));
    assert_eq!(packet.payload(), b"hello");
    assert_eq!(packet.layers.malformed, None);
}

#[test]
fn padding_behind_the_ip_packet_is_no_payload() {
    let mut frame = tcp_frame(b"");
    frame.resize(60, 0xaa);
    let packet = Packet::decode(&frame, 0);
    assert_eq!(packet.payload(), b"");
    assert_eq!(packet.layers.malformed, None);
}

#[test]
fn a_frame_cut_anywhere_is_named_malformed() {
    let frame = tcp_frame(b"hello");
    for len in 0..frame.len() {
        let layers = Layers::decode(&frame[..len]);
        assert!(layers.malformed.is_some(), "cut at {len}: {layers:?}");
    }
}

#[test]
fn flipped_bits_never_panic_and_ranges_stay_inside() {
    let frame = tcp_frame(b"hello");
    for bit in 0..frame.len() * 8 {
        let mut frame = frame.clone();
        frame[bit / 8] ^= 1 << (bit % 8);
        let layers = Layers::decode(&frame);
        assert!(layers.payload.end <= frame.len(), "bit {bit}");
    }
}

#[test]
fn ipv6_fragment_says_so_and_has_no_transport() {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0, 0, 16, 44, 64]);
    frame.extend([0xfd; 32]);
    frame.extend([17, 0, 0, 9, 0, 0, 0, 5]);
    frame.extend([0; 8]);
    let layers = Layers::decode(&frame);
    let ip = layers.ip().unwrap();
    assert!(ip.is_fragment());
    assert_eq!((ip.protocol, ip.fragment_offset, ip.identification), (17, 8, 5));
    assert_eq!(layers.transport, None);
}

#[test]
fn ipv6_extension_header_cut_after_a_fragment_header_is_not_read() {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0, 0, 16, 0, 64]);
    frame.extend([0xfd; 32]);
    // Hop by hop, then a fragment header that announces destination options, which are not there.
    frame.extend([44, 0, 1, 4, 0, 0, 0, 0]);
    frame.extend([60, 0, 0, 9, 0, 0, 0, 5]);
    let layers = Layers::decode(&frame);
    let ip = layers.ip().unwrap();
    assert_eq!((ip.fragment_offset, ip.more_fragments, ip.identification), (8, true, 5));
    assert!(layers.malformed.is_some());
    assert_eq!(layers.transport, None);
}

#[test]
fn arp_request_has_its_addresses() {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6];
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 77, 0, 11, 0, 0, 0, 0, 0, 0, 10, 77, 0, 1]);
    let layers = Layers::decode(&frame);
    let Some(Network::Arp(arp)) = layers.network else { panic!("no arp: {layers:?}") };
    assert_eq!((arp.operation, arp.sender_mac), (1, [2, 0, 0, 0, 0, 2]));
    assert_eq!(arp.target_address, Ipv4Addr::new(10, 77, 0, 1));
}

#[test]
fn vlan_tag_is_read_and_the_inner_packet_decoded() {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .single_vlan(etherparse::VlanId::try_new(5).unwrap())
        .ipv4([10, 0, 0, 1], [10, 77, 0, 11], 64)
        .udp(53, 54);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"x").unwrap();
    let layers = Layers::decode(&frame);
    assert_eq!((layers.vlan, layers.ether_type, layers.ports()), (Some(5), 0x0800, Some((53, 54))));
}
