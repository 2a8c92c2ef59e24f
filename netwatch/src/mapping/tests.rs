use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use vifport::{FLAG_NEEDS_CSUM, GsoType};

use super::*;
use crate::packet::Layers;

const REMOTE_MAC: Mac = [2, 0, 0, 0, 0, 9];

/// A generator whose numbers are the same in each run (Numerical Recipes' constants).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn bytes(&mut self, most: u32) -> Vec<u8> {
        let len = self.next() % most;
        (0..len).map(|_| self.next() as u8).collect()
    }

    fn station(&mut self) -> Station {
        let [_, a, b, c] = self.next().to_be_bytes();
        Station { mac: [0, 0x16, 0x3e, a, b, c], address: Ipv4Addr::from(self.next()) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    UdpUnchecked,
    Echo,
    // An error that quotes so many bytes of TCP's, UDP's or an echo's packet.
    Unreachable(u8, usize),
}

const KINDS: [Kind; 10] = [
    Kind::Tcp,
    Kind::Udp,
    Kind::UdpUnchecked,
    Kind::Echo,
    Kind::Unreachable(PROTOCOL_TCP, 28),
    Kind::Unreachable(PROTOCOL_TCP, 500),
    Kind::Unreachable(PROTOCOL_UDP, 28),
    Kind::Unreachable(PROTOCOL_UDP, 500),
    Kind::Unreachable(PROTOCOL_ICMP, 500),
    Kind::Unreachable(PROTOCOL_UDP, 19),
];

/// The frame from one to the other, every checksum computed anew.
fn frame(kind: Kind, from: Station, to: Station, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = PacketBuilder::ethernet2(from.mac, to.mac).ipv4(from.address.octets(), to.address.octets(), 64);
    match kind {
        Kind::Tcp => ip.tcp(4000, 22, 7, 100).write(&mut frame, payload).unwrap(),
        Kind::Udp => ip.udp(4000, 53).write(&mut frame, payload).unwrap(),
        Kind::UdpUnchecked => {
            ip.udp(4000, 53).write(&mut frame, payload).unwrap();
            frame[40..42].fill(0);
        }
        Kind::Echo => ip.icmpv4_echo_request(1, 2).write(&mut frame, payload).unwrap(),
        Kind::Unreachable(protocol, len) => {
            let quoted = match protocol {
                PROTOCOL_TCP => Kind::Tcp,
                PROTOCOL_UDP => Kind::Udp,
                _ => Kind::Echo,
            };
            // What is quoted went the other way.
            let quoted = self::frame(quoted, to, from, payload);
            let quoted = &quoted[14..quoted.len().min(14 + len)];
            ip.icmpv4_raw(3, 1, [0; 4]).write(&mut frame, quoted).unwrap();
        }
    }
    frame
}

#[test]
fn what_is_rewritten_is_what_would_have_been_sent() {
    let mut numbers = Numbers(1);
    for round in 0..20_000 {
        let kind = KINDS[round % KINDS.len()];
        let (inner, outer) = (numbers.station(), numbers.station());
        let remote = Station { mac: REMOTE_MAC, address: Ipv4Addr::from(numbers.next()) };
        let mapping = Mapping { inner, outer };
        let payload = numbers.bytes(64);
        let meta = FrameMeta::default();
        let (inside, outside) = (frame(kind, inner, remote, &payload), frame(kind, outer, remote, &payload));
        let mut sent = inside.clone();
        mapping.outward(&mut sent, &meta);
        // A quotation of less than an IP header cannot be read, and is not rewritten.
        if kind == Kind::Unreachable(PROTOCOL_UDP, 19) {
            assert_eq!((&sent[..34], &sent[42..]), (&outside[..34], &inside[42..]), "{kind:?}");
            continue;
        }
        assert_eq!(sent, outside, "{kind:?} {payload:?}");
        let mut received = frame(kind, remote, outer, &payload);
        mapping.inward(&mut received, &meta);
        assert_eq!(received, frame(kind, remote, inner, &payload), "{kind:?} {payload:?}");
    }
}

/// The sum of the pseudo header (RFC 9293, 3.1), as it stands in a frame that is to be finished by a device.
fn pseudo_sum(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, len: usize) -> [u8; 2] {
    let words = [from.octets(), to.octets()].concat();
    let sum: u32 = words.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    fold(sum + u32::from(protocol) + len as u32).to_be_bytes()
}

#[test]
fn a_checksum_that_a_device_is_to_finish_stays_unfinished() {
    let mut numbers = Numbers(2);
    for round in 0..5_000 {
        let (kind, protocol, offset) =
            [(Kind::Tcp, PROTOCOL_TCP, 16), (Kind::Udp, PROTOCOL_UDP, 6)][round % 2];
        let (inner, outer) = (numbers.station(), numbers.station());
        let remote = Station { mac: REMOTE_MAC, address: Ipv4Addr::from(numbers.next()) };
        let payload = numbers.bytes(3000);
        let unfinished = |from: Station, to: Station| {
            let mut frame = frame(kind, from, to, &payload);
            let len = frame.len() - 34;
            let field = 34 + usize::from(offset);
            frame[field..field + 2].copy_from_slice(&pseudo_sum(from.address, to.address, protocol, len));
            frame
        };
        let meta = FrameMeta {
            flags: FLAG_NEEDS_CSUM,
            csum_start: 34,
            csum_offset: offset,
            gso_type: if protocol == PROTOCOL_TCP { GsoType::TcpV4 } else { GsoType::None },
            gso_size: if protocol == PROTOCOL_TCP { 1448 } else { 0 },
            hdr_len: 0,
        };
        let mapping = Mapping { inner, outer };
        let mut sent = unfinished(inner, remote);
        mapping.outward(&mut sent, &meta);
        assert_eq!(sent, unfinished(outer, remote), "{kind:?}");
        let mut received = unfinished(remote, outer);
        mapping.inward(&mut received, &meta);
        assert_eq!(received, unfinished(remote, inner), "{kind:?}");
    }
}

const INNER: Station = Station { mac: [0, 0x16, 0x3e, 0, 0, 1], address: Ipv4Addr::new(10, 77, 0, 20) };
const OUTER: Station = Station { mac: [0, 0x16, 0x3e, 0, 0, 2], address: Ipv4Addr::new(10, 77, 0, 121) };
const REMOTE: Station = Station { mac: REMOTE_MAC, address: Ipv4Addr::new(10, 77, 0, 1) };
const MAPPING: Mapping = Mapping { inner: INNER, outer: OUTER };

fn arp(macs: (Mac, Mac), operation: u16, sender: Station, target: Station) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation(operation),
        &sender.mac,
        &sender.address.octets(),
        &target.mac,
        &target.address.octets(),
    );
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1).arp(packet.unwrap()).write(&mut frame).unwrap();
    frame
}

