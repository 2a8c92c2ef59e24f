//! The bounded queue between those who emit and the emitter's thread.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{EventfdFlags, eventfd};

use crate::{Event, EventId};

/// Events that wait for the thread. About 2 MiB of ordinary events; a domain's process has ten for everything.
pub const INBOX_EVENTS_MAX: usize = 4096;

/// The queue, and the news that go back to those who wait in `flush`.
pub struct Inbox {
    /// Never held over a system call but the eventfd's.
    state: Mutex<State>,
    acked: Condvar,
    wake: OwnedFd,
}

struct State {
    queue: VecDeque<(u64, Event)>,
    /// Sequence number of the next event; what is dropped takes none, so a hole in the sink's record is a loss that matters.
    next_seq: u64,
    acked_seq: u64,
    dropped: u64,
    dropped_since: Option<Timestamp>,
    /// The thread is about to sleep and wants to be woken by the next event.
    sleeping: bool,
    closing: bool,
}

impl State {
    fn push(&mut self, event: Event) {
        self.queue.push_back((self.next_seq, event));
        self.next_seq += 1;
    }
}

impl Inbox {
    pub fn new() -> std::io::Result<Inbox> {
        let state = State {
            queue: VecDeque::new(),
            next_seq: 1,
            acked_seq: 0,
            dropped: 0,
            dropped_since: None,
            sleeping: false,
            closing: false,
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Inbox { state: Mutex::new(state), acked: Condvar::new(), wake })
    }

    pub fn last_seq(&self) -> u64 {
        self.lock().next_seq - 1
    }

    pub fn put(&self, event: Event) {
        let mut state = self.lock();
        if state.queue.len() >= INBOX_EVENTS_MAX {
            state.dropped += 1;
            state.dropped_since.get_or_insert(event.timestamp);
            return;
        }
        state.push(event);
        // Half full: the thread may be waiting for a sink that hangs, and has to begin to spool.
        let half_full = state.queue.len() == INBOX_EVENTS_MAX / 2 + 1;
        if std::mem::take(&mut state.sleeping) || half_full {
            drop(state);
            self.ring();
        }
    }

    /// The next event, if there is one. Reports drops first, once half the queue is free again.
    pub fn take(&self) -> Option<(u64, Event)> {
        let mut state = self.lock();
        if state.dropped > 0 && state.queue.len() < INBOX_EVENTS_MAX / 2 {
            let count = std::mem::take(&mut state.dropped);
            let since = state.dropped_since.take();
            let mut report = Event::new(EventId::EventsDropped, Timestamp::now()).with("count", count);
            if let Some(since) = since {
                report = report.with("since", format!("{since:.6}"));
            }
            state.push(report);
        }
        state.queue.pop_front()
    }

    /// Events lost elsewhere (an unreadable spool) count as dropped too.
    pub fn count_dropped(&self, count: u64) {
        let mut state = self.lock();
        state.dropped += count;
        state.dropped_since.get_or_insert(Timestamp::now());
    }

    /// Events that wait.
    pub fn len(&self) -> usize {
        self.lock().queue.len()
    }

    /// True when the thread may sleep until an event comes or the eventfd is rung for another reason.
    pub fn about_to_sleep(&self) -> bool {
        let mut state = self.lock();
        state.sleeping = state.queue.is_empty();
        state.sleeping
    }

    pub fn set_acked(&self, seq: u64) {
        let mut state = self.lock();
        state.acked_seq = state.acked_seq.max(seq);
        drop(state);
        self.acked.notify_all();
    }

    pub fn wait_acked(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        let wanted = state.next_seq - 1;
        while state.acked_seq < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.acked.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub fn close(&self) {
        self.lock().closing = true;
        self.ring();
    }

    pub fn closing(&self) -> bool {
        self.lock().closing
    }

    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes back what `ring` gave, so that the next poll sleeps.
    pub fn hush(&self) {
        // Nothing to read means nobody rang.
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
    }

    fn ring(&self) {
        // A full counter (EAGAIN) wakes as well as one more ring.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// A poisoned lock still holds a queue that is whole: every change of it is one call.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_the_queue_full_is_reported_once_there_is_room() {
        let inbox = Inbox::new().unwrap();
        for _ in 0..INBOX_EVENTS_MAX + 7 {
            inbox.put(Event::new(EventId::Alert, Timestamp::UNIX_EPOCH));
        }
        let mut last = None;
        let mut count = 0;
        while let Some((seq, event)) = inbox.take() {
            count += 1;
            assert_eq!(seq, count, "sequence numbers have no hole");
            last = Some(event);
        }
        let last = last.unwrap();
        assert_eq!(count as usize, INBOX_EVENTS_MAX + 1);
        assert_eq!((last.id, &last.body["count"]), (EventId::EventsDropped, &serde_json::json!(7)));
        assert_eq!(last.body["since"], "1970-01-01T00:00:00.000000Z");
    }
}
