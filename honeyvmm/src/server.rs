//! The thread that serves a domain's xenstore and console.
//!
//! What the guest prints goes to a stream that its keeper reads; a reader that is too slow loses bytes, since a guest must not wait for
//! it. What comes from the stream is typed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::console::Console;
use crate::evtchn::{BackendChannel, Doorbell};
use crate::hypercall::EarlyConsole;
use crate::xenbus::Xenbus;

/// Bytes of console output moved at once.
const CONSOLE_CHUNK: usize = 4096;
/// Turns of xenstore served before the console is looked at again.
const XENSTORE_TURNS_MAX: u32 = 64;
/// How long after its last event a ring is looked at once more. Linux' xb_write puts bytes and looks whether we have taken those before,
/// without a barrier between: both may miss the other. A processor's stores are seen by all within a microsecond.
const SECOND_LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// Lines of the log that broken rings of one domain get: the guest decides how often they are looked at.
const COMPLAINTS_MAX: u32 = 16;

/// What ended a wait.
enum Waited {
    /// The guest rang, or somebody typed.
    Woken,
    /// Nothing, for so long.
    TimedOut,
    /// The domain's end.
    Ended,
}

/// A doorbell that wakes the thread of xenstore and console.
pub struct Wake(pub OwnedFd);

impl Doorbell for Wake {
    fn ring(&self) {
        // Full or not, it is readable after this.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// Console bytes to the stream, whole or dropped: a reader that does not read must not hold up the guest.
pub struct ConsoleStream(pub OwnedFd);

impl EarlyConsole for ConsoleStream {
    fn write(&self, bytes: &[u8]) {
        // A full socket drops: the log's keeper is slow, the guest is not to wait for it.
        let _ = rustix::io::write(&self.0, bytes);
    }
}

/// Holds the thread still while the domain is paused: on return from [`Gate::close`] it touches nothing of the guest's.
#[derive(Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    inside: bool,
}

impl Gate {
    /// Waits until the thread is outside, and keeps it there.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        while state.inside {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets it in again.
    pub fn open(&self) {
        self.state().closed = false;
        self.changed.notify_all();
    }

    fn enter(&self) {
        let mut state = self.state();
        while state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.inside = true;
    }

    fn leave(&self) {
        self.state().inside = false;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread of xenstore and console.
pub struct Server {
    /// Devices and their frontends.
    pub bus: Xenbus,
    /// The console's ring.
    pub console: Console,
    /// Its event channel.
    pub console_channel: BackendChannel,
    /// The stream of what is printed and typed.
    pub stream: OwnedFd,
    /// Readable when the guest has rung.
    pub wake: OwnedFd,
    /// Readable when the domain has ended.
    pub stop: OwnedFd,
    /// Complaints that the log has got.
    pub complaints: u32,
    /// Where it is held.
    pub gate: Arc<Gate>,
}

impl Server {
    /// Serves to the domain's end; closes the devices then.
    pub fn run(mut self) {
        let mut stream_open = true;
        let mut woken = true;
        loop {
            self.gate.enter();
            let mut busy = self.serve_xenstore();
            busy |= self.drain_console();
            self.gate.leave();
            if busy {
                continue;
            }
            match self.wait(&mut stream_open, woken.then_some(SECOND_LOOK)) {
                Waited::Woken => {
                    self.gate.enter();
                    self.push_input();
                    self.gate.leave();
                    woken = true;
                }
                Waited::TimedOut => woken = false,
                Waited::Ended => {
                    self.drain_console();
                    self.bus.close();
                    return;
                }
            }
        }
    }

    /// True: there is more.
    fn serve_xenstore(&mut self) -> bool {
        for _ in 0..XENSTORE_TURNS_MAX {
            match self.bus.service() {
                Ok(turn) if turn.more => {}
                Ok(_) => return false,
                Err(e) => {
                    self.complain("xenstore", &e);
                    return false;
                }
            }
        }
        true
    }

    fn drain_console(&mut self) -> bool {
        let mut out = Vec::with_capacity(CONSOLE_CHUNK);
        match self.console.drain_output(&mut out) {
            Ok(0) => false,
            Ok(_) => {
                let _ = rustix::io::write(&self.stream, &out);
                self.console_channel.notify();
                true
            }
            Err(e) => {
                self.complain("console", &e);
                false
            }
        }
    }

    fn type_input(&mut self, stream_open: &mut bool) {
        let mut buffer = [0; 1024];
        match rustix::io::read(&self.stream, &mut buffer) {
            Ok(0) => *stream_open = false,
            Ok(n) => {
                self.console.queue_input(&buffer[..n]);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => *stream_open = false,
        }
    }

    /// Waits for the guest, the console's stream or the end.
    fn wait(&mut self, stream_open: &mut bool, timeout: Option<Timespec>) -> Waited {
        let (woken, typed) = {
            let stream: BorrowedFd<'_> = self.stream.as_fd();
            let stream_events = if *stream_open { PollFlags::IN } else { PollFlags::empty() };
            let mut fds = [
                PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(stream, stream_events),
            ];
            let count = if *stream_open { 3 } else { 2 };
            let ready = poll(&mut fds[..count], timeout.as_ref());
            if !fds[1].revents().is_empty() {
                return Waited::Ended;
            }
            if ready == Ok(0) {
                return Waited::TimedOut;
            }
            (!fds[0].revents().is_empty(), count == 3 && !fds[2].revents().is_empty())
        };
        if woken {
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        if typed {
            self.type_input(stream_open);
        }
        Waited::Woken
    }

    fn push_input(&mut self) {
        match self.console.push_input() {
            Ok(0) => {}
            Ok(_) => self.console_channel.notify(),
            Err(e) => self.complain("console", &e),
        }
    }

    fn complain(&mut self, ring: &str, error: &dyn std::error::Error) {
        if self.complaints < COMPLAINTS_MAX {
            self.complaints += 1;
            tracing::warn!(ring, %error, "the guest broke a ring");
        }
    }
}
