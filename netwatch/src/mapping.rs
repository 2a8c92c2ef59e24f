//! Identity by mapping: a clone that is no pool's has outside another MAC and IPv4 address than its guest knows of, so
//! that several children of one snapshot live side by side.
//!
//! Rewritten are Ethernet's, ARP's and IPv4's addresses, in ICMP errors those of the packet that is quoted, and every
//! checksum that covers them, incrementally (RFC 1624): a checksum that was wrong stays wrong, and one that is yet to be
//! finished by an offload (`FrameMeta::needs_csum`) stays so. Addresses in the data of a protocol (FTP's PORT) are left
//! as they are, and so is IPv6. Pure.

use std::net::Ipv4Addr;

use vifport::FrameMeta;

use crate::packet::{Mac, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};

const ETHERNET_BYTES: usize = 14;
const ETHER_TYPE_IPV4: [u8; 2] = [8, 0];
const ETHER_TYPE_ARP: [u8; 2] = [8, 6];
const IPV4_BYTES_MIN: usize = 20;
const ICMP_BYTES: usize = 8;
/// ICMP's errors, which quote a packet (RFC 792): unreachable, source quench, redirect, time exceeded, parameter problem.
const ICMP_ERRORS: [u8; 5] = [3, 4, 5, 11, 12];

/// A MAC with its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Station {
    /// The MAC.
    pub mac: Mac,
    /// The address.
    pub address: Ipv4Addr,
}

/// Who a clone is to its guest, and who it is to everybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// As the guest has it.
    pub inner: Station,
    /// As all others know it.
    pub outer: Station,
}

/// Which addresses of a packet are the clone's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Source => Side::Destination,
            Side::Destination => Side::Source,
        }
    }
}

/// What the field of a transport checksum holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksum {
    /// The complement of the whole sum.
    Finished,
    /// The sum of the pseudo header, not complemented; the device does the rest.
    Partial,
}

impl Mapping {
    /// A frame that the guest sent, as others shall see it. What is not the guest's own address stays as it is, so that
    /// a forged one is still seen to be forged.
    pub fn outward(&self, frame: &mut [u8], meta: &FrameMeta) {
        rewrite(frame, meta, Side::Source, self.inner, self.outer);
    }

    /// A frame for the clone, as its guest shall see it.
    pub fn inward(&self, frame: &mut [u8], meta: &FrameMeta) {
        rewrite(frame, meta, Side::Destination, self.outer, self.inner);
    }
}

fn rewrite(frame: &mut [u8], meta: &FrameMeta, side: Side, from: Station, to: Station) {
    let Some((ethernet, payload)) = frame.split_first_chunk_mut::<ETHERNET_BYTES>() else { return };
    let mac_at = match side {
        Side::Destination => 0,
        Side::Source => 6,
    };
    if let Some(mac) = ethernet.get_mut(mac_at..mac_at + 6) {
        replace(mac, &from.mac, &to.mac);
    }
    match [ethernet[12], ethernet[13]] {
        ETHER_TYPE_ARP => rewrite_arp(payload, side, from, to),
        ETHER_TYPE_IPV4 => {
            let field = usize::from(meta.csum_start) + usize::from(meta.csum_offset);
            // Where the unfinished checksum lies, counted from IP's first byte.
            let partial = meta.needs_csum().then(|| field.checked_sub(ETHERNET_BYTES)).flatten();
            rewrite_ipv4(payload, side, from.address, to.address, partial);
        }
        _ => {}
    }
}

/// ARP for IPv4 over Ethernet (RFC 826). A clone's own address stands on both sides of an announcement or a probe.
fn rewrite_arp(arp: &mut [u8], side: Side, from: Station, to: Station) {
    let Some(body) = arp.get_mut(..28).filter(|arp| arp.starts_with(&[0, 1, 8, 0, 6, 4])) else { return };
    let both = [(8, 14), (18, 24)];
    let places = match side {
        Side::Source => &both[..],
        Side::Destination => &both[1..],
    };
    for (mac_at, address_at) in places {
        if let Some(mac) = body.get_mut(*mac_at..*mac_at + 6) {
            replace(mac, &from.mac, &to.mac);
        }
        if let Some(address) = body.get_mut(*address_at..*address_at + 4) {
            replace(address, &from.address.octets(), &to.address.octets());
        }
    }
}

/// Answers the correction that a checksum over the whole of what was rewritten needs.
fn rewrite_ipv4(
    packet: &mut [u8],
    side: Side,
    from: Ipv4Addr,
    to: Ipv4Addr,
    partial: Option<usize>,
) -> Correction {
    let mut all = Correction::default();
    let Some((header_bytes, protocol, is_first)) = ipv4_header(packet) else { return all };
    let address_at = match side {
        Side::Source => 12,
        Side::Destination => 16,
    };
    let (old, new) = (from.octets(), to.octets());
    let is_own = packet.get_mut(address_at..address_at + 4).is_some_and(|field| replace(field, &old, &new));
    if is_own {
        let address = Correction::of(&old, &new);
        all.add(address);
        all.add(address.apply(packet, 10, Checksum::Finished));
        if is_first && let Some(field) = transport_checksum(protocol) {
            let field = header_bytes + field;
            let kind = if partial == Some(field) { Checksum::Partial } else { Checksum::Finished };
            // UDP without a checksum (RFC 768) stays without.
            let is_absent = protocol == PROTOCOL_UDP
                && kind == Checksum::Finished
                && packet.get(field..field + 2) == Some(&[0, 0]);
            if !is_absent {
                all.add(address.apply_to_transport(packet, field, kind, protocol));
            }
        }
    }
    if is_first && protocol == PROTOCOL_ICMP && partial.is_none() {
        all.add(rewrite_icmp(packet, header_bytes, side, from, to));
    }
    all
}

