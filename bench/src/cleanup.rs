//! What a bench has begun is taken back: when its guard is dropped, or when the bench is interrupted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{SigSet, Signal};

type Work = Box<dyn FnOnce() + Send>;

// Held for looks and changes only, never while work runs.
static PENDING: Mutex<BTreeMap<u64, Work>> = Mutex::new(BTreeMap::new());

/// Does its work when dropped.
#[must_use]
#[derive(Debug)]
pub struct Cleanup {
    number: u64,
}

/// Registers work that is to be done at the guard's end, and at the latest when the bench is interrupted.
pub fn at_end(work: impl FnOnce() + Send + 'static) -> Cleanup {
    let mut pending = pending();
    let number = pending.last_key_value().map_or(0, |(number, _)| number + 1);
    pending.insert(number, Box::new(work));
    Cleanup { number }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let work = pending().remove(&self.number);
        match work {
            Some(work) => work(),
            // The thread of the signals has taken it, and ends the process when all is done: not before, by us.
            None => loop {
                std::thread::park();
            },
        }
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP do all pending work, the newest first, and end the bench. Children do not inherit
/// the mask: the standard library gives them an empty one.
pub fn on_signals() -> anyhow::Result<()> {
    let mut ends = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        ends.add(signal);
    }
    ends.thread_block()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        if let Ok(signal) = ends.wait() {
            while let Some((_, work)) = { pending().pop_last() } {
                work();
            }
            std::process::exit(128 + signal as i32);
        }
    })?;
    Ok(())
}

fn pending() -> MutexGuard<'static, BTreeMap<u64, Work>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}
