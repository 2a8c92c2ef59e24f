//! The datapath: one thread that moves frames between vif ports, uplinks and the switch, and answers the toolstack.
//!
//! It polls rather than epolls: there are few descriptors, and which of them are waited for changes from round to round.
//! A vif that takes no frames holds the uplinks back for a moment, so that a burst is not lost; one that goes on doing so
//! (its domain is paused) loses its frames instead of everybody's time.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use events::{Event, EventId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use vifport::{Endpoint, FRAME_BYTES_MAX, FrameMeta, PortFds, Side, Violation};

use crate::containment::Identity;
use crate::control::{Control, MacText, Request};
use crate::packet::Mac;
use crate::rules::RuleSource;
use crate::switch::{Delivery, PortId, PortKind, Switch, timestamp};
use crate::uplink::{Received, Uplink};

/// Frames of one port in one round; then the others have their turn, and sleepers are woken.
const BURST_FRAMES: usize = 32;
/// How long a full vif may hold the uplinks back.
const PATIENCE_US: u64 = 20_000;
const SECOND_US: u64 = 1_000_000;

/// What a round says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Go on.
    More,
    /// The toolstack has gone.
    Over,
}

struct Vif {
    id: PortId,
    domid: u32,
    domain: String,
    mac: Mac,
    endpoint: Endpoint,
    full_since_us: Option<u64>,
    lost: u64,
}

/// The switch with everything that is plugged into it.
pub struct Datapath {
    switch: Switch,
    uplinks: Vec<(PortId, Uplink)>,
    vifs: Vec<Vif>,
    control: Control,
    rules: RuleSource,
    emit: Box<dyn Fn(Event) + Send>,
    frame: Vec<u8>,
    delivery: Delivery,
    expired_us: u64,
}

impl Datapath {
    /// A datapath without ports.
    pub fn new(
        switch: Switch,
        control: Control,
        rules: RuleSource,
        emit: impl Fn(Event) + Send + 'static,
    ) -> Datapath {
        Datapath {
            switch,
            uplinks: Vec::new(),
            vifs: Vec::new(),
            control,
            rules,
            emit: Box::new(emit),
            frame: Vec::new(),
            delivery: Delivery::default(),
            expired_us: now_us(),
        }
    }

    /// Plugs an uplink in.
    pub fn add_uplink(&mut self, fd: OwnedFd, kind: PortKind) -> Result<(), crate::switch::PortError> {
        let id = self.switch.add_port(kind, now_us())?;
        self.uplinks.push((id, Uplink::new(fd)));
        Ok(())
    }

    /// Runs until the toolstack goes.
    pub fn run(&mut self) -> io::Result<()> {
        while self.round()? == Round::More {}
        self.switch.flush_captures();
        self.emit_events();
        Ok(())
    }

    /// Waits for something to do and does it.
    pub fn round(&mut self) -> io::Result<Round> {
        let is_held = self.look_for_room(now_us());
        let timeout = self.timeout(is_held);
        let ready = self.wait(is_held, timeout)?;
        if ready.control && self.serve_control()? == Round::Over {
            return Ok(Round::Over);
        }
        self.drain_vifs();
        self.drain_uplinks(&ready.uplinks);
        self.notify();
        self.switch.flush_captures();
        let now_us = now_us();
        if now_us.saturating_sub(self.expired_us) >= SECOND_US {
            self.expired_us = now_us;
            self.switch.expire(now_us);
        }
        self.emit_events();
        Ok(Round::More)
    }

    /// True where a vif is full and has not been for long.
    fn look_for_room(&mut self, now_us: u64) -> bool {
        let mut is_held = false;
        for vif in &mut self.vifs {
            match vif.endpoint.room_or_wait(FRAME_BYTES_MAX) {
                Ok(false) => {
                    let since = *vif.full_since_us.get_or_insert(now_us);
                    is_held |= now_us.saturating_sub(since) < PATIENCE_US;
                }
                // A violation shows itself again when frames are taken.
                Ok(true) | Err(_) => vif.full_since_us = None,
            }
        }
        is_held
    }

