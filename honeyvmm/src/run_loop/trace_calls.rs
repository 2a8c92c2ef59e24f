//! What the shim's trace asks of its reader, and how long a vcpu waits for it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::{End, Running};
use crate::shim::trace::{RING_BYTES, TRACE_FULL, TRACE_SYNC, Trace};

/// A reader that frees nothing for so long is gone: the trace ends, the guest goes on.
const FULL_MAX: Duration = Duration::from_secs(10);
/// A call waits so long for its record to be read.
const SYNC_MAX: Duration = Duration::from_millis(200);
/// The reader most often runs on another core and has read by then: to sleep and be woken would take as long again.
const SPIN_MAX: Duration = Duration::from_micros(200);
/// How often a vcpu looks that waits for longer.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// A vcpu's trace and how its reader is woken.
pub struct TraceCalls {
    /// The trace.
    pub trace: Trace,
    /// The eventfd of the reader, if there is one.
    pub bell: Option<OwnedFd>,
}

impl TraceCalls {
    fn ring(&self) {
        if let Some(bell) = &self.bell {
            // A counter that is at its limit wakes the reader as well.
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    /// Has the reader come so far that the vcpu may go on?
    fn done(&self, nr: u64, wanted: u64) -> bool {
        let used = self.trace.head().wrapping_sub(self.trace.tail());
        match nr {
            // A guest that forges positions gets no wait out of it.
            TRACE_FULL => used > RING_BYTES || wanted > RING_BYTES || RING_BYTES - used >= wanted,
            _ => used == 0,
        }
    }
}

impl Running {
    /// `TRACE_FULL` waits for room, `TRACE_SYNC` until everything was read; the bell alone does not wait.
    pub(super) fn trace(&mut self, nr: u64, wanted: u64) -> Option<End> {
        let it = &self.it;
        it.trace.ring();
        let limit = match nr {
            TRACE_FULL => FULL_MAX,
            TRACE_SYNC => SYNC_MAX,
            _ => return None,
        };
        let vcpu = it.index as usize;
        let began = Instant::now();
        let (mut until, mut tail) = (began + limit, it.trace.trace.tail());
        while !self.it.trace.done(nr, wanted) {
            if began.elapsed() < SPIN_MAX {
                std::thread::yield_now();
                continue;
            }
            if self.it.requests.pending() && !self.stand_still() {
                return Some(End::Stopped);
            }
            if Instant::now() > until {
                if nr == TRACE_FULL {
                    self.it.trace.trace.disarm();
                    tracing::warn!(vcpu, "nobody reads the trace: it ends");
                }
                return None;
            }
            self.it.kicks.0[vcpu].wait(LOOK_EVERY, || self.it.requests.pending());
            let now = self.it.trace.trace.tail();
            if now != tail {
                (until, tail) = (Instant::now() + limit, now);
            }
        }
        None
    }
}
