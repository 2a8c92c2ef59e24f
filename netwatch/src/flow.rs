//! Flows: who began each, what went each way, when it ends. The table that containment asks and `flow.end` comes from.
//!
//! The table is bounded. A full one gives up the flow that was idle longest of a few looked at, so that a flood of new
//! flows pushes out its own kind before it pushes out busy ones.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use events::FlowTuple;

use crate::community_id::{Endpoints, community_id};
use crate::packet::{
    Direction, Layers, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Tcp, Transport,
};

mod moved;
#[cfg(test)]
mod tests;

pub use moved::MovedFlow;

/// Flows that are known at a time. At about 250 bytes each the table stays under 20 MB.
pub const FLOWS_MAX: usize = 65_536;
/// Flows that are looked at to find one to give up.
const EVICTION_STEPS_MAX: usize = 16;

const SECOND_US: u64 = 1_000_000;
/// An established TCP flow without a packet; shorter than Linux's keepalive of two hours on purpose: decoys are many.
const TCP_IDLE_US: u64 = 3600 * SECOND_US;
/// A TCP flow that was not answered yet, or has been closed by both sides or reset.
const TCP_OPENING_US: u64 = 60 * SECOND_US;
const TCP_CLOSED_US: u64 = 5 * SECOND_US;
const UDP_IDLE_US: u64 = 120 * SECOND_US;
const OTHER_IDLE_US: u64 = 30 * SECOND_US;

/// What names a flow: the same for both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    protocol: u8,
    low: (IpAddr, u16),
    high: (IpAddr, u16),
}

impl FlowKey {
    /// The key of a flow with these ends.
    pub fn new(ends: &Endpoints) -> FlowKey {
        let a = (ends.source, ends.source_port);
        let b = (ends.destination, ends.destination_port);
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        FlowKey { protocol: ends.protocol, low, high }
    }
}

/// The ends of the flow that a decoded packet belongs to. ICMP echo has its identifier on both sides in place of ports;
/// other ICMP, fragments and undecoded protocols have 0. `None` where there is no IP.
pub fn endpoints(layers: &Layers) -> Option<Endpoints> {
    let ip = layers.ip()?;
    let (source_port, destination_port) = match &layers.transport {
        Some(Transport::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(Transport::Udp(udp)) => (udp.source_port, udp.destination_port),
        Some(Transport::Icmp(icmp)) if matches!(icmp.kind, 0 | 8) => (icmp.identifier, icmp.identifier),
        Some(Transport::Icmpv6(icmp)) if matches!(icmp.kind, 128 | 129) => (icmp.identifier, icmp.identifier),
        Some(Transport::Icmp(_) | Transport::Icmpv6(_)) | None => (0, 0),
    };
    Some(Endpoints {
        source: ip.source,
        destination: ip.destination,
        protocol: ip.protocol,
        source_port,
        destination_port,
    })
}

/// Packets and bytes of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames; an offload frame counts as one.
    pub packets: u64,
    /// Bytes of whole frames.
    pub bytes: u64,
}

/// One flow.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Number, unique within one run.
    pub flow_id: u64,
    /// As in its first packet.
    pub ends: Endpoints,
    /// ICMP type and code of the first packet; the community id wants them in the ports' place.
    icmp_kind: Option<(u16, u16)>,
    /// Who began it.
    pub begun: Direction,
    /// The decoy's domain.
    pub domid: u32,
    /// From the side that began it.
    pub forth: Count,
    /// From the other side.
    pub back: Count,
    /// First packet, microseconds since the epoch.
    pub start_us: u64,
    /// Last packet.
    pub last_us: u64,
    fin_seen: [bool; 2],
    reset_seen: bool,
    recently_used: bool,
}

impl Flow {
    /// The flow as events show it, in the direction of its first packet.
    pub fn tuple(&self) -> FlowTuple {
        tuple(&self.ends, self.icmp_kind, self.flow_id)
    }

    /// Bytes of both directions.
    pub fn bytes(&self) -> u64 {
        self.forth.bytes + self.back.bytes
    }

    /// `closed` or `reset` by TCP itself; `timeout` else.
    pub fn end_reason(&self) -> &'static str {
        match (self.reset_seen, self.fin_seen) {
            (true, _) => "reset",
            (false, [true, true]) => "closed",
            (false, _) => "timeout",
        }
    }

    fn expires_us(&self) -> u64 {
        let closed = self.reset_seen || self.fin_seen == [true, true];
        let idle = match self.ends.protocol {
            PROTOCOL_TCP if closed => TCP_CLOSED_US,
            PROTOCOL_TCP if self.back.packets == 0 => TCP_OPENING_US,
            PROTOCOL_TCP => TCP_IDLE_US,
            PROTOCOL_UDP => UDP_IDLE_US,
            _ => OTHER_IDLE_US,
        };
        self.last_us.saturating_add(idle)
    }

    fn count(&mut self, ends: &Endpoints, layers: &Layers, bytes: usize, now_us: u64) {
        let is_forth = (ends.source, ends.source_port) == (self.ends.source, self.ends.source_port);
        let count = if is_forth { &mut self.forth } else { &mut self.back };
        count.packets += 1;
        count.bytes += bytes as u64;
        self.last_us = now_us;
        self.recently_used = true;
        if let Some(tcp) = layers.tcp() {
            self.reset_seen |= tcp.flags & Tcp::RST != 0;
            self.fin_seen[usize::from(is_forth)] |= tcp.flags & Tcp::FIN != 0;
        }
    }
}

