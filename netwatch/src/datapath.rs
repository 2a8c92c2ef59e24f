//! The datapath: one thread that moves frames between vif ports, uplinks and the switch, and answers the toolstack.
//!
//! What a round costs follows what happens in it, not how much is plugged in: descriptors are waited for by epoll, and
//! only vifs that signalled or were sent to are looked at. A decoy's vif that takes no frames holds the uplinks back for
//! a moment, so that a burst is not lost; one that goes on doing so (its domain is paused) and a clone's vif lose their
//! frames instead of everybody's time.

mod requests;
mod vifs;
mod wanted;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use events::Event;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use vifport::{FrameMeta, Violation};

use crate::control::Control;
use crate::rules::RuleSource;
use crate::switch::{Delivery, HeldFrame, PortError, PortId, PortKind, Switch};
use crate::uplink::{Received, Uplink};
use vifs::{PATIENCE_US, Vifs};
use wanted::WantedSocket;

/// Frames of one port in one round; then the others have their turn, and sleepers are woken.
const BURST_FRAMES: usize = 32;
const SECOND_US: u64 = 1_000_000;
/// After the first time, once a second: a frame may be lost, and a neighbour may still believe the old host.
const ANNOUNCED_AGAIN: u32 = 2;
/// Descriptors that one call of epoll tells of; the next call tells of the others.
const READY_MAX: usize = 128;
/// The control socket's number in epoll; a port's is its index plus one.
const CONTROL: u64 = 0;

/// What a round says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// Go on.
    More,
    /// The toolstack has gone.
    Over,
}

struct UplinkPort {
    id: PortId,
    uplink: Uplink,
    // Its descriptor is edge-triggered: it is read until it is empty, when there is room for what comes.
    is_readable: bool,
}

/// The switch with everything that is plugged into it.
pub struct Datapath {
    switch: Switch,
    epoll: OwnedFd,
    ready: Vec<epoll::Event>,
    uplinks: Vec<UplinkPort>,
    vifs: Vifs,
    control: Control,
    wanted: Option<WantedSocket>,
    rules: RuleSource,
    emit: Box<dyn Fn(Event) + Send>,
    frame: Vec<u8>,
    delivery: Delivery,
    expired_us: u64,
    // Domains that came from another host, and how often they are to be announced again.
    announcing: Vec<(u32, u32)>,
}

