//! Checksums and segmentation that one side leaves to the other: where the transport header is, and how to sum it up.

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use vifport::{FrameMeta, GsoType};

const TCP_CHECKSUM: u16 = 16;
const UDP_CHECKSUM: u16 = 6;

/// Where the transport header of a TCP or UDP frame is. Offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Of the header in the frame.
    pub start: u16,
    /// Of the checksum in the header.
    pub checksum: u16,
    /// Length of all headers.
    pub headers: u16,
    /// How the frame could be cut: `None` for UDP.
    pub gso: GsoType,
    /// The network layer.
    pub network: Network,
}

/// Which IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Transport {
    /// Finds it; `None` for anything but whole TCP or UDP headers over IP (fragments have none).
    pub fn find(frame: &[u8]) -> Option<Self> {
        let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
        let (network, tcp_gso) = match packet.net? {
            LaxNetSlice::Ipv4(_) => (Network::V4, GsoType::TcpV4),
            LaxNetSlice::Ipv6(_) => (Network::V6, GsoType::TcpV6),
            LaxNetSlice::Arp(_) => return None,
        };
        let (header, checksum, header_bytes, gso) = match packet.transport? {
            TransportSlice::Tcp(tcp) => (tcp.slice(), TCP_CHECKSUM, tcp.header_slice().len(), tcp_gso),
            TransportSlice::Udp(udp) => (udp.slice(), UDP_CHECKSUM, udp.header_slice().len(), GsoType::None),
            TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_) => return None,
        };
        // The slice is a part of the frame, so the difference of their addresses is its offset.
        let start = header.as_ptr() as usize - frame.as_ptr() as usize;
        let start = u16::try_from(start).ok()?;
        let headers = start.checked_add(u16::try_from(header_bytes).ok()?)?;
        Some(Self { start, checksum, headers, gso, network })
    }
}

/// Fills in the checksum that `meta` says is missing: the sum from `csum_start` to the end, which takes in the pseudo
/// header's sum that stands in its place. Leaves a frame alone that needs none.
pub fn complete_checksum(frame: &mut [u8], meta: &FrameMeta) {
    if !meta.needs_csum() {
        return;
    }
    let start = usize::from(meta.csum_start);
    let at = start + usize::from(meta.csum_offset);
    let Some(summed) = frame.get(start..) else { return };
    let sum = internet_checksum(summed);
    // Zero means "no checksum" to UDP, and its other form is the same number to all.
    let sum = if sum == 0 { 0xffff } else { sum };
    if let Some(place) = frame.get_mut(at..at + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

/// RFC 1071, over at most 64 KiB (the sum cannot overflow).
fn internet_checksum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    sum += rest.first().map_or(0, |last| u64::from(*last) << 8);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpHeader};

    use super::*;

    fn tcp_v6(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut header = TcpHeader::new(1000, 80, 7, 512);
        header.set_options_raw(&[1, 1, 1, 1]).unwrap();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([1; 16], [2; 16], 64)
            .tcp_header(header)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    #[test]
    fn a_completed_checksum_is_what_the_sender_would_have_written() {
        let right = tcp_v6(b"payload of odd length");
        let transport = Transport::find(&right).unwrap();
        assert_eq!((transport.start, transport.checksum, transport.headers), (54, 16, 78));
        assert_eq!((transport.gso, transport.network), (GsoType::TcpV6, Network::V6));
        // The pseudo header's sum, as Linux leaves it there.
        let len = (right.len() - 54) as u16;
        let pseudo: u32 = 8 * 0x0101 + 8 * 0x0202 + u32::from(len) + 6;
        let mut frame = right.clone();
        frame[70..72].copy_from_slice(&(pseudo as u16).to_be_bytes());
        let meta = FrameMeta {
            flags: vifport::FLAG_NEEDS_CSUM,
            csum_start: transport.start,
            csum_offset: transport.checksum,
            ..Default::default()
        };
        complete_checksum(&mut frame, &meta);
        assert!(frame == right);
        complete_checksum(&mut frame, &FrameMeta::default());
        assert!(frame == right, "a frame that needs none was changed");
    }

    #[test]
    fn what_has_no_transport_checksum_is_not_found() {
        let mut arp = vec![0xff; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(Transport::find(&arp), None);
        let whole = tcp_v6(b"");
        for len in 0..whole.len() {
            assert_eq!(Transport::find(&whole[..len]), None, "{len} bytes");
        }
    }
}
