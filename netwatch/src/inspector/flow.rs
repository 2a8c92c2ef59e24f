//! The flow table: who talks with whom, who began, how far TCP's handshake is. Bounded; the flow that was silent longest goes
//! first. A flow that ends becomes a `FlowRecord`.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use events::FlowTuple;
use lru::LruCache;

use super::rule::Sender;
use super::stream::Stream;
use crate::community_id::{Endpoints, community_id};
use crate::packet::{Direction, Ip, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Packet, Tcp};

/// Flows at a time.
const FLOWS_MAX: NonZeroUsize = NonZeroUsize::new(131_072).expect("not zero");
/// Bytes of reassembled data of all flows together.
const STREAM_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Ended flows that wait for `expire`.
const ENDED_MAX: usize = 16_384;
/// Flowbits set on one flow.
const FLOWBITS_MAX: usize = 64;

const SECOND_US: u64 = 1_000_000;
/// An established TCP connection may be silent this long.
const ESTABLISHED_TIMEOUT_US: u64 = 3600 * SECOND_US;
/// A handshake may take this long.
const HANDSHAKE_TIMEOUT_US: u64 = 60 * SECOND_US;
/// A closed connection is remembered this long for late segments.
const CLOSED_TIMEOUT_US: u64 = 10 * SECOND_US;
/// UDP, ICMP and the rest.
const DATAGRAM_TIMEOUT_US: u64 = 60 * SECOND_US;

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowState {
    /// Not TCP; the other side has not answered.
    New,
    /// SYN seen.
    SynSent,
    /// SYN and SYN-ACK seen.
    SynReceived,
    /// Handshake complete, or the flow was met in its middle, or both sides sent a datagram.
    Established,
    /// One side closed.
    Closing,
    /// Both sides closed, or a reset.
    Closed,
}

impl FlowState {
    /// As Suricata writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            FlowState::New | FlowState::SynSent | FlowState::SynReceived => "new",
            FlowState::Established | FlowState::Closing => "established",
            FlowState::Closed => "closed",
        }
    }
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowEnd {
    /// Closed by its ends.
    Closed,
    /// Silent for too long.
    Timeout,
    /// The table was full.
    Evicted,
    /// netwatch ends.
    Shutdown,
}

/// A flow that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRecord {
    /// Addresses and ports, the client as source.
    pub flow: Arc<FlowTuple>,
    /// Which way its first packet went.
    pub direction: Direction,
    /// First packet, microseconds since the Unix epoch.
    pub start_us: u64,
    /// Last packet, microseconds since the Unix epoch.
    pub end_us: u64,
    /// Packets from the client.
    pub packets_to_server: u64,
    /// Packets from the server.
    pub packets_to_client: u64,
    /// Bytes of frames from the client.
    pub bytes_to_server: u64,
    /// Bytes of frames from the server.
    pub bytes_to_client: u64,
    /// State at the end.
    pub state: FlowState,
    /// Why it ended.
    pub reason: FlowEnd,
    /// Alerts on it.
    pub alerts: u32,
}

/// Both ends of a flow, the lower one first, so that both directions have one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    protocol: u8,
    low: (IpAddr, u16),
    high: (IpAddr, u16),
}

impl FlowKey {
    fn new(ip: &Ip, ports: (u16, u16)) -> FlowKey {
        let (source, destination) = ((ip.source, ports.0), (ip.destination, ports.1));
        let (low, high) = if source <= destination { (source, destination) } else { (destination, source) };
        FlowKey { protocol: ip.protocol, low, high }
    }
}

/// A flow.
#[derive(Debug)]
pub struct Flow {
    /// Addresses and ports, the client as source.
    pub tuple: Arc<FlowTuple>,
    /// How far it is.
    pub state: FlowState,
    /// A rule said to drop it.
    pub blocked: bool,
    /// Alerts on it.
    pub alerts: u32,
    client: (IpAddr, u16),
    direction: Direction,
    streams: [Stream; 2],
    last_sender: Option<Sender>,
    closed_by: Option<Sender>,
    flowbits: Vec<u16>,
    start_us: u64,
    end_us: u64,
    packets: [u64; 2],
    bytes: [u64; 2],
}

