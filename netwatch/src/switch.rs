//! The switch: which frame goes where. Every frame of every vif is judged here; no I/O, no clock.
//!
//! Order of judgement for what a decoy sends: source check, fence, allowed ports, replies or quota (`containment`), the
//! inspector, the bucket, delivery. What comes from outside is inspected and delivered; it begins flows.
//! The gateway's TAP and real interfaces are not bridged with each other.

mod notice;
mod reset;
mod table;
#[cfg(test)]
mod tests;

use events::{Event, EventId};

use crate::bucket::Bucket;
use crate::capture::{Capture, CaptureLimits};
use crate::containment::{Containment, Identity, Passage, Refusal};
use crate::flow::{FirstPacket, Flow, FlowTable, endpoints};
use crate::inspector::{Action, AlertRecord, Inspector};
use crate::packet::{Direction, Mac, Packet};
use notice::Notices;
pub use notice::timestamp;
use table::MacTable;

/// Ports of one switch: vifs and uplinks.
pub const PORTS_MAX: usize = 256;
/// Events that wait for the emitter between two rounds; more are dropped and counted.
const EVENTS_MAX: usize = 4096;

/// A port's place in the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(usize);

/// What is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortKind {
    /// A decoy.
    Vif(Identity),
    /// The TAP of the honeynet's own namespace: gateway, log host, relay.
    Gateway,
    /// A real network. With a MAC, it is the network of that vif alone (macvlan).
    Interface(Option<Mac>),
}

/// Why a port cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// All places are taken.
    #[error("switch has {PORTS_MAX} ports already")]
    Full,
    /// Another vif has the MAC.
    #[error("another port has this mac")]
    MacInUse,
}

/// What went through a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct PortCount {
    /// Frames that came in through the port.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames that went out through it.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Frames from it that were refused.
    pub frames_refused: u64,
}

struct SwitchPort {
    kind: PortKind,
    count: PortCount,
    bucket: Option<Bucket>,
    capture: Option<Capture>,
}

/// Where a frame goes. Reused between frames.
#[derive(Debug, Default)]
pub struct Delivery {
    /// The frame goes to these ports, as it is.
    pub ports: Vec<PortId>,
    /// Frames that the switch itself sends.
    pub made: Vec<(PortId, Vec<u8>)>,
}

/// How much of one flow is captured.
#[derive(Debug, Clone)]
pub struct CapturePolicy {
    /// Files.
    pub limits: CaptureLimits,
    /// Bytes of one flow after which its packets are captured no more.
    pub flow_bytes_max: u64,
}

/// The switch.
pub struct Switch {
    ports: Vec<Option<SwitchPort>>,
    macs: MacTable,
    flows: FlowTable,
    containment: Containment,
    inspector: Inspector,
    notices: Notices,
    capture: Option<CapturePolicy>,
    events: Vec<Event>,
    events_dropped: u64,
}

impl Switch {
    /// A switch without ports.
    pub fn new(containment: Containment, inspector: Inspector, capture: Option<CapturePolicy>) -> Switch {
        Switch {
            ports: Vec::new(),
            macs: MacTable::default(),
            flows: FlowTable::default(),
            containment,
            inspector,
            notices: Notices::default(),
            capture,
            events: Vec::new(),
            events_dropped: 0,
        }
    }

    /// Plugs something in. A vif's capture begins now; that it cannot is logged and no reason to refuse the port.
    pub fn add_port(&mut self, kind: PortKind, now_us: u64) -> Result<PortId, PortError> {
        let mut capture = None;
        if let PortKind::Vif(identity) = &kind {
            if self.vif_with_mac(identity.mac).is_some() {
                return Err(PortError::MacInUse);
            }
            if let Some(policy) = &self.capture {
                capture = Capture::open(&identity.domain, &policy.limits, now_us)
                    .inspect_err(|error| tracing::error!(domain = identity.domain, %error, "no capture"))
                    .ok();
            }
        }
        let bucket = self.containment.profile().rate.map(|rate| Bucket::new(rate, now_us));
        let port = SwitchPort { kind, count: PortCount::default(), bucket, capture };
        let free = self.ports.iter().position(Option::is_none);
        let place = match free {
            Some(place) => place,
            None if self.ports.len() < PORTS_MAX => {
                self.ports.push(None);
                self.ports.len() - 1
            }
            None => return Err(PortError::Full),
        };
        self.ports[place] = Some(port);
        Ok(PortId(place))
    }

