//! The time of day at which a call was made, from the domain's system time and the wall clock of its shared_info page (Xen's
//! public/xen.h). The guest can write that page, so a time that cannot be is replaced by now.

use honeyvmm::memory::{Access, Region};
use honeyvmm::shim::Layout;
use jiff::Timestamp;

use crate::trace::pairing::Traced;

/// Offset in shared_info.
const WALL_CLOCK: u64 = 3072;
/// A record is read no later than this after it was written.
const AGE_MAX_NS: i128 = 60_000_000_000;

/// A domain's wall clock.
pub struct WallClock {
    shim: Region,
    layout: Layout,
}

impl WallClock {
    /// Of the domain with this shim.
    pub fn new(shim: &Region, layout: &Layout) -> WallClock {
        WallClock { shim: shim.clone(), layout: *layout }
    }

    /// When this call ended.
    pub fn at(&self, call: &Traced) -> Timestamp {
        self.time(call.enter.time_ns.saturating_add(call.duration_ns))
    }

    /// The time of day at this system time.
    pub fn time(&self, system_ns: u64) -> Timestamp {
        let now = Timestamp::now();
        self.told(system_ns)
            .filter(|told| (0..AGE_MAX_NS).contains(&(now.as_nanosecond() - told.as_nanosecond())))
            .unwrap_or(now)
    }

    fn told(&self, system_ns: u64) -> Option<Timestamp> {
        let at = self.layout.shared_info().offset(WALL_CLOCK);
        let word = |offset: u64| self.shim.read_u32(at.offset(offset)).ok();
        let seconds = u64::from(word(4)?) | u64::from(word(12)?) << 32;
        let base_ns = i128::from(seconds) * 1_000_000_000 + i128::from(word(8)?);
        Timestamp::from_nanosecond(base_ns + i128::from(system_ns)).ok()
    }
}