    fn timeout(&mut self, is_held: bool) -> Duration {
        let is_idle = self.vifs.iter_mut().all(|vif| vif.endpoint.prepare_wait().unwrap_or(false));
        match (is_idle, is_held) {
            (false, _) => Duration::ZERO,
            (true, true) => Duration::from_micros(PATIENCE_US),
            (true, false) => Duration::from_secs(1),
        }
    }

    fn wait(&self, is_held: bool, timeout: Duration) -> io::Result<Ready> {
        let mut fds = Vec::with_capacity(1 + self.vifs.len() + self.uplinks.len());
        fds.push(PollFd::new(&self.control, PollFlags::IN));
        fds.extend(
            self.vifs.iter().map(|vif| PollFd::from_borrowed_fd(vif.endpoint.wait_fd(), PollFlags::IN)),
        );
        if !is_held {
            fds.extend(self.uplinks.iter().map(|(_, uplink)| PollFd::new(uplink, PollFlags::IN)));
        }
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let control = ready.next().unwrap_or(false);
        for vif in &self.vifs {
            if ready.next().unwrap_or(false) {
                vif.endpoint.clear_wait()?;
            }
        }
        Ok(Ready { control, uplinks: ready.collect() })
    }

    fn drain_vifs(&mut self) {
        let mut broken = Vec::new();
        for at in 0..self.vifs.len() {
            for _ in 0..BURST_FRAMES {
                let Some(vif) = self.vifs.get_mut(at) else { break };
                let mut frame = std::mem::take(&mut self.frame);
                let received = vif.endpoint.recv(&mut frame);
                let id = vif.id;
                let is_last = match received {
                    Ok(Some(meta)) => {
                        self.carry(id, &frame, &meta);
                        false
                    }
                    Ok(None) => true,
                    Err(violation) => {
                        broken.push((id, violation));
                        true
                    }
                };
                self.frame = frame;
                if is_last {
                    break;
                }
            }
        }
        for (id, violation) in broken {
            self.remove_broken(id, violation);
        }
    }

    fn drain_uplinks(&mut self, ready: &[bool]) {
        let mut gone = Vec::new();
        for at in ready.iter().enumerate().filter_map(|(at, is_ready)| is_ready.then_some(at)) {
            for _ in 0..BURST_FRAMES {
                if self.look_for_room(now_us()) {
                    break;
                }
                let Some((id, uplink)) = self.uplinks.get(at) else { break };
                let id = *id;
                let mut frame = std::mem::take(&mut self.frame);
                let received = uplink.recv(&mut frame);
                let is_last = match received {
                    Ok(Received::Frame(meta)) => {
                        self.carry(id, &frame, &meta);
                        false
                    }
                    Ok(Received::Unusable) => false,
                    Ok(Received::Empty) => true,
                    Err(error) => {
                        tracing::error!(%error, "uplink is gone");
                        gone.push(id);
                        true
                    }
                };
                self.frame = frame;
                if is_last {
                    break;
                }
            }
        }
        for id in gone {
            self.uplinks.retain(|(other, _)| *other != id);
            self.switch.remove_port(id, now_us());
        }
    }

    /// Has one frame judged and hands it on.
    fn carry(&mut self, from: PortId, frame: &[u8], meta: &FrameMeta) {
        let mut delivery = std::mem::take(&mut self.delivery);
        self.switch.forward(from, frame, now_us(), &mut delivery);
        for to in &delivery.ports {
            self.send(*to, frame, meta);
        }
        for (to, made) in &delivery.made {
            self.send(*to, made, &FrameMeta::default());
        }
        self.delivery = delivery;
    }

    fn send(&mut self, to: PortId, frame: &[u8], meta: &FrameMeta) {
        if let Some((_, uplink)) = self.uplinks.iter().find(|(id, _)| *id == to) {
            // Lost where the kernel has no room, as on a wire.
            let _ = uplink.send(meta, frame);
        } else if let Some(vif) = self.vifs.iter_mut().find(|vif| vif.id == to)
            && vif.endpoint.send(meta, &[frame]).is_err()
        {
            vif.lost += 1;
        }
    }

    fn notify(&mut self) {
        for vif in &self.vifs {
            if let Err(error) = vif.endpoint.notify() {
                tracing::warn!(%error, domain = vif.domain, "vif cannot be woken");
            }
        }
    }

    fn emit_events(&mut self) {
        for event in self.switch.take_events() {
            (self.emit)(event);
        }
    }

