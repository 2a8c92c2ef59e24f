use etherparse::PacketBuilder;

use super::*;

pub(super) const OUTSIDE: [u8; 4] = [192, 0, 2, 1];
pub(super) const DECOY: [u8; 4] = [10, 77, 0, 11];

enum Flags {
    Syn,
    Ack,
    Fin,
}

fn layers(source: ([u8; 4], u16), destination: ([u8; 4], u16), flags: Flags) -> Layers {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(source.0, destination.0, 64).tcp(
        source.1,
        destination.1,
        1,
        100,
    );
    let builder = match flags {
        Flags::Syn => builder.syn(),
        Flags::Ack => builder.ack(1),
        Flags::Fin => builder.fin().ack(1),
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    Layers::decode(&frame)
}

/// The decoy's answer to [`begin`].
pub(super) fn reply(port: u16) -> Layers {
    layers((DECOY, 22), (OUTSIDE, port), Flags::Ack)
}

pub(super) fn begin(table: &mut FlowTable, port: u16, now_us: u64) -> Vec<Flow> {
    let layers = layers((OUTSIDE, port), (DECOY, 22), Flags::Syn);
    let ends = endpoints(&layers).unwrap();
    let first = FirstPacket { layers: &layers, ends, bytes: 54, begun: Direction::ToDecoy, domid: 1 };
    table.begin(first, now_us)
}

#[test]
fn both_directions_are_one_flow_and_counted_apart() {
    let mut table = FlowTable::default();
    begin(&mut table, 4000, 0);
    let reply = layers((DECOY, 22), (OUTSIDE, 4000), Flags::Ack);
    let flow = table.seen(&reply, &endpoints(&reply).unwrap(), 60, 5).unwrap();
    assert_eq!((flow.forth.packets, flow.back.packets, flow.back.bytes), (1, 1, 60));
    assert_eq!(flow.begun, Direction::ToDecoy);
}

#[test]
fn a_flow_closed_by_both_sides_ends_soon_and_says_closed() {
    let mut table = FlowTable::default();
    begin(&mut table, 4000, 0);
    for (source, destination) in [((DECOY, 22), (OUTSIDE, 4000)), ((OUTSIDE, 4000), (DECOY, 22))] {
        let fin = layers(source, destination, Flags::Fin);
        assert!(table.seen(&fin, &endpoints(&fin).unwrap(), 54, 1).is_some());
    }
    assert!(table.expire(TCP_CLOSED_US).is_empty());
    let ended = table.expire(TCP_CLOSED_US + 2);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].end_reason(), "closed");
    assert!(table.is_empty());
}

#[test]
fn a_syn_on_a_closed_flow_is_a_new_flow() {
    let mut table = FlowTable::default();
    begin(&mut table, 4000, 0);
    for (source, destination) in [((DECOY, 22), (OUTSIDE, 4000)), ((OUTSIDE, 4000), (DECOY, 22))] {
        let fin = layers(source, destination, Flags::Fin);
        table.seen(&fin, &endpoints(&fin).unwrap(), 54, 1);
    }
    let syn = layers((DECOY, 22), (OUTSIDE, 4000), Flags::Syn);
    assert!(table.seen(&syn, &endpoints(&syn).unwrap(), 54, 2).is_none());
}

#[test]
fn a_timed_out_flow_is_not_found_even_before_it_is_swept() {
    let mut table = FlowTable::default();
    begin(&mut table, 4000, 0);
    let reply = layers((DECOY, 22), (OUTSIDE, 4000), Flags::Ack);
    assert!(table.seen(&reply, &endpoints(&reply).unwrap(), 60, TCP_OPENING_US + 1).is_none());
}

#[test]
fn a_full_table_gives_up_an_idle_flow_and_keeps_its_size() {
    let mut table = FlowTable::with_limit(4);
    for port in 0..4 {
        assert!(begin(&mut table, 4000 + port, 0).is_empty());
    }
    let ended = begin(&mut table, 5000, 1);
    assert_eq!((ended.len(), table.len()), (1, 4));
}

#[test]
fn icmp_events_have_no_ports() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(OUTSIDE, DECOY, 64)
        .icmpv4_echo_request(7, 1)
        .write(&mut frame, b"x")
        .unwrap();
    let layers = Layers::decode(&frame);
    let ends = endpoints(&layers).unwrap();
    assert_eq!((ends.source_port, ends.destination_port), (7, 7));
    let tuple = tuple(&ends, icmp_kind(&layers), 3);
    assert_eq!((tuple.src_port, tuple.proto.as_str()), (0, "ICMP"));
}
