//! The switch: which frame goes where. Every frame of every vif is judged here; no I/O, no clock.
//!
//! Order of judgement for what a decoy sends: source check, fence, allowed ports, replies or quota (`containment`), the
//! inspector, the bucket, delivery. What comes from outside is inspected and delivered; it begins flows.
//! The gateway's TAP and real interfaces are not bridged with each other. Pools have rules of their own: `steer`.

mod arp_reply;
mod asks;
mod forwarding;
mod held;
mod moving;
mod notice;
mod pool;
mod ports;
mod reset;
mod steer;
mod table;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use events::{Event, EventId};
use vifport::FrameMeta;

use crate::bucket::Bucket;
use crate::capture::{Capture, CaptureLimits};
use crate::containment::{Containment, Identity, Refusal};
use crate::flow::{Flow, FlowTable, endpoints};
use crate::inspector::{AlertRecord, Inspector};
use crate::mapping::{Mapping, Station};
use crate::packet::{Mac, Packet};
pub use held::{HeldCount, HeldFrame};
use notice::Notices;
pub use notice::timestamp;
use pool::Pools;
pub use pool::{PoolCount, PoolError, PoolSpec, Touch, Wanted};
use ports::{Ports, Standing, SwitchPort};
use table::MacTable;

/// Ports of one switch: vifs and uplinks. Five hundred clones, and as many others.
pub const PORTS_MAX: usize = 1024;
/// Events that wait for the emitter between two rounds; more are dropped and counted.
const EVENTS_MAX: usize = 4096;

/// A port's place in the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(usize);

impl PortId {
    /// A number below `PORTS_MAX`, for tables beside the switch's own.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortKind {
    /// A decoy.
    Vif(Arc<Identity>),
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
    /// A mapping is between one address and one.
    #[error("a mapped vif has one IPv4 address, not {0}")]
    Addresses(usize),
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

/// A frame that is not the one that came in.
#[derive(Debug)]
pub struct Made {
    /// Where it goes.
    pub to: PortId,
    /// The frame.
    pub frame: Vec<u8>,
    /// Its offload fields.
    pub meta: FrameMeta,
}

/// Where a frame goes. Reused between frames.
#[derive(Debug, Default)]
pub struct Delivery {
    /// The frame goes to these ports, as it is.
    pub ports: Vec<PortId>,
    /// Frames that the switch itself sends.
    pub made: Vec<Made>,
}

impl Delivery {
    fn clear(&mut self) {
        self.ports.clear();
        self.made.clear();
    }
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
    ports: Ports,
    pools: Pools,
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
            ports: Ports::default(),
            pools: Pools::default(),
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
        self.plug(kind, Standing::Own, now_us)
    }

    /// Plugs a vif in whose guest is `inner`; to all others it is `outer`, also in events and captures.
    pub fn add_mapped(&mut self, inner: Identity, outer: Station, now_us: u64) -> Result<PortId, PortError> {
        let [IpAddr::V4(address)] = inner.addresses[..] else {
            return Err(PortError::Addresses(inner.addresses.len()));
        };
        let mapping = Mapping { inner: Station { mac: inner.mac, address }, outer };
        let outside = Identity { mac: outer.mac, addresses: vec![outer.address.into()], ..inner };
        self.plug(PortKind::Vif(Arc::new(outside)), Standing::Mapped(mapping), now_us)
    }

    /// Unplugs a port, and a clone's sources with it. The flows of its domain end, unless another port of the domain is
    /// left.
    pub fn remove_port(&mut self, id: PortId, now_us: u64) {
        // Who ends the flows must still know the domain's name.
        let Some(identity) = self.ports.identity(id) else {
            self.ports.remove(id);
            self.macs.forget(id);
            return;
        };
        if self.ports.of_domain(identity.domid) == [id] {
            let ended = self.flows.end_where(|flow| flow.domid == identity.domid);
            self.report_ended(&ended, now_us);
            self.containment.forget(identity.domid);
        }
        let Some(port) = self.ports.remove(id) else { return };
        match port.standing {
            Standing::Own | Standing::Mapped(_) => {}
            Standing::Clone(pool) => self.forget_clone(id, pool),
        }
        if let Some(mut capture) = port.capture {
            log_capture(capture.flush());
        }
    }

    /// Takes other rules; flows that the inspector followed are forgotten by it.
    pub fn set_inspector(&mut self, inspector: Inspector) {
        self.inspector = inspector;
    }