    fn remove_broken(&mut self, id: PortId, violation: Violation) {
        let now_us = now_us();
        self.vifs.retain(|vif| {
            if vif.id != id {
                return true;
            }
            let event = Event::new(EventId::DomainViolation, timestamp(now_us))
                .domain(vif.domain.clone(), Some(vif.domid))
                .with("name", vif.domain.clone())
                .with("what", "vif port")
                .with("detail", violation.to_string());
            self.switch.report(event);
            false
        });
        self.switch.remove_port(id, now_us);
    }

    fn serve_control(&mut self) -> io::Result<Round> {
        let requests = match self.control.receive() {
            Ok(Some(requests)) => requests,
            Ok(None) => return Ok(Round::Over),
            // The other side died without a word.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Round::Over),
            Err(error) => return Err(error),
        };
        for request in requests {
            let answer = match request.and_then(|request| self.serve(request)) {
                Ok(answer) => json!({ "ok": answer }),
                Err(sentence) => json!({ "error": sentence }),
            };
            if let Err(error) = self.control.answer(&answer) {
                tracing::warn!(%error, "answer to the toolstack is lost");
            }
        }
        Ok(Round::More)
    }

    fn serve(&mut self, request: Request) -> Result<Value, String> {
        match request {
            Request::AddPort { domain, domid, mac: MacText(mac), addresses } => {
                self.add_vif(Identity { domain, domid, mac, addresses })
            }
            Request::RemovePort { domid, mac } => Ok(self.remove_vifs(domid, mac)),
            Request::Stats {} => Ok(self.stats()),
            Request::ReloadRules {} => {
                let (inspector, diagnostics) = self.rules.load();
                let rules = inspector.rule_count();
                self.switch.set_inspector(inspector);
                Ok(json!({ "rules": rules, "diagnostics": diagnostics }))
            }
        }
    }

    fn add_vif(&mut self, identity: Identity) -> Result<Value, String> {
        let descriptors = self.control.take_descriptors();
        let [memory, to_switch, from_switch] =
            descriptors.ok_or("add-port comes with three descriptors: memory, to_switch, from_switch")?;
        let endpoint = Endpoint::attach(PortFds { memory, to_switch, from_switch }, Side::Switch)
            .map_err(|error| format!("port of {} cannot be attached: {error}", identity.domain))?;
        let (domain, domid, mac) = (identity.domain.clone(), identity.domid, identity.mac);
        let added = self.switch.add_port(PortKind::Vif(identity), now_us());
        let id = added.map_err(|error| format!("port of {domain} cannot be added: {error}"))?;
        self.vifs.push(Vif { id, domid, domain, mac, endpoint, full_since_us: None, lost: 0 });
        Ok(json!({}))
    }

    fn remove_vifs(&mut self, domid: u32, mac: Option<MacText>) -> Value {
        let is_meant = |vif: &Vif| vif.domid == domid && mac.is_none_or(|MacText(mac)| mac == vif.mac);
        let ids: Vec<PortId> = self.vifs.iter().filter(|vif| is_meant(vif)).map(|vif| vif.id).collect();
        self.vifs.retain(|vif| !ids.contains(&vif.id));
        for id in &ids {
            self.switch.remove_port(*id, now_us());
        }
        json!({ "removed": ids.len() })
    }

    fn stats(&self) -> Value {
        let ports = self.switch.counts().into_iter().map(|(id, kind, count)| {
            let lost = self.vifs.iter().find(|vif| vif.id == id).map_or(0, |vif| vif.lost);
            match kind {
                PortKind::Vif(vif) => json!({
                    "kind": "vif", "domain": vif.domain, "domid": vif.domid, "count": count, "frames_lost": lost,
                }),
                PortKind::Gateway => json!({ "kind": "gateway", "count": count }),
                PortKind::Interface(_) => json!({ "kind": "interface", "count": count }),
            }
        });
        let ports: Vec<Value> = ports.collect();
        let (flows, events_dropped) = self.switch.totals();
        json!({ "ports": ports, "flows": flows, "events_dropped": events_dropped })
    }
}

struct Ready {
    control: bool,
    uplinks: Vec<bool>,
}

/// Microseconds since the epoch.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