impl Flow {
    fn new(id: u64, packet: &Packet<'_>, ip: &Ip, ports: (u16, u16), direction: Direction) -> Flow {
        let (mut client, mut server) = ((ip.source, ports.0), (ip.destination, ports.1));
        let mut state = FlowState::New;
        if let Some(tcp) = packet.layers.tcp() {
            state = FlowState::first_of_tcp(tcp);
            // Met in its middle: the side with the lower port, or that answers a SYN, is the server.
            let from_server = match state {
                FlowState::SynReceived => true,
                FlowState::Established => tcp.source_port < tcp.destination_port,
                _ => false,
            };
            if from_server {
                std::mem::swap(&mut client, &mut server);
            }
        }
        Flow {
            tuple: Arc::new(tuple(id, ip.protocol, client, server)),
            state,
            blocked: false,
            alerts: 0,
            client,
            direction,
            streams: Default::default(),
            last_sender: None,
            closed_by: None,
            flowbits: Vec::new(),
            start_us: packet.time_us,
            end_us: packet.time_us,
            packets: [0; 2],
            bytes: [0; 2],
        }
    }

    /// Which side sent a packet with this source.
    pub fn sender(&self, source: (IpAddr, u16)) -> Sender {
        if source == self.client { Sender::Client } else { Sender::Server }
    }

    /// The stream of this side.
    pub fn stream(&mut self, sender: Sender) -> &mut Stream {
        &mut self.streams[side(sender)]
    }

    /// The handshake is behind it.
    pub fn is_established(&self) -> bool {
        matches!(self.state, FlowState::Established | FlowState::Closing | FlowState::Closed)
    }

    /// Whether a flowbit is set.
    pub fn has_bit(&self, bit: u16) -> bool {
        self.flowbits.contains(&bit)
    }

    /// Sets a flowbit.
    pub fn set_bit(&mut self, bit: u16) {
        if !self.has_bit(bit) && self.flowbits.len() < FLOWBITS_MAX {
            self.flowbits.push(bit);
        }
    }

    /// Clears a flowbit.
    pub fn clear_bit(&mut self, bit: u16) {
        self.flowbits.retain(|set| *set != bit);
    }

    /// Takes a segment's data. Gives the index in the sender's message from which on the bytes are new.
    pub fn push(&mut self, sender: Sender, tcp: &Tcp, data: &[u8]) -> Option<usize> {
        if data.is_empty() {
            return None;
        }
        if self.last_sender != Some(sender) {
            self.stream(sender).end_message();
            self.last_sender = Some(sender);
        }
        let sequence = tcp.sequence.wrapping_add(u32::from(tcp.flags & Tcp::SYN != 0));
        self.stream(sender).push(sequence, data)
    }

    fn held_len(&self) -> usize {
        self.streams.iter().map(Stream::held_len).sum()
    }

    fn count(&mut self, sender: Sender, packet: &Packet<'_>) {
        self.end_us = self.end_us.max(packet.time_us);
        self.packets[side(sender)] += 1;
        self.bytes[side(sender)] += u64::try_from(packet.frame.len()).unwrap_or(u64::MAX);
    }