    /// Judges a frame that came in through `from` and says where it goes. A guest's own addresses are rewritten in place
    /// first, where it has others outside.
    pub fn forward(
        &mut self,
        from: PortId,
        frame: &mut [u8],
        meta: &FrameMeta,
        now_us: u64,
        delivery: &mut Delivery,
    ) {
        delivery.clear();
        let Some(port) = self.ports.get_mut(from) else { return };
        port.count.frames_in += 1;
        port.count.bytes_in += frame.len() as u64;
        let standing = port.standing;
        if let Standing::Mapped(mapping) = standing {
            mapping.outward(frame, meta);
        }
        let packet = Packet::decode(frame, now_us);
        let outcome = match self.ports.identity(from) {
            Some(identity) => self.carry_from_vif(from, standing, &identity, &packet, delivery),
            None => {
                self.carry_from_uplink(from, &packet, meta, delivery);
                Ok(())
            }
        };
        if outcome.is_err() {
            delivery.ports.clear();
            if let Some(port) = self.ports.get_mut(from) {
                port.count.frames_refused += 1;
            }
        }
        self.count_out(frame, delivery);
        self.map_inward(frame, meta, delivery);
    }

    /// Ends what has timed out. To be called about once a second.
    pub fn expire(&mut self, now_us: u64) {
        let ended = self.flows.expire(now_us);
        self.report_ended(&ended, now_us);
        self.macs.expire(now_us);
        self.notices.expire(now_us);
        self.pools.held.expire(now_us);
        // The inspector's own records say the same as ours with other numbers.
        let _ = self.inspector.expire(now_us);
    }

    /// Hands captured frames to the kernel. To be called after each burst.
    pub fn flush_captures(&mut self) {
        for id in self.ports.take_captured() {
            if let Some(capture) = self.ports.get_mut(id).and_then(|port| port.capture.as_mut()) {
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
        self.ports.iter().map(|(id, port)| (id, &port.kind, port.count)).collect()
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

    /// Gives a port its place, and begins the capture of a vif. That there is none is logged and no reason to refuse it.
    fn plug(&mut self, kind: PortKind, standing: Standing, now_us: u64) -> Result<PortId, PortError> {
        let bucket = self.containment.profile().rate.map(|rate| Bucket::new(rate, now_us));
        let count = PortCount::default();
        let id = self.ports.add(SwitchPort { kind, standing, count, bucket, capture: None })?;
        if let (Some(identity), Some(policy)) = (self.ports.identity(id), &self.capture) {
            let capture = Capture::open(&identity.domain, &policy.limits, now_us)
                .inspect_err(|error| tracing::error!(domain = identity.domain, %error, "no capture"));
            if let Some(port) = self.ports.get_mut(id) {
                port.capture = capture.ok();
            }
        }
        Ok(id)
    }

    fn write_capture(&mut self, id: PortId, packet: &Packet<'_>, flow_bytes: u64) {
        let Some(policy) = &self.capture else { return };
        if flow_bytes > policy.flow_bytes_max {
            return;
        }
        let Some(port) = self.ports.get_mut(id) else { return };
        let Some(capture) = &mut port.capture else { return };
        if let Err(error) = capture.write(packet.frame, packet.time_us) {
            tracing::error!(%error, "capture ends");
            port.capture = None;
        }
        self.ports.mark_captured(id);
    }

    /// After judgement and capture: a guest that has other addresses than its port gets frames of its own.
    fn map_inward(&self, frame: &[u8], meta: &FrameMeta, delivery: &mut Delivery) {
        let mapping_of = |id: PortId| match self.ports.get(id).map(|port| port.standing) {
            Some(Standing::Mapped(mapping)) => Some(mapping),
            _ => None,
        };
        for made in &mut delivery.made {
            if let Some(mapping) = mapping_of(made.to) {
                mapping.inward(&mut made.frame, &made.meta);
            }
        }
        let Delivery { ports, made } = delivery;
        ports.retain(|to| {
            let Some(mapping) = mapping_of(*to) else { return true };
            let mut frame = frame.to_vec();
            mapping.inward(&mut frame, meta);
            made.push(Made { to: *to, frame, meta: *meta });
            false
        });
    }

    fn count_out(&mut self, frame: &[u8], delivery: &Delivery) {
        for id in &delivery.ports {
            if let Some(port) = self.ports.get_mut(*id) {
                port.count.frames_out += 1;
                port.count.bytes_out += frame.len() as u64;
            }
        }
    }

    fn report_ended(&mut self, ended: &[Flow], now_us: u64) {
        for flow in ended {
            let domain = self.ports.domain_name(flow.domid).map(str::to_owned);
            let event = notice::flow_end(flow, domain, now_us);
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

    /// The same refusal, after the analyst was told.
    fn told_refusal(&mut self, identity: &Identity, packet: &Packet<'_>, refusal: Refusal) -> Refusal {
        self.report_refusal(identity, packet, refusal);
        refusal
    }

    fn report_alert(&mut self, identity: &Identity, packet: &Packet<'_>, alert: &AlertRecord) {
        let flow = endpoints(&packet.layers).and_then(|ends| self.flows.find(&ends)).map(Flow::tuple);
        let mut event = Event::new(EventId::Alert, timestamp(packet.time_us))
            .domain(identity.domain.clone(), Some(identity.domid));
        event.flow = flow;
        event.body = notice::alert_body(alert);
        self.report(event);
    }
}

fn log_capture(result: Result<(), crate::capture::CaptureError>) {
    if let Err(error) = result {
        tracing::error!(%error, "captured frames are lost");
    }
}