#[test]
fn arp_speaks_of_the_outer_station() {
    let nobody = |station: Station| Station { mac: [0; 6], ..station };
    let everybody = [0xff; 6];
    let ways = [
        // A question, an answer, an announcement.
        (
            arp((INNER.mac, everybody), 1, INNER, nobody(REMOTE)),
            arp((OUTER.mac, everybody), 1, OUTER, nobody(REMOTE)),
        ),
        (arp((INNER.mac, REMOTE.mac), 2, INNER, REMOTE), arp((OUTER.mac, REMOTE.mac), 2, OUTER, REMOTE)),
        (
            arp((INNER.mac, everybody), 1, INNER, nobody(INNER)),
            arp((OUTER.mac, everybody), 1, OUTER, nobody(OUTER)),
        ),
    ];
    for (inside, outside) in ways {
        let mut sent = inside;
        MAPPING.outward(&mut sent, &FrameMeta::default());
        assert_eq!(sent, outside);
    }
    let mut asked = arp((REMOTE.mac, everybody), 1, REMOTE, nobody(OUTER));
    MAPPING.inward(&mut asked, &FrameMeta::default());
    assert_eq!(asked, arp((REMOTE.mac, everybody), 1, REMOTE, nobody(INNER)));
}

#[test]
fn what_is_not_the_guests_own_is_left_as_it_is() {
    let forged = frame(Kind::Tcp, REMOTE, INNER, b"x");
    for original in [forged, frame(Kind::Tcp, Station { mac: INNER.mac, ..REMOTE }, REMOTE, b"x")] {
        let mut sent = original.clone();
        MAPPING.outward(&mut sent, &FrameMeta::default());
        assert_eq!(sent[14..], original[14..]);
    }
    // A wrong checksum stays wrong by as much.
    let mut broken = frame(Kind::Tcp, INNER, REMOTE, b"x");
    broken[50] ^= 0x40;
    MAPPING.outward(&mut broken, &FrameMeta::default());
    let mut expected = frame(Kind::Tcp, OUTER, REMOTE, b"x");
    assert_ne!(broken, expected);
    expected[50] = broken[50];
    expected[51] = broken[51];
    assert_eq!(broken, expected);
}

/// What a frame says beside addresses and checksums.
fn said(frame: &[u8]) -> impl PartialEq + std::fmt::Debug + use<> {
    let layers = Layers::decode(frame);
    (layers.ether_type, layers.ports(), layers.payload.clone(), layers.malformed)
}

#[test]
fn cut_frames_and_flipped_bits_never_panic_and_say_the_same() {
    let mut numbers = Numbers(3);
    let both = |frame: &mut [u8], meta: &FrameMeta| {
        MAPPING.outward(frame, meta);
        MAPPING.inward(frame, meta);
    };
    for kind in KINDS {
        let whole = frame(kind, INNER, REMOTE, b"some payload");
        for len in 0..=whole.len() {
            let mut cut = whole[..len].to_vec();
            both(&mut cut, &FrameMeta::default());
            assert_eq!(said(&cut), said(&whole[..len]));
        }
        for _ in 0..2_000 {
            let mut flipped = whole.clone();
            let at = numbers.next() as usize % flipped.len();
            flipped[at] ^= 1 << (numbers.next() % 8);
            let before = said(&flipped);
            both(&mut flipped, &FrameMeta::default());
            assert_eq!(said(&flipped), before);
            // Wherever the other side says that an unfinished checksum lies.
            let (csum_start, csum_offset) = (numbers.next() as u16, numbers.next() as u16);
            let meta = FrameMeta { flags: FLAG_NEEDS_CSUM, csum_start, csum_offset, ..FrameMeta::default() };
            both(&mut flipped, &meta);
            assert_eq!(flipped.len(), whole.len());
        }
    }
}
