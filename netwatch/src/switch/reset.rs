//! TCP resets for a connection that a rule rejects (RFC 9293, 3.10.7): one to each side.

use etherparse::PacketBuilder;
use std::net::IpAddr;

use crate::packet::{Packet, Tcp};

const HOPS: u8 = 64;

/// The reset to the sender of `packet` and the one to its receiver; `None` where it is not TCP or a reset itself.
pub(super) fn resets(packet: &Packet<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let (ip, tcp) = (packet.layers.ip()?, packet.layers.tcp()?);
    if tcp.flags & Tcp::RST != 0 {
        return None;
    }
    let control = u32::from(tcp.flags & Tcp::SYN != 0) + u32::from(tcp.flags & Tcp::FIN != 0);
    let next = tcp.sequence.wrapping_add(packet.layers.payload.len() as u32).wrapping_add(control);
    let macs = (packet.layers.source_mac, packet.layers.destination_mac);
    let ends = ((ip.source, tcp.source_port), (ip.destination, tcp.destination_port));
    let back = reset((macs.1, macs.0), (ends.1, ends.0), (tcp.acknowledgment, Some(next)))?;
    let forth = reset(macs, ends, (tcp.sequence, None))?;
    Some((back, forth))
}

fn reset(
    macs: ([u8; 6], [u8; 6]),
    ends: ((IpAddr, u16), (IpAddr, u16)),
    numbers: (u32, Option<u32>),
) -> Option<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    let ((source, source_port), (destination, destination_port)) = ends;
    let ip = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet.ipv4(source.octets(), destination.octets(), HOPS)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet.ipv6(source.octets(), destination.octets(), HOPS)
        }
        _ => return None,
    };
    let tcp = ip.tcp(source_port, destination_port, numbers.0, 0).rst();
    let tcp = match numbers.1 {
        Some(acknowledgment) => tcp.ack(acknowledgment),
        None => tcp,
    };
    let mut frame = Vec::with_capacity(tcp.size(0));
    tcp.write(&mut frame, &[]).ok()?;
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_get_a_reset_with_numbers_that_they_accept() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([192, 0, 2, 1], [10, 77, 0, 11], 64)
            .tcp(4000, 22, 100, 1000)
            .ack(777)
            .write(&mut frame, b"12345")
            .unwrap();
        let (back, forth) = resets(&Packet::decode(&frame, 0)).unwrap();
        let (back, forth) = (Packet::decode(&back, 0), Packet::decode(&forth, 0));
        let tcp = back.layers.tcp().unwrap();
        assert_eq!((tcp.sequence, tcp.acknowledgment, tcp.flags), (777, 105, Tcp::RST | Tcp::ACK));
        assert_eq!((back.layers.destination_mac, tcp.destination_port), ([2; 6], 4000));
        let tcp = forth.layers.tcp().unwrap();
        assert_eq!((tcp.sequence, tcp.destination_port), (100, 22));
        assert!(resets(&back).is_none());
    }
}