/// A flow as events show it.
pub fn tuple(ends: &Endpoints, icmp_kind: Option<(u16, u16)>, flow_id: u64) -> FlowTuple {
    let (source_port, destination_port) = icmp_kind.unwrap_or((ends.source_port, ends.destination_port));
    let hashed = Endpoints { source_port, destination_port, ..*ends };
    let proto = match ends.protocol {
        PROTOCOL_TCP => "TCP".to_owned(),
        PROTOCOL_UDP => "UDP".to_owned(),
        PROTOCOL_ICMP => "ICMP".to_owned(),
        PROTOCOL_ICMPV6 => "ICMPv6".to_owned(),
        other => other.to_string(),
    };
    let has_ports = icmp_kind.is_none();
    FlowTuple {
        flow_id,
        src_ip: ends.source,
        src_port: if has_ports { ends.source_port } else { 0 },
        dest_ip: ends.destination,
        dest_port: if has_ports { ends.destination_port } else { 0 },
        proto,
        community_id: Some(community_id(&hashed)),
    }
}

/// ICMP type and code of a packet.
pub fn icmp_kind(layers: &Layers) -> Option<(u16, u16)> {
    match &layers.transport {
        Some(Transport::Icmp(icmp) | Transport::Icmpv6(icmp)) => Some((icmp.kind.into(), icmp.code.into())),
        Some(Transport::Tcp(_) | Transport::Udp(_)) | None => None,
    }
}

/// All flows of the house.
#[derive(Debug)]
pub struct FlowTable {
    flows: HashMap<FlowKey, Flow>,
    // Every key of `flows` once, in the order in which they were last looked at for eviction.
    order: VecDeque<FlowKey>,
    next_id: u64,
    flows_max: usize,
}

impl Default for FlowTable {
    fn default() -> FlowTable {
        FlowTable::with_limit(FLOWS_MAX)
    }
}

impl FlowTable {
    /// A table of at most this many flows.
    pub fn with_limit(flows_max: usize) -> FlowTable {
        FlowTable { flows: HashMap::new(), order: VecDeque::new(), next_id: 1, flows_max }
    }

    /// The number for the next flow, also for one that is refused and never enters the table.
    pub fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// The flow of this packet, counted; `None` where there is none yet.
    pub fn seen(&mut self, layers: &Layers, ends: &Endpoints, bytes: usize, now_us: u64) -> Option<&Flow> {
        let key = FlowKey::new(ends);
        let flow = self.flows.get_mut(&key)?;
        if flow.expires_us() < now_us || reopens(flow, layers) {
            return None;
        }
        flow.count(ends, layers, bytes, now_us);
        Some(flow)
    }

    /// The flow with these ends, not counted.
    pub fn find(&self, ends: &Endpoints) -> Option<&Flow> {
        self.flows.get(&FlowKey::new(ends))
    }

    /// Begins a flow with its first packet. Returns the flows that had to go: an old one with the same ends, or one
    /// that made room.
    pub fn begin(&mut self, first: FirstPacket<'_>, now_us: u64) -> Vec<Flow> {
        let key = FlowKey::new(&first.ends);
        let mut ended: Vec<Flow> = self.flows.remove(&key).into_iter().collect();
        if ended.is_empty() {
            if self.flows.len() >= self.flows_max {
                ended.extend(self.evict());
            }
            self.order.push_back(key);
        }
        let mut flow = Flow {
            flow_id: self.take_id(),
            ends: first.ends,
            icmp_kind: icmp_kind(first.layers),
            begun: first.begun,
            domid: first.domid,
            forth: Count::default(),
            back: Count::default(),
            start_us: now_us,
            last_us: now_us,
            fin_seen: [false; 2],
            reset_seen: false,
            recently_used: false,
        };
        flow.count(&first.ends, first.layers, first.bytes, now_us);
        self.flows.insert(key, flow);
        ended
    }

    /// Takes out every flow that has timed out.
    pub fn expire(&mut self, now_us: u64) -> Vec<Flow> {
        let ended: Vec<Flow> =
            self.flows.extract_if(|_, flow| flow.expires_us() < now_us).map(|(_, flow)| flow).collect();
        if !ended.is_empty() {
            self.order.retain(|key| self.flows.contains_key(key));
        }
        ended
    }

    /// Takes out every flow that is meant: those of a domain that is gone, or of a source that has another clone now.
    pub fn end_where(&mut self, is_meant: impl Fn(&Flow) -> bool) -> Vec<Flow> {
        let ended: Vec<Flow> =
            self.flows.extract_if(|_, flow| is_meant(flow)).map(|(_, flow)| flow).collect();
        if !ended.is_empty() {
            self.order.retain(|key| self.flows.contains_key(key));
        }
        ended
    }

    /// Number of flows in the table.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// True where there are none.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Second chance: a flow that was used since it was last looked at goes to the back.
    fn evict(&mut self) -> Option<Flow> {
        for _ in 0..EVICTION_STEPS_MAX {
            let key = self.order.pop_front()?;
            match self.flows.get_mut(&key) {
                Some(flow) if flow.recently_used => {
                    flow.recently_used = false;
                    self.order.push_back(key);
                }
                _ => return self.flows.remove(&key),
            }
        }
        let key = self.order.pop_front()?;
        self.flows.remove(&key)
    }
}

/// What is known of a flow when it begins.
#[derive(Debug, Clone, Copy)]
pub struct FirstPacket<'a> {
    /// Its headers.
    pub layers: &'a Layers,
    /// Its ends.
    pub ends: Endpoints,
    /// Length of the frame in bytes.
    pub bytes: usize,
    /// Who sent it.
    pub begun: Direction,
    /// The decoy's domain.
    pub domid: u32,
}

/// A bare SYN on a flow that is over: the same ports, another connection, and whoever sends it is its beginner.
fn reopens(flow: &Flow, layers: &Layers) -> bool {
    let over = flow.reset_seen || flow.fin_seen == [true, true];
    over && layers.tcp().is_some_and(|tcp| tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN)
}
