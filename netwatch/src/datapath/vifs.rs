//! The vif ports of the datapath. A vif that neither sends nor is sent to costs nothing in a round, so that hundreds of
//! clones may be idle: who may have frames, who is full and who is to be woken is kept in lists.

use std::io;

use vifport::{Endpoint, FRAME_BYTES_MAX, FrameMeta, Violation};

use crate::containment::Identity;
use crate::packet::Mac;
use crate::switch::PortId;

/// How long a full vif may hold the uplinks back.
pub(super) const PATIENCE_US: u64 = 20_000;

/// What becomes of frames for a vif that takes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// The uplinks wait for a moment.
    Wait,
    /// They are lost, as at a switch's full port: an attacker in a clone and one outside could else hold back all others.
    Lose,
}

pub(super) struct Vif {
    pub id: PortId,
    pub domid: u32,
    pub domain: String,
    pub mac: Mac,
    pub endpoint: Endpoint,
    pub lost: u64,
    when_full: WhenFull,
    full_since_us: Option<u64>,
    is_active: bool,
    is_touched: bool,
}

impl Vif {
    pub fn new(id: PortId, identity: &Identity, endpoint: Endpoint, when_full: WhenFull) -> Vif {
        Vif {
            id,
            domid: identity.domid,
            domain: identity.domain.clone(),
            mac: identity.mac,
            endpoint,
            lost: 0,
            when_full,
            full_since_us: None,
            is_active: false,
            is_touched: false,
        }
    }
}

#[derive(Default)]
pub(super) struct Vifs {
    // By the port's index.
    places: Vec<Option<Vif>>,
    // Those that may have frames; all others have been asked to signal the next one.
    active: Vec<PortId>,
    // Those without room for a frame, when they were last looked at.
    full: Vec<PortId>,
    // Those whose other side may sleep and wait for what was done.
    touched: Vec<PortId>,
}

impl Vifs {
    /// Takes a vif; it is looked at in this round.
    pub fn add(&mut self, vif: Vif) {
        let id = vif.id;
        if self.places.len() <= id.index() {
            self.places.resize_with(id.index() + 1, || None);
        }
        if let Some(place) = self.places.get_mut(id.index()) {
            *place = Some(vif);
        }
        self.activate(id);
    }

    pub fn remove(&mut self, id: PortId) -> Option<Vif> {
        for list in [&mut self.active, &mut self.full, &mut self.touched] {
            list.retain(|other| *other != id);
        }
        self.places.get_mut(id.index())?.take()
    }

    pub fn get(&self, id: PortId) -> Option<&Vif> {
        self.places.get(id.index())?.as_ref()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Vif> {
        self.places.iter().flatten()
    }

    /// The vif whose descriptor was signalled.
    pub fn at(&self, index: usize) -> Option<&Vif> {
        self.places.get(index)?.as_ref()
    }

    /// It may have frames.
    pub fn activate(&mut self, id: PortId) {
        if let Some(vif) = get_mut(&mut self.places, id)
            && !vif.is_active
        {
            vif.is_active = true;
            self.active.push(id);
        }
    }

    /// True where a vif may have frames.
    pub fn is_busy(&self) -> bool {
        !self.active.is_empty()
    }

    /// Those that may have frames. Who still may after it was looked at is activated again.
    pub fn take_active(&mut self) -> Vec<PortId> {
        let active = std::mem::take(&mut self.active);
        for id in &active {
            if let Some(vif) = get_mut(&mut self.places, *id) {
                vif.is_active = false;
            }
        }
        active
    }

    /// The next frame of a vif. Where there is none, its other side signals the next one; where that finds one after
    /// all, or there may be more, the vif is to be activated again.
    pub fn recv(&mut self, id: PortId, frame: &mut Vec<u8>) -> Result<Option<FrameMeta>, Violation> {
        let Some(vif) = get_mut(&mut self.places, id) else { return Ok(None) };
        let received = vif.endpoint.recv(frame)?;
        if received.is_some() {
            touch(&mut self.touched, vif);
        } else if !vif.endpoint.prepare_wait()? {
            self.activate(id);
        }
        Ok(received)
    }

    /// Sends a frame; false where there is no such vif. A frame that finds no room is counted and lost.
    pub fn send(&mut self, to: PortId, meta: &FrameMeta, frame: &[u8], now_us: u64) -> bool {
        let Some(vif) = get_mut(&mut self.places, to) else { return false };
        if vif.endpoint.send(meta, &[frame]).is_err() {
            vif.lost += 1;
        }
        touch(&mut self.touched, vif);
        // Nobody but this side fills the ring, so one that was not sent to since has room still.
        if vif.when_full == WhenFull::Wait
            && vif.full_since_us.is_none()
            && matches!(vif.endpoint.room_or_wait(FRAME_BYTES_MAX), Ok(false))
        {
            vif.full_since_us = Some(now_us);
            self.full.push(to);
        }
        true
    }

    /// Looks whether full vifs have room again. True where one is full and has not been for long.
    pub fn look_for_room(&mut self, now_us: u64) -> bool {
        let mut is_held = false;
        let places = &mut self.places;
        self.full.retain(|id| {
            let Some(vif) = get_mut(places, *id) else { return false };
            // A violation shows itself again when frames are taken.
            let is_full = matches!(vif.endpoint.room_or_wait(FRAME_BYTES_MAX), Ok(false));
            match vif.full_since_us {
                Some(since_us) if is_full => is_held |= now_us.saturating_sub(since_us) < PATIENCE_US,
                _ => vif.full_since_us = None,
            }
            is_full
        });
        is_held
    }

    /// Wakes the other sides that sleep for want of what was done since the last call.
    pub fn notify(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let Some(vif) = get_mut(&mut self.places, id) else { continue };
            vif.is_touched = false;
            if let Err(error) = vif.endpoint.notify() {
                tracing::warn!(%error, domain = vif.domain, "vif cannot be woken");
            }
        }
    }

    /// Takes back the signal of a vif, which may have frames or room now.
    pub fn clear_wait(&mut self, index: usize) -> io::Result<()> {
        if let Some(vif) = self.at(index) {
            vif.endpoint.clear_wait()?;
            let id = vif.id;
            self.activate(id);
        }
        Ok(())
    }
}

fn get_mut(places: &mut [Option<Vif>], id: PortId) -> Option<&mut Vif> {
    places.get_mut(id.index())?.as_mut()
}

fn touch(touched: &mut Vec<PortId>, vif: &mut Vif) {
    if !vif.is_touched {
        vif.is_touched = true;
        touched.push(vif.id);
    }
}