impl Datapath {
    /// A datapath without ports.
    pub fn new(
        switch: Switch,
        control: Control,
        rules: RuleSource,
        emit: impl Fn(Event) + Send + 'static,
    ) -> io::Result<Datapath> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &control, epoll::EventData::new_u64(CONTROL), epoll::EventFlags::IN)?;
        Ok(Datapath {
            switch,
            epoll,
            ready: Vec::with_capacity(READY_MAX),
            uplinks: Vec::new(),
            vifs: Vifs::default(),
            control,
            wanted: None,
            rules,
            emit: Box::new(emit),
            frame: Vec::new(),
            delivery: Delivery::default(),
            expired_us: now_us(),
            announcing: Vec::new(),
        })
    }

    /// Plugs an uplink in.
    pub fn add_uplink(&mut self, fd: OwnedFd, kind: PortKind) -> Result<(), AddError> {
        let id = self.switch.add_port(kind, now_us())?;
        let uplink = Uplink::new(fd);
        self.watch(&uplink, id, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        self.uplinks.push(UplinkPort { id, uplink, is_readable: true });
        Ok(())
    }

    /// Takes the socket on which the toolstack is told of sources that wait for a clone.
    pub fn tell_wanted(&mut self, socket: OwnedFd) {
        self.wanted = Some(WantedSocket::new(socket));
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
        let is_held = self.vifs.look_for_room(now_us());
        self.wait(self.timeout(is_held))?;
        if self.take_signals()? && self.serve_control()? == Round::Over {
            return Ok(Round::Over);
        }
        self.drain_vifs();
        self.drain_uplinks();
        self.vifs.notify();
        self.switch.flush_captures();
        let now_us = now_us();
        if now_us.saturating_sub(self.expired_us) >= SECOND_US {
            self.expired_us = now_us;
            self.switch.expire(now_us);
            self.announce_again();
        }
        self.emit_events();
        Ok(Round::More)
    }

    fn timeout(&self, is_held: bool) -> Duration {
        let has_frames = self.uplinks.iter().any(|port| port.is_readable);
        match (self.vifs.is_busy(), has_frames, is_held) {
            (true, _, _) | (false, true, false) => Duration::ZERO,
            (false, _, true) => Duration::from_micros(PATIENCE_US),
            (false, false, false) => Duration::from_secs(1),
        }
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.ready.clear();
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.ready), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the signals of vifs and uplinks. True where the toolstack asks for something.
    fn take_signals(&mut self) -> io::Result<bool> {
        let mut is_asked = false;
        for at in 0..self.ready.len() {
            let Some(number) = self.ready.get(at).map(|event| event.data.u64()) else { break };
            let Some(index) = number.checked_sub(1).map(|index| index as usize) else {
                is_asked = true;
                continue;
            };
            match self.uplinks.iter_mut().find(|port| port.id.index() == index) {
                Some(port) => port.is_readable = true,
                None => self.vifs.clear_wait(index)?,
            }
        }
        Ok(is_asked)
    }

    fn drain_vifs(&mut self) {
        for id in self.vifs.take_active() {
            for count in 1..=BURST_FRAMES {
                let mut frame = std::mem::take(&mut self.frame);
                let received = self.vifs.recv(id, &mut frame);
                if let Ok(Some(meta)) = &received {
                    self.carry(id, &mut frame, meta);
                }
                self.frame = frame;
                match received {
                    Ok(Some(_)) if count == BURST_FRAMES => self.vifs.activate(id),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(violation) => {
                        self.remove_broken(id, violation);
                        break;
                    }
                }
            }
        }
    }

    fn drain_uplinks(&mut self) {
        let mut gone = Vec::new();
        for at in 0..self.uplinks.len() {
            for _ in 0..BURST_FRAMES {
                if self.vifs.look_for_room(now_us()) {
                    break;
                }
                let Some(port) = self.uplinks.get_mut(at).filter(|port| port.is_readable) else { break };
                let id = port.id;
                let mut frame = std::mem::take(&mut self.frame);
                let received = port.uplink.recv(&mut frame);
                port.is_readable = !matches!(received, Ok(Received::Empty) | Err(_));
                match received {
                    Ok(Received::Frame(meta)) => self.carry(id, &mut frame, &meta),
                    Ok(Received::Unusable | Received::Empty) => {}
                    Err(error) => {
                        tracing::error!(%error, "uplink is gone");
                        gone.push(id);
                    }
                }
                self.frame = frame;
            }
        }
        for id in gone {
            self.remove_uplink(id);
        }
    }

    /// Has one frame judged and hands it on.
    fn carry(&mut self, from: PortId, frame: &mut [u8], meta: &FrameMeta) {
        let mut delivery = std::mem::take(&mut self.delivery);
        self.switch.forward(from, frame, meta, now_us(), &mut delivery);
        self.deliver(frame, meta, &delivery);
        self.delivery = delivery;
        self.tell_of_wanted();
    }

    /// Hands frames on that were held until their clone was there.
    fn carry_held(&mut self, frames: &[HeldFrame]) {
        let mut delivery = std::mem::take(&mut self.delivery);
        for held in frames {
            self.switch.deliver_held(held, &mut delivery);
            self.deliver(&held.frame, &held.meta, &delivery);
        }
        self.delivery = delivery;
    }

    fn deliver(&mut self, frame: &[u8], meta: &FrameMeta, delivery: &Delivery) {
        for to in &delivery.ports {
            self.send(*to, frame, meta);
        }
        for made in &delivery.made {
            self.send(made.to, &made.frame, &made.meta);
        }
    }

    fn send(&mut self, to: PortId, frame: &[u8], meta: &FrameMeta) {
        if let Some(port) = self.uplinks.iter().find(|port| port.id == to) {
            // Lost where the kernel has no room, as on a wire.
            let _ = port.uplink.send(meta, frame);
        } else {
            self.vifs.send(to, meta, frame, now_us());
        }
    }

    fn announce_now(&self, domid: u32) {
        for made in self.switch.announcements(domid) {
            if let Some(port) = self.uplinks.iter().find(|port| port.id == made.to) {
                let _ = port.uplink.send(&made.meta, &made.frame);
            }
        }
    }

    fn announce_again(&mut self) {
        for (domid, left) in std::mem::take(&mut self.announcing) {
            self.announce_now(domid);
            if left > 1 {
                self.announcing.push((domid, left - 1));
            }
        }
    }

    fn tell_of_wanted(&mut self) {
        for wanted in self.switch.take_wanted() {
            if !self.wanted.as_ref().is_some_and(|socket| socket.tell(&wanted)) {
                self.switch.not_told(&wanted);
            }
        }
    }

    fn emit_events(&mut self) {
        for event in self.switch.take_events() {
            (self.emit)(event);
        }
    }

    fn watch(&self, source: impl AsFd, id: PortId, flags: epoll::EventFlags) -> io::Result<()> {
        let data = epoll::EventData::new_u64(id.index() as u64 + 1);
        Ok(epoll::add(&self.epoll, source.as_fd(), data, flags)?)
    }

    /// Others have copies of the descriptor, so closing it is not enough.
    fn unwatch(&self, source: impl AsFd) {
        if let Err(error) = epoll::delete(&self.epoll, source.as_fd()) {
            tracing::warn!(%error, "a descriptor cannot be taken out of epoll");
        }
    }

    fn remove_uplink(&mut self, id: PortId) {
        if let Some(at) = self.uplinks.iter().position(|port| port.id == id) {
            let port = self.uplinks.remove(at);
            self.unwatch(&port.uplink);
        }
        self.switch.remove_port(id, now_us());
    }

    fn remove_vif(&mut self, id: PortId) {
        if let Some(vif) = self.vifs.remove(id) {
            self.unwatch(vif.endpoint.wait_fd());
        }
        self.switch.remove_port(id, now_us());
    }

    fn remove_broken(&mut self, id: PortId, violation: Violation) {
        if let Some(vif) = self.vifs.get(id) {
            self.switch.report(requests::violation_event(vif, &violation, now_us()));
        }
        self.remove_vif(id);
    }
}

/// Why an uplink cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The switch has no place for it.
    #[error("uplink has no place in the switch")]
    Port(#[from] PortError),
    /// It cannot be waited for.
    #[error("uplink cannot be waited for")]
    Watch(#[from] io::Error),
}

/// Microseconds since the epoch.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
