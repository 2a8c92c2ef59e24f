//! Source check: a decoy speaks with its own MAC and its own addresses, in Ethernet, IP, ARP and neighbour discovery
//! (RFC 826, RFC 4861), or not at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Refusal;
use crate::packet::{Arp, Ip, Layers, Mac, Network, Transport};

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Options of one neighbour message that are looked at; honest ones have one or two.
const OPTIONS_MAX: usize = 8;

/// What a vif may claim to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of its domain.
    pub domain: String,
    /// Number of its domain.
    pub domid: u32,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses; the link-local one that follows from the MAC is implied.
    pub addresses: Vec<IpAddr>,
}

impl Identity {
    /// True where the decoy may send from this address.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || address == IpAddr::V6(self.link_local())
    }

    /// The link-local address by EUI-64 (RFC 4291, appendix A).
    pub fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }
}

/// Refuses a frame that is broken, of a protocol that is not carried, or that claims another's address.
pub fn check_source(identity: &Identity, frame: &[u8], layers: &Layers) -> Result<(), Refusal> {
    if layers.source_mac != identity.mac {
        return Err(Refusal::SourceMac);
    }
    if let Some(malformed) = layers.malformed {
        return Err(Refusal::Malformed(malformed));
    }
    if layers.vlan.is_some() {
        return Err(Refusal::Protocol);
    }
    match &layers.network {
        Some(Network::Arp(arp)) => check_arp(identity, arp),
        Some(Network::Ip(ip)) if is_neighbour_discovery(layers) => {
            check_neighbour(identity, frame, layers, ip)
        }
        Some(Network::Ip(ip)) if identity.owns(ip.source) => Ok(()),
        Some(Network::Ip(_)) => Err(Refusal::SourceAddress),
        None => Err(Refusal::Protocol),
    }
}

/// True for the neighbour discovery that a host (not a router) sends.
pub fn is_neighbour_discovery(layers: &Layers) -> bool {
    matches!(&layers.transport, Some(Transport::Icmpv6(icmp))
        if matches!(icmp.kind, ROUTER_SOLICITATION | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT))
}

/// A probe (RFC 5227) has sender 0.0.0.0.
fn check_arp(identity: &Identity, arp: &Arp) -> Result<(), Refusal> {
    let is_probe = arp.operation == 1 && arp.sender_address == Ipv4Addr::UNSPECIFIED;
    let is_own = identity.addresses.contains(&IpAddr::V4(arp.sender_address));
    if arp.sender_mac == identity.mac && (is_own || is_probe) { Ok(()) } else { Err(Refusal::Resolution) }
}

fn check_neighbour(identity: &Identity, frame: &[u8], layers: &Layers, ip: &Ip) -> Result<(), Refusal> {
    // RFC 4861, 7.1: anything else was routed here, and an address resolution that leaves the link is none.
    if ip.ttl != 255 {
        return Err(Refusal::Resolution);
    }
    let Some(Transport::Icmpv6(icmp)) = &layers.transport else { return Err(Refusal::Resolution) };
    let is_detection = icmp.kind != NEIGHBOUR_ADVERTISEMENT && ip.source.is_unspecified();
    if !is_detection && !identity.owns(ip.source) {
        return Err(Refusal::SourceAddress);
    }
    let body = frame.get(layers.payload.clone()).unwrap_or_default();
    let options = match icmp.kind {
        ROUTER_SOLICITATION => body,
        _ => {
            let (target, options) = body.split_first_chunk::<16>().ok_or(Refusal::Resolution)?;
            let target = IpAddr::from(*target);
            if icmp.kind == NEIGHBOUR_ADVERTISEMENT && !identity.owns(target) {
                return Err(Refusal::Resolution);
            }
            options
        }
    };
    check_link_layer_options(identity, options)
}

/// Source and target link-layer address options (types 1 and 2) must hold the vif's own MAC.
fn check_link_layer_options(identity: &Identity, mut options: &[u8]) -> Result<(), Refusal> {
    for _ in 0..OPTIONS_MAX {
        let [kind, units, ..] = options else {
            return if options.is_empty() { Ok(()) } else { Err(Refusal::Resolution) };
        };
        let len = usize::from(*units) * 8;
        if len == 0 {
            return Err(Refusal::Resolution);
        }
        let option = options.get(..len).ok_or(Refusal::Resolution)?;
        if matches!(kind, 1 | 2) && option.get(2..8) != Some(identity.mac.as_slice()) {
            return Err(Refusal::Resolution);
        }
        options = options.get(len..).unwrap_or_default();
    }
    if options.is_empty() { Ok(()) } else { Err(Refusal::Resolution) }
}
