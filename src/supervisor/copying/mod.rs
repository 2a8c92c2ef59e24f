//! The way of a copy of a running domain, wherever it goes to: what there is, then rounds of what was written meanwhile, then the rest while the
//! domain stands still. A snapshot's way ends in a folder ([`folder`]); who carries it elsewhere writes another [`Target`].
//!
//! While the domain stands, bytes move and nothing else happens: sums, formats and fsync come before or after.

mod folder;
mod log;
mod source;

use std::io;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use honeyvmm::dirty::LogRequest;
use honeyvmm::disk::DiskError;
use serde_json::Value;

use super::control::ControlError;
use super::domain::{Domain, Life};
pub use folder::Folder;
pub use log::{Copies, Last, Turn, Written};
pub use source::Memory;
use source::Source;

/// Rounds while the domain runs; a guest that writes faster than we copy is not waited for.
const ROUNDS_MAX: u32 = 6;
/// So much may be left for the time in which it stands: a quarter of a millisecond of copying.
const LITTLE_BYTES: u64 = 512 << 10;

/// Takes a copy. What comes later for the same page or cluster takes the place of what came before.
pub trait Target {
    /// Whole pages of RAM, from this one on.
    fn pages(&mut self, first: u64, bytes: &[u8]) -> io::Result<()>;
    /// Whole clusters of a disk's own layer, from this one on. Disks are counted in the domain's order, without those that are only read.
    fn clusters(&mut self, disk: usize, first: u64, bytes: &[u8]) -> io::Result<()>;
}

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Everything,
    /// What was written since the last snapshot of this domain.
    SinceLast,
    /// What the domain has written since it went on from a snapshot.
    SinceRestored,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The domain's process did not do it.
    #[error("domain {name} cannot be copied")]
    Control {
        /// The domain.
        name: String,
        /// Why.
        #[source]
        source: ControlError,
    },
    /// RAM cannot be read.
    #[error("the memory of domain {name} cannot be read")]
    Memory {
        /// The domain.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A layer cannot be read.
    #[error("disk {vdev} of domain {name} cannot be read")]
    Disk {
        /// The domain.
        name: String,
        /// The disk.
        vdev: String,
        /// Why.
        #[source]
        source: DiskError,
    },
    /// The copy cannot be written.
    #[error("the copy of domain {name} cannot be written")]
    Target {
        /// The domain.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It does not run.
    #[error("domain {name} does not run")]
    Ended {
        /// The domain.
        name: String,
    },
}

/// What there is of a domain beside RAM and disks, at the moment of the copy.
pub struct Rest {
    /// `honeyvmm::machine::DomainState`.
    pub state: Value,
    /// The vcpus' registers by name.
    pub registers: Value,
    /// The shim's memory.
    pub shim: Memory,
}

/// A domain that stands still because it is copied: all of it has been sent but the [`Rest`]. It goes on when this is dropped, at the latest.
pub struct Standing<'a> {
    domain: &'a Domain,
    // Nobody else pauses it, or lets it go on; none when it may go on or is not to any more.
    hold: Option<MutexGuard<'a, ()>>,
    begun: Instant,
    // It was before, and stays so.
    was_paused: bool,
    /// What has not been sent.
    pub rest: Rest,
}

impl<'a> Standing<'a> {
    /// How long it stands.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether it did before.
    pub fn was_paused(&self) -> bool {
        self.was_paused
    }

    /// Lets it go on; answers how long it stood.
    pub fn go_on(&mut self) -> Result<Duration, CopyError> {
        let held = self.hold.take();
        if held.is_some() && !self.was_paused {
            let answer = self.domain.control.request("unpause");
            answer.map_err(|source| CopyError::Control { name: self.domain.name(), source })?;
        }
        Ok(self.elapsed())
    }

    /// It is not to go on here any more.
    pub fn stay(mut self) {
        self.hold = None;
    }

    /// From now on it goes on here only if it is told to: perhaps it does elsewhere.
    pub fn still(mut self) -> Still<'a> {
        Still { domain: self.domain, _hold: self.hold.take(), begun: self.begun, was_paused: self.was_paused }
    }
}

/// A domain that stands, and goes on standing when this is dropped; nobody pauses it, or lets it go on, before that.
pub struct Still<'a> {
    domain: &'a Domain,
    _hold: Option<MutexGuard<'a, ()>>,
    begun: Instant,
    was_paused: bool,
}

impl Still<'_> {
    /// How long it stands.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Lets it go on.
    pub fn go_on(self) -> Result<(), CopyError> {
        if self.was_paused {
            return Ok(());
        }
        let answer = self.domain.control.request("unpause");
        answer.map(drop).map_err(|source| CopyError::Control { name: self.domain.name(), source })
    }

    /// It stands like one that somebody has paused.
    pub fn leave_paused(self) {
        self.domain.set_life(Life::Paused);
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.go_on() {
            tracing::warn!(%error, "a domain that was copied does not go on");
        }
    }
}

/// Copies a domain to a target until only the [`Rest`] is missing; it stands still then. `moment` is called when it does.
///
/// # Errors
/// The target broke, or the domain ended; it runs on if it can.
pub fn copy<'a>(
    domain: &'a Domain,
    turn: &mut Turn,
    scope: Scope,
    target: &mut dyn Target,
    moment: impl FnOnce(),
) -> Result<Standing<'a>, CopyError> {
    let source = Source::open(domain)?;
    source.ask(LogRequest::Start)?;
    let mut left = source.first(turn, scope, target)?;
    for _ in 0..ROUNDS_MAX {
        left = source.take(turn)?;
        if left.bytes() <= LITTLE_BYTES {
            break;
        }
        source.send(&left, target)?;
        left = Written::default();
    }
    let hold = domain.hold();
    let was_paused = match domain.life() {
        Life::Running => false,
        Life::Paused => true,
        _ => return Err(CopyError::Ended { name: domain.name() }),
    };
    let begun = Instant::now();
    let registers = source.request("pause")?;
    let rest = Rest { state: Value::Null, registers, shim: Memory::default() };
    // From here on it goes on whatever happens.
    let mut standing = Standing { domain, hold: Some(hold), begun, was_paused, rest };
    moment();
    left.add(&source.take(turn)?);
    source.send(&left, target)?;
    standing.rest.state = source.request("save")?;
    standing.rest.shim = Memory::read(domain.observer.shim())
        .map_err(|source| CopyError::Memory { name: domain.name(), source })?;
    Ok(standing)
}

/// Sends the frozen layers of a domain's disks, the lowest first, which nobody writes: for a target to which all layers of a disk are one.
pub fn send_frozen(domain: &Domain, target: &mut dyn Target) -> Result<(), CopyError> {
    for (index, disk) in domain.disks().iter().filter(|disk| !disk.spec.read_only).enumerate() {
        for layer in &disk.frozen {
            source::send_layer(domain, index, disk, layer, target)?;
        }
    }
    Ok(())
}

/// Has the domain's process note no more what is written; at the end of a copy that no diff follows.
pub fn forget(domain: &Domain) -> Result<(), CopyError> {
    match domain.life() {
        Life::Running | Life::Paused => Source::open(domain)?.ask(LogRequest::Stop),
        // Its process has gone, or goes.
        _ => Ok(()),
    }
}