/// An error quotes a packet that went the other way. What is quoted of a quoted error is left alone.
fn rewrite_icmp(packet: &mut [u8], at: usize, side: Side, from: Ipv4Addr, to: Ipv4Addr) -> Correction {
    let is_error = packet.get(at).is_some_and(|kind| ICMP_ERRORS.contains(kind));
    let quoted = packet.get_mut(at + ICMP_BYTES..).filter(|quoted| is_error && !quotes_error(quoted));
    let Some(quoted) = quoted else { return Correction::default() };
    let mut inside = rewrite_ipv4(quoted, side.other(), from, to, None);
    let outside = inside.apply(packet, at + 2, Checksum::Finished);
    inside.add(outside);
    inside
}

/// No host answers an error with an error (RFC 1122, 3.2.2); so nothing is rewritten deeper than one quotation.
fn quotes_error(quoted: &[u8]) -> bool {
    ipv4_header(quoted).is_some_and(|(header_bytes, protocol, _)| {
        protocol == PROTOCOL_ICMP && quoted.get(header_bytes).is_some_and(|kind| ICMP_ERRORS.contains(kind))
    })
}

/// Bytes of the header, protocol, and whether the transport header follows (RFC 791).
fn ipv4_header(packet: &[u8]) -> Option<(usize, u8, bool)> {
    let header = packet.get(..IPV4_BYTES_MIN)?;
    let header_bytes = usize::from(header[0] & 0xf) * 4;
    let is_ipv4 = header[0] >> 4 == 4 && header_bytes >= IPV4_BYTES_MIN && packet.len() >= header_bytes;
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    is_ipv4.then_some((header_bytes, header[9], offset == 0))
}

/// Where the checksum over the pseudo header lies in the transport header. ICMP's has no pseudo header.
fn transport_checksum(protocol: u8) -> Option<usize> {
    match protocol {
        PROTOCOL_TCP => Some(16),
        PROTOCOL_UDP => Some(6),
        _ => None,
    }
}

/// Puts `to` where `from` stands; false where it does not.
fn replace(field: &mut [u8], from: &[u8], to: &[u8]) -> bool {
    let is_meant = field == from && field.len() == to.len();
    if is_meant {
        field.copy_from_slice(to);
    }
    is_meant
}

/// By how much a ones' complement sum grows: the sum of `~m + m'` of RFC 1624, equation 3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Correction(u32);

impl Correction {
    /// Of fields at an even offset.
    fn of(old: &[u8], new: &[u8]) -> Correction {
        let words = |bytes: &[u8], mask: u16| -> u32 {
            let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair[1]]) ^ mask);
            bytes.chunks_exact(2).map(word).sum()
        };
        Correction(fold(words(old, 0xffff) + words(new, 0)).into())
    }

    fn add(&mut self, other: Correction) {
        self.0 = fold(self.0 + other.0).into();
    }

    /// Corrects the checksum at this offset, if it is there; answers by how much a sum over the field itself grows.
    fn apply(self, packet: &mut [u8], at: usize, kind: Checksum) -> Correction {
        let Some(field) = packet.get_mut(at..at + 2).and_then(|field| <&mut [u8; 2]>::try_from(field).ok())
        else {
            return Correction::default();
        };
        if self == Correction::default() {
            return self;
        }
        let old = *field;
        let value = u16::from_be_bytes(old);
        let new = match kind {
            Checksum::Finished => !fold(u32::from(!value) + self.0),
            Checksum::Partial => fold(u32::from(value) + self.0),
        };
        *field = new.to_be_bytes();
        Correction::of(&old, field)
    }

    /// The same for a transport checksum: UDP says 0 for none, and all ones for 0.
    fn apply_to_transport(self, packet: &mut [u8], at: usize, kind: Checksum, protocol: u8) -> Correction {
        let before = packet.get(at..at + 2).map(|field| [field[0], field[1]]);
        let change = self.apply(packet, at, kind);
        match (before, packet.get_mut(at..at + 2)) {
            (Some(before), Some(field))
                if protocol == PROTOCOL_UDP && kind == Checksum::Finished && *field == [0, 0] =>
            {
                field.copy_from_slice(&[0xff; 2]);
                Correction::of(&before, field)
            }
            _ => change,
        }
    }
}

/// A ones' complement sum in 16 bits.
fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

#[cfg(test)]
mod tests;