    /// Follows TCP's states; for other protocols an answer makes a flow established.
    fn advance(&mut self, sender: Sender, tcp: Option<&Tcp>) {
        let Some(tcp) = tcp else {
            if sender == Sender::Server {
                self.state = FlowState::Established;
            }
            return;
        };
        let has = |flag| tcp.flags & flag != 0;
        self.state = match self.state {
            _ if has(Tcp::RST) => FlowState::Closed,
            FlowState::SynSent if has(Tcp::SYN) && has(Tcp::ACK) && sender == Sender::Server => {
                FlowState::SynReceived
            }
            FlowState::SynReceived if has(Tcp::ACK) && sender == Sender::Client => FlowState::Established,
            // A probe that belonged to nothing came first.
            FlowState::New => FlowState::first_of_tcp(tcp),
            FlowState::Established if has(Tcp::FIN) => FlowState::Closing,
            FlowState::Closing if has(Tcp::FIN) && self.closed_by != Some(sender) => FlowState::Closed,
            same => same,
        };
        if has(Tcp::FIN) && self.closed_by.is_none() {
            self.closed_by = Some(sender);
        }
        if has(Tcp::SYN) && self.packets[side(sender)] == 0 {
            self.stream(sender).open(tcp.sequence);
        }
    }

    fn timeout_us(&self) -> u64 {
        match self.state {
            FlowState::SynSent | FlowState::SynReceived => HANDSHAKE_TIMEOUT_US,
            FlowState::Closed => CLOSED_TIMEOUT_US,
            FlowState::Established | FlowState::Closing if self.tuple.proto == "TCP" => {
                ESTABLISHED_TIMEOUT_US
            }
            FlowState::New | FlowState::Established | FlowState::Closing => DATAGRAM_TIMEOUT_US,
        }
    }

    fn into_record(self, reason: FlowEnd) -> FlowRecord {
        FlowRecord {
            flow: self.tuple,
            direction: self.direction,
            start_us: self.start_us,
            end_us: self.end_us,
            packets_to_server: self.packets[0],
            packets_to_client: self.packets[1],
            bytes_to_server: self.bytes[0],
            bytes_to_client: self.bytes[1],
            state: self.state,
            reason,
            alerts: self.alerts,
        }
    }
}

impl FlowState {
    fn first_of_tcp(tcp: &Tcp) -> FlowState {
        match (tcp.flags & Tcp::SYN != 0, tcp.flags & Tcp::ACK != 0, tcp.flags & Tcp::RST != 0) {
            (_, _, true) => FlowState::Closed,
            (true, false, _) => FlowState::SynSent,
            (true, true, _) => FlowState::SynReceived,
            // Data or an acknowledgment without a handshake: netwatch came later than the connection.
            (false, true, _) => FlowState::Established,
            // Probes without ACK (null, FIN, Xmas scans) belong to no connection.
            (false, false, _) => FlowState::New,
        }
    }
}

fn side(sender: Sender) -> usize {
    match sender {
        Sender::Client => 0,
        Sender::Server => 1,
    }
}

fn tuple(flow_id: u64, protocol: u8, client: (IpAddr, u16), server: (IpAddr, u16)) -> FlowTuple {
    let proto = match protocol {
        PROTOCOL_TCP => "TCP".to_owned(),
        PROTOCOL_UDP => "UDP".to_owned(),
        PROTOCOL_ICMP => "ICMP".to_owned(),
        PROTOCOL_ICMPV6 => "ICMPv6".to_owned(),
        other => other.to_string(),
    };
    // The specification numbers ICMP flows by type and code; they are no part of our key, so ICMP has no id.
    let has_ports = matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP);
    FlowTuple {
        flow_id,
        src_ip: client.0,
        src_port: client.1,
        dest_ip: server.0,
        dest_port: server.1,
        proto,
        community_id: has_ports.then(|| {
            community_id(&Endpoints {
                source: client.0,
                destination: server.0,
                protocol,
                source_port: client.1,
                destination_port: server.1,
            })
        }),
    }
}

/// All flows.
#[derive(Debug)]
pub struct FlowTable {
    flows: LruCache<FlowKey, Flow>,
    ended: VecDeque<FlowRecord>,
    next_id: u64,
    held_bytes: usize,
}

impl Default for FlowTable {
    fn default() -> FlowTable {
        FlowTable { flows: LruCache::unbounded(), ended: VecDeque::new(), next_id: 1, held_bytes: 0 }
    }
}

