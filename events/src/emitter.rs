//! The emitter: hands events to logsink without ever making its caller wait.
//!
//! `emit` puts an event into a bounded queue; one thread of the emitter's own sends, takes acknowledgements, reconnects, and writes
//! to a spool file while the sink is away. An event leaves the emitter only when the sink said that it is on disk. What finds the queue
//! full is counted, and reported as `events.dropped` as soon as there is room. It does not decide what is worth an event.
//!
//! In a jailed process the thread must exist before the seccomp filter does; it then calls nothing but `ppoll`, `sendto`, `recvfrom`,
//! `read` (of its eventfd), `close`, `futex`, `clock_gettime` and what malloc calls; the emitting threads call `write` (of the eventfd).

mod inbox;
mod link;
mod spool;
mod window;
mod worker;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Event;
use crate::wire::{Source, sensor_name};
use inbox::Inbox;
use link::{Dial, Link};
use spool::Spool;
use worker::Worker;

/// The thread formats JSON and does no recursion of note; a VMM counts every megabyte.
const THREAD_STACK_BYTES: usize = 512 * 1024;

/// Why an emitter cannot be made. A sink that is away is no error.
#[derive(Debug, thiserror::Error)]
pub enum EmitterError {
    /// No eventfd, no random bytes, or no thread.
    #[error("emitter of {sensor} cannot start")]
    Start {
        /// The sensor's name.
        sensor: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A handle to the emitter; clones share the queue and the connection. Dropping the last one sends what it can for at most
/// half a second, and leaves the rest in the spool file.
#[derive(Clone)]
pub struct Emitter {
    shared: Arc<Handle>,
}

struct Handle {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl Emitter {
    /// An emitter that connects to the sink's socket at `path`, now and whenever the connection breaks. `spool` is a file of this
    /// sensor's own; without one, what does not fit the queue while the sink is away is dropped and counted.
    pub fn connect(path: &Path, sensor: &str, spool: Option<&Path>) -> Result<Emitter, EmitterError> {
        Emitter::start(sensor, Dial::path(path), spool.and_then(Spool::open_or_warn))
    }

    /// An emitter over a stream socket that is connected already, for a process that may open nothing. There is no second connection:
    /// when the socket is closed, events pile up in the queue and are then dropped.
    pub fn from_fd(socket: OwnedFd, sensor: &str) -> Result<Emitter, EmitterError> {
        let failed = |source| EmitterError::Start { sensor: sensor.to_owned(), source };
        let link = Link::from_fd(socket).map_err(failed)?;
        Emitter::start(sensor, Dial::Handed(Some(link)), None)
    }

    /// Queues an event. Never blocks: a full queue counts the event as dropped.
    pub fn emit(&self, event: Event) {
        self.shared.inbox.put(event);
    }

    /// The number of the last event that was queued; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.shared.inbox.last_seq()
    }

    /// Waits until everything emitted before this call is on the sink's disk. False when that took longer than `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.shared.inbox.wait_acked(timeout)
    }

    fn start(sensor: &str, dial: Dial, spool: Option<Spool>) -> Result<Emitter, EmitterError> {
        let failed = |source| EmitterError::Start { sensor: sensor.to_owned(), source };
        let source = Source { sensor: sensor_name(sensor), run: draw_run().map_err(failed)? };
        let inbox = Arc::new(Inbox::new().map_err(failed)?);
        let worker = Worker::new(inbox.clone(), source, dial, spool);
        let thread = std::thread::Builder::new()
            .name("events".into())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || worker.run())
            .map_err(failed)?;
        Ok(Emitter { shared: Arc::new(Handle { inbox, thread: Some(thread) }) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inbox.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// 64 random bits, so that two runs of one sensor never share a name.
fn draw_run() -> std::io::Result<String> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}
