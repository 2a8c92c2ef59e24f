//! A virtual disk as xenbus sees it: the backend, its event channel, and the worker that does what takes long.
//!
//! Whoever rings sets a flag and tries the lock; whoever holds the lock looks at the flag after letting go. So a vcpu never
//! waits for a worker that is in the middle of a flush, and no ring is lost.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

use crate::device::{Overseen, Reporter, Reports};
use crate::evtchn::{BackendChannel, Doorbell};
use crate::ring;
use crate::xenbus::{Backend, BackendError, FrontendView, Nodes};

use super::{Blkback, Counters, Patience, Vdev};

/// The only layout of requests that we read.
const PROTOCOL: &str = "x86_64-abi";

/// One virtual disk, with its worker thread.
pub struct BlkDevice {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

struct Shared {
    /// Set by who rings, taken by who serves.
    rung: AtomicBool,
    served: Mutex<Served>,
    /// What the worker waits for. Taken after `served` or without it, never before.
    work: Mutex<Work>,
    work_changed: Condvar,
}

struct Served {
    backend: Blkback,
    channel: Option<BackendChannel>,
    reporter: Reporter,
    paused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    None,
    Serve,
    Stop,
}

impl BlkDevice {
    /// A disk without a frontend yet; starts its worker.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn new(vdev: Vdev, backend: Blkback, reports: Arc<dyn Reports>) -> io::Result<Self> {
        let reporter = Reporter::new(format!("vbd-{vdev}"), reports);
        let shared = Arc::new(Shared {
            rung: AtomicBool::new(false),
            served: Mutex::new(Served { backend, channel: None, reporter, paused: false }),
            work: Mutex::new(Work::None),
            work_changed: Condvar::new(),
        });
        let for_worker = shared.clone();
        let worker = std::thread::Builder::new().name(format!("vbd-{vdev}")).spawn(move || {
            while for_worker.next_work() {
                while for_worker.serve(Patience::Long) {}
            }
        })?;
        Ok(Self { shared, worker: Some(worker) })
    }

    /// What went through the disk so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.with(|served| served.backend.counters())
    }

    /// The disk from outside.
    #[must_use]
    pub fn overseen(&self) -> Arc<dyn Overseen> {
        self.shared.clone()
    }
}

impl Backend for BlkDevice {
    fn features(&self) -> Nodes {
        self.shared.with(|served| served.backend.features())
    }

    fn connect(&mut self, frontend: &FrontendView) -> Result<Nodes, BackendError> {
        refuse_other(frontend, "protocol", PROTOCOL)?;
        refuse_other(frontend, "ring-page-order", "0")?;
        let ring = frontend.map_ring("ring-ref", ring::BLKIF)?;
        let (memory, grants) = (frontend.memory().clone(), frontend.grants().clone());
        let connected = self.shared.with(|served| {
            served.channel = None;
            served.backend.connect(ring, memory, grants);
            served.reporter.restart();
            let bound = frontend.bind_channel("event-channel", self.shared.clone());
            served.channel = Some(bound.inspect_err(|_| served.backend.disconnect())?);
            Ok(served.backend.properties())
        });
        // Requests may have been put before the channel was bound.
        self.shared.ring();
        connected
    }

    fn close(&mut self) {
        self.shared.with(|served| {
            served.backend.disconnect();
            served.channel = None;
        });
    }
}

impl Drop for BlkDevice {
    fn drop(&mut self) {
        self.close();
        self.shared.give_work(Work::Stop);
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has nothing more to tell.
            let _ = worker.join();
        }
    }
}

impl Doorbell for Shared {
    fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        if self.serve(Patience::Short) {
            self.give_work(Work::Serve);
        }
    }
}

impl Overseen for Shared {
    fn pause(&self) {
        self.with(|served| served.paused = true);
    }

    fn unpause(&self) {
        self.with(|served| served.paused = false);
        self.ring();
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        let counters = self.with(|served| served.backend.counters());
        vec![
            ("reads", counters.reads),
            ("read_bytes", counters.read_bytes),
            ("writes", counters.writes),
            ("written_bytes", counters.written_bytes),
            ("flushes", counters.flushes),
        ]
    }
}

impl Shared {
    /// Serves if the ring was rung; true if something is left: what takes longer than `patience`, or a ring meanwhile.
    fn serve(&self, patience: Patience) -> bool {
        let mut served = match self.served.try_lock() {
            Ok(served) => served,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Who holds it looks at the flag afterwards.
            Err(TryLockError::WouldBlock) => return false,
        };
        if served.paused {
            return false;
        }
        if self.rung.swap(false, Ordering::SeqCst) && served.serve(patience) {
            self.rung.store(true, Ordering::SeqCst);
        }
        drop(served);
        // Only now: whoever rang while the lock was held has gone away again.
        self.rung.load(Ordering::SeqCst)
    }

    /// For all but serving. A ring that came meanwhile found the lock taken, so the worker is told of it.
    fn with<T>(&self, act: impl FnOnce(&mut Served) -> T) -> T {
        // Nothing in it is left half done by a panic that a later call could not stand.
        let result = act(&mut self.served.lock().unwrap_or_else(PoisonError::into_inner));
        if self.rung.load(Ordering::SeqCst) {
            self.give_work(Work::Serve);
        }
        result
    }

    fn give_work(&self, work: Work) {
        let mut waiting = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if *waiting != Work::Stop {
            *waiting = work;
        }
        self.work_changed.notify_one();
    }

    /// Waits for something to do; false at the end.
    fn next_work(&self) -> bool {
        let waiting = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |work: &mut Work| *work == Work::None;
        let mut waiting = self.work_changed.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
        if *waiting == Work::Stop {
            return false;
        }
        *waiting = Work::None;
        true
    }
}

impl Served {
    /// One call of the backend and what follows from it; true if more waits.
    fn serve(&mut self, patience: Patience) -> bool {
        let serviced = self.backend.service(patience);
        if let Some(violation) = &serviced.violation {
            self.reporter.violation(violation);
        }
        if let Some(error) = &serviced.host_error {
            self.reporter.host_error(error);
        }
        if serviced.notify
            && let Some(channel) = &self.channel
        {
            channel.notify();
        }
        serviced.more
    }
}

/// A frontend may leave a value out, but may not say anything else than `only`.
fn refuse_other(frontend: &FrontendView, key: &str, only: &str) -> Result<(), BackendError> {
    match frontend.text(key) {
        Some(value) if value != only => {
            Err(BackendError::Unsupported { key: key.to_owned(), value: value.to_owned() })
        }
        Some(_) | None => Ok(()),
    }
}
