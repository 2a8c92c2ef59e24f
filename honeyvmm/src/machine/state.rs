//! What there is of a domain beside its memory and its disks, as it is saved.
//!
//! It is little: devices stand between two requests when a domain is paused, their rings lie in the domain's memory, and what a vcpu's shim
//! knows lies in the shim's. Values come back from a file, so each is checked before it is used.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::evtchn::ChannelsState;
use crate::hypercall::CpuTables;
use crate::memory::Gfn;
use crate::run_loop::KeptVcpu;
use crate::shim::{Backend, Layout, image};
use crate::vcpus::Lives;
use crate::xenstore::StoreState;

/// Of [`DomainState`]'s form.
pub const VERSION: u32 = 1;

/// A saved domain.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainState {
    /// [`VERSION`].
    pub version: u32,
    /// Which shim runs in it: [`shim_id`].
    pub shim: String,
    /// The number by which the guest knows itself.
    pub domid: u32,
    /// How KVM ran.
    pub backend: Backend,
    /// RAM in bytes.
    pub ram_bytes: u64,
    /// Time.
    pub clock: ClockState,
    /// Each vcpu's registers.
    pub vcpus: Vec<Arc<KeptVcpu>>,
    /// Which of them run.
    pub lives: Lives,
    /// Their descriptor tables and debug registers.
    pub tables: Vec<CpuTables>,
    /// Event channels.
    pub channels: ChannelsState,
    /// Xenstore.
    pub store: StoreState,
    /// Xenstore's and the console's rings.
    pub pages: Pages,
}

/// Where the rings of xenstore and console are: page and port of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pages {
    /// Xenstore's.
    pub store: (Gfn, u32),
    /// The console's.
    pub console: (Gfn, u32),
}

/// A domain's clock and the host's at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockState {
    system_time_ns: u64,
    wall_time_ns: u64,
}

impl ClockState {
    /// This moment.
    pub fn now(clock: &Clock) -> Self {
        Self { system_time_ns: clock.now_ns(), wall_time_ns: wall_time_ns() }
    }

    /// The same clock on a host that shows another time of day: it has stood for so long.
    pub fn moved(&mut self, stood: Duration) {
        let stood = u64::try_from(stood.as_nanos()).unwrap_or(u64::MAX);
        self.wall_time_ns = wall_time_ns().saturating_sub(stood);
    }

    /// What the clock would show if it had run on: the guest's wall clock is right, and its timers are due.
    pub fn system_time_now(&self) -> u64 {
        self.system_time_ns.saturating_add(wall_time_ns().saturating_sub(self.wall_time_ns))
    }
}

fn wall_time_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Why a saved domain cannot go on here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Another form.
    #[error("the saved state has version {0}, this build reads {VERSION}")]
    Version(u32),
    /// The shim in its memory is not ours.
    #[error("the domain was saved by another build of honeyvmm")]
    Build,
    /// It ran in ring 3 natively, or in a hardware virtual machine; the other cannot go on with it.
    #[error("the domain was saved on a host whose kvm is {saved:?}, here it is {here:?}")]
    Backend {
        /// There.
        saved: Backend,
        /// Here.
        here: Backend,
    },
    /// Other RAM or vcpus than the domain is given.
    #[error(
        "the saved state is of {saved_mib} MiB and {saved_vcpus} vcpus, the domain has {mib} MiB and {vcpus}"
    )]
    Size {
        /// Saved RAM.
        saved_mib: u64,
        /// Saved vcpus.
        saved_vcpus: usize,
        /// RAM now.
        mib: u64,
        /// Vcpus now.
        vcpus: u32,
    },
}

/// The vcpu whose registers are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registers of vcpu {0} cannot be read")]
pub struct NotSaved(pub usize);

impl DomainState {
    /// Can a domain of this shape go on with it?
    ///
    /// # Errors
    /// [`StateError`].
    pub fn check(&self, backend: Backend, layout: &Layout) -> Result<(), StateError> {
        if self.version != VERSION {
            return Err(StateError::Version(self.version));
        }
        if self.backend != backend {
            return Err(StateError::Backend { saved: self.backend, here: backend });
        }
        if self.shim != shim_id(backend) {
            return Err(StateError::Build);
        }
        let vcpus = layout.vcpus as usize;
        if self.ram_bytes != layout.ram_bytes || self.vcpus.len() != vcpus || self.tables.len() != vcpus {
            return Err(StateError::Size {
                saved_mib: self.ram_bytes >> 20,
                saved_vcpus: self.vcpus.len(),
                mib: layout.ram_bytes >> 20,
                vcpus: layout.vcpus,
            });
        }
        Ok(())
    }
}

/// The shim of this build: its code is in every domain's memory, and what lies beside it is as this code lays it out.
#[must_use]
pub fn shim_id(backend: Backend) -> String {
    blake3::hash(image(backend)).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_moved_goes_on_by_the_time_that_it_stood_whatever_the_other_host_shows() {
        const HOUR_NS: u64 = 3600 * 1_000_000_000;
        let stood = Duration::from_millis(30);
        for wall_time_ns in [wall_time_ns() - HOUR_NS, wall_time_ns() + HOUR_NS, 0, u64::MAX] {
            let mut clock = ClockState { system_time_ns: 5_000_000_000, wall_time_ns };
            clock.moved(stood);
            let gone = clock.system_time_now() - 5_000_000_000;
            assert!((30_000_000..1_000_000_000).contains(&gone), "{gone} ns from {wall_time_ns}");
        }
    }
}