impl FlowTable {
    /// The packet's flow, made if there is none, with the packet counted; and who sent it.
    pub fn track(&mut self, packet: &Packet<'_>, ip: &Ip, direction: Direction) -> Option<(FlowKey, Sender)> {
        let ports = packet.layers.ports().unwrap_or((0, 0));
        let key = FlowKey::new(ip, ports);
        if self.flows.peek(&key).is_some_and(|flow| begins_anew(flow, packet)) {
            self.end(&key, FlowEnd::Closed);
        }
        if !self.flows.contains(&key) {
            self.make_room();
            self.flows.put(key, Flow::new(self.next_id, packet, ip, ports, direction));
            self.next_id += 1;
        }
        let flow = self.flows.get_mut(&key)?;
        let sender = flow.sender((ip.source, ports.0));
        flow.advance(sender, packet.layers.tcp());
        flow.count(sender, packet);
        Some((key, sender))
    }

    /// A flow by its key.
    pub fn get_mut(&mut self, key: &FlowKey) -> Option<&mut Flow> {
        self.flows.peek_mut(key)
    }

    /// Lets the flow take a segment, and frees other flows' data when all together hold too much.
    pub fn push(&mut self, key: &FlowKey, sender: Sender, tcp: &Tcp, data: &[u8]) -> Option<usize> {
        let flow = self.flows.peek_mut(key)?;
        let before = flow.held_len();
        let start = flow.push(sender, tcp, data);
        self.held_bytes = (self.held_bytes + flow.held_len()).saturating_sub(before);
        while self.held_bytes > STREAM_BYTES_MAX && self.flows.len() > 1 {
            self.evict();
        }
        start
    }

    /// Flows at present.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Takes the flows that ended until now; those whose time is over end now.
    pub fn expire(&mut self, now_us: u64) -> Vec<FlowRecord> {
        let over = |flow: &Flow| now_us.saturating_sub(flow.end_us) > flow.timeout_us();
        let keys: Vec<FlowKey> =
            self.flows.iter().filter(|(_, flow)| over(flow)).map(|(key, _)| *key).collect();
        for key in keys {
            let closed = self.flows.peek(&key).is_some_and(|flow| flow.state == FlowState::Closed);
            self.end(&key, if closed { FlowEnd::Closed } else { FlowEnd::Timeout });
        }
        self.ended.drain(..).collect()
    }

    /// Ends all flows.
    pub fn end_all(&mut self) -> Vec<FlowRecord> {
        while let Some((_, flow)) = self.flows.pop_lru() {
            let reason = if flow.state == FlowState::Closed { FlowEnd::Closed } else { FlowEnd::Shutdown };
            self.ended.push_back(flow.into_record(reason));
        }
        self.held_bytes = 0;
        self.ended.drain(..).collect()
    }

    fn make_room(&mut self) {
        while self.flows.len() >= FLOWS_MAX.get() {
            self.evict();
        }
    }

    fn evict(&mut self) {
        if let Some((_, flow)) = self.flows.pop_lru() {
            self.keep_record(flow, FlowEnd::Evicted);
        }
    }

    fn end(&mut self, key: &FlowKey, reason: FlowEnd) {
        if let Some(flow) = self.flows.pop(key) {
            self.keep_record(flow, reason);
        }
    }

    fn keep_record(&mut self, flow: Flow, reason: FlowEnd) {
        self.held_bytes = self.held_bytes.saturating_sub(flow.held_len());
        if self.ended.len() >= ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(flow.into_record(reason));
    }
}

/// A SYN on a connection that is over, or a datagram after the timeout, begins a new flow with the same ends.
fn begins_anew(flow: &Flow, packet: &Packet<'_>) -> bool {
    let new_connection = packet.layers.tcp().is_some_and(|tcp| tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN);
    let silent = packet.time_us.saturating_sub(flow.end_us) > flow.timeout_us();
    silent || (new_connection && flow.state == FlowState::Closed)
}
