//! Containment: what a decoy may send. Source check, fence, allowed ports, replies, quota. Pure judgement on decoded
//! headers; the switch applies it.
//!
//! Not here: the inspector's verdict (drop, reject) and the buckets, which come after it; see `switch`.

mod profile;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket};
use pnet::ipnetwork::IpNetwork;

pub use profile::{Allow, Destination, Outbound, Profile, ProfileError, Protocol, Quota, Rate};
pub(crate) use source::is_neighbour_discovery;
pub use source::{Identity, check_source};

use crate::community_id::Endpoints;
use crate::flow::{Flow, FlowTable};
use crate::packet::{
    Direction, Layers, Malformed, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Tcp, Transport,
};

/// Domains whose quota is kept at a time; more than ports can exist.
const QUOTA_DOMAINS_MAX: usize = 1024;
const HOUR_US: u64 = 3_600_000_000;

/// Networks that no decoy ever reaches, whatever the profile says: this host by loopback, and the metadata services of
/// clouds, which hand out credentials.
const FENCE_ALWAYS: [&str; 5] =
    ["127.0.0.0/8", "::1/128", "169.254.169.254/32", "fd00:ec2::254/128", "168.63.129.16/32"];

/// Why a frame of a decoy goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// It breaks the specification of a layer.
    #[error("malformed: {0}")]
    Malformed(Malformed),
    /// The source MAC is not the vif's.
    #[error("source mac is not the decoy's")]
    SourceMac,
    /// The source address is not the decoy's.
    #[error("source address is not the decoy's")]
    SourceAddress,
    /// ARP or neighbour discovery claims what is not the decoy's.
    #[error("address resolution claims another's address")]
    Resolution,
    /// Not IP, not ARP, or tagged.
    #[error("protocol is not carried")]
    Protocol,
    /// A fragment: its ports cannot be judged.
    #[error("fragments are not carried")]
    Fragment,
    /// To the host or a management network.
    #[error("destination is behind the fence")]
    Fence,
    /// Begun by the decoy, and the profile wants replies only.
    #[error("not a reply")]
    NotAReply,
    /// The profile's quota of this hour is used up.
    #[error("quota of this hour is used up")]
    Quota,
    /// More than the profile's bytes or packets a second.
    #[error("rate limit")]
    Rate,
    /// The inspector's rule says drop or reject.
    #[error("dropped by a rule")]
    Rule,
    /// A clone's frame for somebody else than its own source.
    #[error("a clone speaks to its own source only")]
    OtherSource,
}

impl Refusal {
    /// The word in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::SourceMac => "source-mac",
            Refusal::SourceAddress => "source-address",
            Refusal::Resolution => "resolution",
            Refusal::Protocol => "protocol",
            Refusal::Fragment => "fragment",
            Refusal::Fence => "fence",
            Refusal::NotAReply => "not-a-reply",
            Refusal::Quota => "quota",
            Refusal::Rate => "rate",
            Refusal::Rule => "rule",
            Refusal::OtherSource => "other-source",
        }
    }
}

/// What the switch does with a frame of a decoy that belongs to no flow yet, or to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Address resolution and other traffic without a flow.
    Unflowed,
    /// Part of a known flow.
    Known,
    /// The decoy may begin this flow.
    Begin,
}

/// The profile in force, the fence, and the quotas used so far.
#[derive(Debug)]
pub struct Containment {
    profile: Profile,
    fence: Vec<IpNetwork>,
    loghost: Vec<IpAddr>,
    quotas: HashMap<u32, QuotaUse>,
}

#[derive(Debug, Default)]
struct QuotaUse {
    hour: u64,
    used: [u32; 4],
}

impl Containment {
    /// `fence`: the host's and the management's networks; `loghost`: the addresses where the house takes syslog.
    pub fn new(profile: Profile, fence: Vec<IpNetwork>, loghost: Vec<IpAddr>) -> Containment {
        Containment { profile, fence: whole_fence(fence), loghost, quotas: HashMap::new() }
    }

    /// The profile in force.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Judges a frame that a decoy sent, up to the inspector: source check, fence, allowed ports, replies, quota.
    pub fn judge(
        &mut self,
        identity: &Identity,
        frame: &[u8],
        layers: &Layers,
        flow: Option<&Flow>,
        flows: &FlowTable,
        now_us: u64,
    ) -> Result<Passage, Refusal> {
        check_source(identity, frame, layers)?;
        let Some(ip) = layers.ip() else { return Ok(Passage::Unflowed) };
        if source::is_neighbour_discovery(layers) {
            return Ok(Passage::Unflowed);
        }
        if self.is_fenced(ip.destination) {
            return Err(Refusal::Fence);
        }
        if ip.is_fragment() {
            return Err(Refusal::Fragment);
        }
        if let Some(flow) = flow {
            return if opens_backwards(flow, layers) { Err(Refusal::NotAReply) } else { Ok(Passage::Known) };
        }
        if self.allows(layers) {
            return Ok(Passage::Begin);
        }
        if let Some(about) = icmp_error_about(frame, layers) {
            let is_known = flows.find(&about).is_some();
            return if is_known { Ok(Passage::Unflowed) } else { Err(Refusal::NotAReply) };
        }
        match self.profile.outbound {
            Outbound::Refuse => Err(Refusal::NotAReply),
            Outbound::Quota => self.take_quota(identity.domid, ip.protocol, now_us),
            Outbound::Open => Ok(Passage::Begin),
        }
    }