    /// Unplugs a port. The flows of its domain end, unless another port of the domain is left.
    pub fn remove_port(&mut self, id: PortId, now_us: u64) {
        let Some(port) = self.ports.get_mut(id.0).and_then(Option::take) else { return };
        self.macs.forget(id);
        if let PortKind::Vif(identity) = port.kind {
            let is_last = !self.vifs().any(|(_, other)| other.domid == identity.domid);
            if is_last {
                let ended = self.flows.end_domain(identity.domid);
                self.report_ended(&ended, now_us);
            }
        }
        if let Some(mut capture) = port.capture {
            log_capture(capture.flush());
        }
    }

    /// Takes other rules; flows that the inspector followed are forgotten by it.
    pub fn set_inspector(&mut self, inspector: Inspector) {
        self.inspector = inspector;
    }

    /// Judges a frame that came in through `from` and says where it goes.
    pub fn forward(&mut self, from: PortId, frame: &[u8], now_us: u64, delivery: &mut Delivery) {
        delivery.ports.clear();
        delivery.made.clear();
        let Some(port) = self.ports.get_mut(from.0).and_then(Option::as_mut) else { return };
        port.count.frames_in += 1;
        port.count.bytes_in += frame.len() as u64;
        let packet = Packet::decode(frame, now_us);
        let outcome = match &port.kind {
            PortKind::Vif(identity) => {
                let identity = identity.clone();
                self.carry_from_vif(from, &identity, &packet, delivery)
            }
            PortKind::Gateway | PortKind::Interface(_) => {
                self.carry_from_uplink(from, &packet, delivery);
                Ok(())
            }
        };
        if outcome.is_err() {
            delivery.ports.clear();
            if let Some(port) = self.ports.get_mut(from.0).and_then(Option::as_mut) {
                port.count.frames_refused += 1;
            }
        }
        for id in &delivery.ports {
            if let Some(port) = self.ports.get_mut(id.0).and_then(Option::as_mut) {
                port.count.frames_out += 1;
                port.count.bytes_out += frame.len() as u64;
            }
        }
    }

    /// Ends what has timed out. To be called about once a second.
    pub fn expire(&mut self, now_us: u64) {
        let ended = self.flows.expire(now_us);
        self.report_ended(&ended, now_us);
        self.macs.expire(now_us);
        self.notices.expire(now_us);
        // The inspector's own records say the same as ours with other numbers.
        let _ = self.inspector.expire(now_us);
    }

    /// Hands captured frames to the kernel. To be called after each burst.
    pub fn flush_captures(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            if let Some(capture) = &mut port.capture {
                log_capture(capture.flush());
            }
        }
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// What went through each port.
    pub fn counts(&self) -> Vec<(PortId, &PortKind, PortCount)> {
        let numbered = self.ports.iter().enumerate();
        numbered
            .filter_map(|(at, port)| port.as_ref().map(|port| (PortId(at), &port.kind, port.count)))
            .collect()
    }

    /// Flows in the table, and events lost because too many came at once.
    pub fn totals(&self) -> (usize, u64) {
        (self.flows.len(), self.events_dropped)
    }

