//! A virtual interface as xenbus sees it: the backend, its event channel, and the worker that waits for the switch.
//!
//! The guest's events are served by the vcpu that sent them, the switch's by the worker; what is left after a call's share
//! goes to the worker too. A call copies at most some MiB under the lock, so each may wait for the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use crate::device::{Overseen, Reporter, Reports};
use crate::evtchn::{BackendChannel, Doorbell};
use crate::ring;
use crate::xenbus::{Backend, BackendError, FrontendView, Nodes};

use super::{Counters, Netback};

/// One virtual interface, with its worker thread.
pub struct NetDevice {
    shared: Arc<Shared>,
    worker: Option<JoinHandle<()>>,
}

struct Shared {
    served: Mutex<Served>,
    /// Wakes the worker for what is left to do, or to stop.
    wake: OwnedFd,
}

struct Served {
    backend: Netback,
    channel: Option<BackendChannel>,
    reporter: Reporter,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Runs,
    Paused,
    Ended,
}

impl NetDevice {
    /// An interface (the `number`-th of its domain, from 0) without a frontend yet; starts its worker.
    ///
    /// # Errors
    /// No thread or descriptor to be had.
    pub fn new(number: u32, backend: Netback, reports: Arc<dyn Reports>) -> io::Result<Self> {
        let name = format!("vif-{number}");
        let port_signal = backend.port().wait_fd().try_clone_to_owned()?;
        let reporter = Reporter::new(name.clone(), reports);
        let shared = Arc::new(Shared {
            served: Mutex::new(Served { backend, channel: None, reporter, state: State::Runs }),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let for_worker = shared.clone();
        let worker = std::thread::Builder::new().name(name).spawn(move || for_worker.work(&port_signal))?;
        Ok(Self { shared, worker: Some(worker) })
    }

    /// What went through the interface so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.with(|served| served.backend.counters())
    }

    /// The interface from outside.
    #[must_use]
    pub fn overseen(&self) -> Arc<dyn Overseen> {
        self.shared.clone()
    }
}

impl Backend for NetDevice {
    fn features(&self) -> Nodes {
        self.shared.with(|served| served.backend.features())
    }

    fn connect(&mut self, frontend: &FrontendView) -> Result<Nodes, BackendError> {
        require(frontend, "request-rx-copy")?;
        refuse_several_queues(frontend)?;
        let tx = frontend.map_ring("tx-ring-ref", ring::NETIF_TX)?;
        let rx = frontend.map_ring("rx-ring-ref", ring::NETIF_RX)?;
        self.shared.with(|served| {
            served.channel = None;
            served.backend.connect(tx, rx, frontend);
            served.reporter.restart();
            let bound = frontend.bind_channel("event-channel", self.shared.clone());
            served.channel = Some(bound.inspect_err(|_| served.backend.disconnect())?);
            Ok::<_, BackendError>(())
        })?;
        // Requests may have been put before the channel was bound, and the port has to be listened to.
        self.shared.ring();
        Ok(Nodes::new())
    }

    fn close(&mut self) {
        self.shared.with(|served| {
            served.backend.disconnect();
            served.channel = None;
        });
    }
}

impl Drop for NetDevice {
    fn drop(&mut self) {
        self.close();
        self.shared.with(|served| served.state = State::Ended);
        self.shared.wake_worker();
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has nothing more to tell.
            let _ = worker.join();
        }
    }
}

impl Doorbell for Shared {
    fn ring(&self) {
        if self.with(Served::serve) {
            self.wake_worker();
        }
    }
}

impl Overseen for Shared {
    fn pause(&self) {
        self.with(|served| served.state = State::Paused);
    }

    fn unpause(&self) {
        self.with(|served| served.state = State::Runs);
        self.ring();
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        let counters = self.with(|served| served.backend.counters());
        vec![
            ("sent_frames", counters.sent_frames),
            ("sent_bytes", counters.sent_bytes),
            ("sent_dropped", counters.sent_dropped),
            ("received_frames", counters.received_frames),
            ("received_bytes", counters.received_bytes),
            ("received_dropped", counters.received_dropped),
        ]
    }
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Served) -> T) -> T {
        // Nothing in it is left half done by a panic that a later call could not stand.
        act(&mut self.served.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake_worker(&self) {
        // The only failure is a counter that is full, which wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The worker: serves when the switch signals or work was left, until the device ends.
    fn work(&self, port_signal: &OwnedFd) {
        loop {
            let wake = self.wake.as_fd();
            let mut waits = [PollFd::new(&port_signal, PollFlags::IN), PollFd::new(&wake, PollFlags::IN)];
            match poll(&mut waits, None) {
                Ok(_) | Err(Errno::INTR) => {}
                // Neither bad descriptors nor bad pointers can be; without memory the interface stands still.
                Err(_) => return,
            }
            clear(port_signal.as_fd());
            clear(wake);
            // The lock is let go between the calls, so that a vcpu gets its turn.
            while self.with(Served::serve) {}
            if self.with(|served| served.state == State::Ended) {
                return;
            }
        }
    }
}

impl Served {
    /// One call of the backend and what follows from it; true if more waits.
    fn serve(&mut self) -> bool {
        if self.state != State::Runs {
            return false;
        }
        let serviced = self.backend.service();
        if let Some(violation) = &serviced.violation {
            self.reporter.violation(violation);
        }
        if let Some(violation) = &serviced.port_broken {
            self.reporter.host_error(violation);
        }
        if serviced.notify
            && let Some(channel) = &self.channel
        {
            channel.notify();
        }
        serviced.more
    }
}

/// Takes an eventfd's signal back; one that has none is as good.
fn clear(fd: BorrowedFd<'_>) {
    let mut count = [0; 8];
    let _ = rustix::io::read(fd, &mut count);
}

fn require(frontend: &FrontendView, key: &str) -> Result<(), BackendError> {
    if frontend.feature(key) {
        return Ok(());
    }
    let value = frontend.text(key).unwrap_or_default().to_owned();
    Err(BackendError::Unsupported { key: key.to_owned(), value })
}

fn refuse_several_queues(frontend: &FrontendView) -> Result<(), BackendError> {
    let key = "multi-queue-num-queues";
    match frontend.text(key) {
        Some(value) if value != "1" => {
            Err(BackendError::Unsupported { key: key.to_owned(), value: value.to_owned() })
        }
        Some(_) | None => Ok(()),
    }
}