    /// True for an address that no decoy reaches.
    pub fn is_fenced(&self, address: IpAddr) -> bool {
        self.fence.iter().any(|network| network.contains(address))
    }

    /// What a domain has used of this hour's quota: TCP, UDP, ICMP, others.
    pub fn used(&self, domid: u32, now_us: u64) -> [u32; 4] {
        let usage = self.quotas.get(&domid).filter(|usage| usage.hour == now_us / HOUR_US);
        usage.map_or([0; 4], |usage| usage.used)
    }

    /// A domain has used so much of this hour's quota elsewhere.
    pub fn take_used(&mut self, domid: u32, used: [u32; 4], now_us: u64) {
        if used != [0; 4] && self.quotas.len() < QUOTA_DOMAINS_MAX {
            self.quotas.insert(domid, QuotaUse { hour: now_us / HOUR_US, used });
        }
    }

    /// Forgets what a domain that is gone has used up; domids are not given twice.
    pub fn forget(&mut self, domid: u32) {
        self.quotas.remove(&domid);
    }

    /// True where the profile names this destination among those that a decoy may always begin a flow with.
    pub fn allows(&self, layers: &Layers) -> bool {
        let (Some(ip), Some((_, port))) = (layers.ip(), layers.ports()) else { return false };
        self.profile.allow.iter().any(|allow| {
            let is_there = match &allow.to {
                Destination::Loghost => self.loghost.contains(&ip.destination),
                Destination::Network(network) => network.contains(ip.destination),
            };
            is_there && allow.port == port && allow.proto.number() == ip.protocol
        })
    }

    fn take_quota(&mut self, domid: u32, protocol: u8, now_us: u64) -> Result<Passage, Refusal> {
        let (slot, most) = match protocol {
            PROTOCOL_TCP => (0, self.profile.quota.tcp),
            PROTOCOL_UDP => (1, self.profile.quota.udp),
            PROTOCOL_ICMP => (2, self.profile.quota.icmp),
            _ => (3, self.profile.quota.other),
        };
        if self.quotas.len() >= QUOTA_DOMAINS_MAX && !self.quotas.contains_key(&domid) {
            return Err(Refusal::Quota);
        }
        let usage = self.quotas.entry(domid).or_default();
        let hour = now_us / HOUR_US;
        if usage.hour != hour {
            *usage = QuotaUse { hour, used: [0; 4] };
        }
        if usage.used[slot] >= most {
            return Err(Refusal::Quota);
        }
        usage.used[slot] += 1;
        Ok(Passage::Begin)
    }
}

/// The fence as it holds: with the networks that are always behind it.
pub fn whole_fence(fence: Vec<IpNetwork>) -> Vec<IpNetwork> {
    let always = FENCE_ALWAYS.iter().filter_map(|network| network.parse().ok());
    fence.into_iter().chain(always).collect()
}

/// A bare SYN of a decoy inside a flow that somebody else began: it would open a connection of its own under the cover
/// of a port that an accomplice touched first.
fn opens_backwards(flow: &Flow, layers: &Layers) -> bool {
    flow.begun == Direction::ToDecoy
        && layers.tcp().is_some_and(|tcp| tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN)
}

/// The flow that an ICMP error is about, as the quoted packet names it.
pub(crate) fn icmp_error_about(frame: &[u8], layers: &Layers) -> Option<Endpoints> {
    match &layers.transport {
        Some(Transport::Icmp(icmp)) if matches!(icmp.kind, 3 | 11 | 12) => {}
        Some(Transport::Icmpv6(icmp)) if matches!(icmp.kind, 1..=4) => {}
        _ => return None,
    }
    let quoted = LaxSlicedPacket::from_ip(frame.get(layers.payload.clone())?).ok()?;
    let (source, destination) = match quoted.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        LaxNetSlice::Arp(_) => return None,
    };
    let payload = quoted.net.as_ref()?.ip_payload_ref()?;
    let protocol = payload.ip_number.0;
    let (source_port, destination_port) = match (protocol, payload.payload) {
        (PROTOCOL_TCP | PROTOCOL_UDP, [a, b, c, d, ..]) => {
            (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
        }
        _ => return None,
    };
    Some(Endpoints { source, destination, protocol, source_port, destination_port })
}