    /// Keeps an event for the emitter.
    pub fn report(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        } else {
            self.events_dropped += 1;
        }
    }

    fn carry_from_vif(
        &mut self,
        from: PortId,
        identity: &Identity,
        packet: &Packet<'_>,
        delivery: &mut Delivery,
    ) -> Result<(), Refusal> {
        let (layers, now_us) = (&packet.layers, packet.time_us);
        let ends = endpoints(layers);
        let is_known =
            ends.is_some_and(|ends| self.flows.seen(layers, &ends, packet.frame.len(), now_us).is_some());
        let flow = ends.filter(|_| is_known).and_then(|ends| self.flows.find(&ends));
        self.write_capture(from, packet, flow.map_or(0, Flow::bytes));
        let flow = ends.filter(|_| is_known).and_then(|ends| self.flows.find(&ends));
        let passage = self.containment.judge(identity, packet.frame, layers, flow, &self.flows, now_us);
        let passage = passage.inspect_err(|refusal| self.report_refusal(identity, packet, *refusal))?;
        if passage == Passage::Begin
            && let Some(ends) = ends
        {
            self.begin_flow(packet, ends, Direction::FromDecoy, identity.domid);
        }
        self.destinations_of_vif(from, identity.mac, layers.destination_mac, &mut delivery.ports);
        self.inspect(packet, Direction::FromDecoy, from, identity, delivery)?;
        self.take_rate(from, packet, &delivery.ports)
            .inspect_err(|refusal| self.report_refusal(identity, packet, *refusal))?;
        for to in delivery.ports.clone() {
            self.write_capture(to, packet, 0);
        }
        Ok(())
    }

    fn carry_from_uplink(&mut self, from: PortId, packet: &Packet<'_>, delivery: &mut Delivery) {
        let layers = &packet.layers;
        let source = layers.source_mac;
        // A frame with a decoy's MAC from outside is a loop or a lie.
        if packet.frame.len() < 14 || source[0] & 1 != 0 || self.vif_with_mac(source).is_some() {
            return;
        }
        self.macs.learn(source, from, packet.time_us);
        let only = match self.ports.get(from.0).and_then(Option::as_ref).map(|port| &port.kind) {
            Some(PortKind::Interface(only)) => *only,
            _ => None,
        };
        let is_multicast = layers.destination_mac[0] & 1 != 0;
        let wanted: Vec<(PortId, Identity)> = self
            .vifs()
            .filter(|(_, vif)| is_multicast || vif.mac == layers.destination_mac)
            .filter(|(_, vif)| only.is_none_or(|mac| mac == vif.mac))
            .map(|(id, vif)| (id, vif.clone()))
            .collect();
        for (to, identity) in wanted {
            if is_multicast {
                self.write_capture(to, packet, 0);
                delivery.ports.push(to);
                continue;
            }
            self.carry_to_vif(from, to, &identity, packet, delivery);
        }
    }

    fn carry_to_vif(
        &mut self,
        from: PortId,
        to: PortId,
        identity: &Identity,
        packet: &Packet<'_>,
        delivery: &mut Delivery,
    ) {
        if let Some(ends) = endpoints(&packet.layers) {
            let seen = self.flows.seen(&packet.layers, &ends, packet.frame.len(), packet.time_us);
            let bytes = seen.map(Flow::bytes);
            if bytes.is_none() {
                self.begin_flow(packet, ends, Direction::ToDecoy, identity.domid);
            }
            self.write_capture(to, packet, bytes.unwrap_or(0));
        } else {
            self.write_capture(to, packet, 0);
        }
        delivery.ports.push(to);
        if self.inspect(packet, Direction::ToDecoy, from, identity, delivery).is_err() {
            delivery.ports.clear();
        }
    }

    fn begin_flow(
        &mut self,
        packet: &Packet<'_>,
        ends: crate::community_id::Endpoints,
        begun: Direction,
        domid: u32,
    ) {
        let first = FirstPacket { layers: &packet.layers, ends, bytes: packet.frame.len(), begun, domid };
        let ended = self.flows.begin(first, packet.time_us);
        self.report_ended(&ended, packet.time_us);
    }

    /// Asks the rules. `from` is where a reset goes when a rule says reject.
    fn inspect(
        &mut self,
        packet: &Packet<'_>,
        direction: Direction,
        from: PortId,
        identity: &Identity,
        delivery: &mut Delivery,
    ) -> Result<(), Refusal> {
        let verdict = self.inspector.inspect(packet, direction);
        for alert in &verdict.alerts {
            self.report_alert(identity, packet, alert);
        }
        match verdict.action {
            Action::Pass | Action::Log | Action::Alert => Ok(()),
            Action::SilentDrop => Err(Refusal::Rule),
            Action::Drop => {
                self.report_refusal(identity, packet, Refusal::Rule);
                Err(Refusal::Rule)
            }
            Action::Reject => {
                self.report_refusal(identity, packet, Refusal::Rule);
                if let Some((back, forth)) = reset::resets(packet) {
                    delivery.made.push((from, back));
                    delivery.made.extend(delivery.ports.first().map(|to| (*to, forth)));
                }
                Err(Refusal::Rule)
            }
        }
    }

    /// Where a frame of a vif goes by its destination MAC: another vif, the uplink that knows it, or all.
    fn destinations_of_vif(&self, from: PortId, own: Mac, destination: Mac, ports: &mut Vec<PortId>) {
        let is_multicast = destination[0] & 1 != 0;
        if !is_multicast && let Some(vif) = self.vif_with_mac(destination) {
            ports.extend((vif != from).then_some(vif));
            return;
        }
        let learned = self.macs.port_of(destination);
        for (at, port) in self.ports.iter().enumerate() {
            let id = PortId(at);
            let is_wanted = match port.as_ref().map(|port| &port.kind) {
                None => false,
                Some(PortKind::Vif(_)) => is_multicast && id != from,
                Some(PortKind::Interface(Some(only))) if *only != own => false,
                Some(PortKind::Gateway | PortKind::Interface(_)) => {
                    is_multicast || learned.is_none_or(|learned| learned == id)
                }
            };
            ports.extend(is_wanted.then_some(id));
        }
    }

    /// What stays in the box is not limited; what leaves by a real interface is.
    fn take_rate(&mut self, from: PortId, packet: &Packet<'_>, to: &[PortId]) -> Result<(), Refusal> {
        let leaves = to.iter().any(|id| {
            let kind = self.ports.get(id.0).and_then(Option::as_ref).map(|port| &port.kind);
            matches!(kind, Some(PortKind::Interface(_)))
        });
        let bucket =
            self.ports.get_mut(from.0).and_then(Option::as_mut).and_then(|port| port.bucket.as_mut());
        let Some(bucket) = bucket.filter(|_| leaves) else { return Ok(()) };
        // An offload frame becomes about as many packets as it has full Ethernet payloads.
        let packets = packet.frame.len().div_ceil(1500) as u64;
        if bucket.take(packet.frame.len() as u64, packets, packet.time_us) {
            Ok(())
        } else {
            Err(Refusal::Rate)
        }
    }

    fn write_capture(&mut self, id: PortId, packet: &Packet<'_>, flow_bytes: u64) {
        let Some(policy) = &self.capture else { return };
        if flow_bytes > policy.flow_bytes_max {
            return;
        }
        let Some(port) = self.ports.get_mut(id.0).and_then(Option::as_mut) else { return };
        let Some(capture) = &mut port.capture else { return };
        if let Err(error) = capture.write(packet.frame, packet.time_us) {
            tracing::error!(%error, "capture ends");
            port.capture = None;
        }
    }

    fn report_ended(&mut self, ended: &[Flow], now_us: u64) {
        for flow in ended {
            let event = notice::flow_end(flow, self.domain_of(flow.domid), now_us);
            self.report(event);
        }
    }

    fn report_refusal(&mut self, identity: &Identity, packet: &Packet<'_>, refusal: Refusal) {
        let profile = self.containment.profile().name.clone();
        let event = self.notices.refusal(&mut self.flows, identity, packet, refusal, &profile);
        if let Some(event) = event {
            self.report(event);
        }
    }

    fn report_alert(&mut self, identity: &Identity, packet: &Packet<'_>, alert: &AlertRecord) {
        let flow = endpoints(&packet.layers).and_then(|ends| self.flows.find(&ends)).map(Flow::tuple);
        let mut event = Event::new(EventId::Alert, timestamp(packet.time_us))
            .domain(identity.domain.clone(), Some(identity.domid));
        event.flow = flow;
        event.body = notice::alert_body(alert);
        self.report(event);
    }

    fn domain_of(&self, domid: u32) -> Option<String> {
        self.vifs().find(|(_, vif)| vif.domid == domid).map(|(_, vif)| vif.domain.clone())
    }

    fn vifs(&self) -> impl Iterator<Item = (PortId, &Identity)> {
        self.ports.iter().enumerate().filter_map(|(at, port)| match port.as_ref().map(|port| &port.kind) {
            Some(PortKind::Vif(identity)) => Some((PortId(at), identity)),
            _ => None,
        })
    }

    fn vif_with_mac(&self, mac: Mac) -> Option<PortId> {
        self.vifs().find(|(_, vif)| vif.mac == mac).map(|(id, _)| id)
    }
}

fn log_capture(result: Result<(), crate::capture::CaptureError>) {
    if let Err(error) = result {
        tracing::error!(%error, "captured frames are lost");
    }
}
