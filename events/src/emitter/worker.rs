//! The emitter's thread: queue to window or spool, window to the sink, acknowledgements back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::inbox::{INBOX_EVENTS_MAX, Inbox};
use super::link::{Broken, Dial, Link};
use super::spool::{Next, Spool};
use super::window::{Frame, Origin, Window};
use crate::Event;
use crate::wire::{self, Position, Source};

/// How long the last events may take once the emitter is dropped.
const CLOSE: Duration = Duration::from_millis(500);

pub struct Worker {
    inbox: Arc<Inbox>,
    source: Source,
    hostname: String,
    pid: u32,
    dial: Dial,
    link: Option<Link>,
    window: Window,
    spool: Option<Spool>,
}

impl Worker {
    pub fn new(inbox: Arc<Inbox>, source: Source, dial: Dial, spool: Option<Spool>) -> Worker {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let hostname = wire::sensor_name(&name);
        let pid = std::process::id();
        Worker { inbox, source, hostname, pid, dial, link: None, window: Window::default(), spool }
    }

    pub fn run(mut self) {
        let mut deadline = None;
        loop {
            self.step();
            if self.inbox.closing() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + CLOSE);
                if self.link.is_none() || self.nothing_left() || Instant::now() >= deadline {
                    return self.save();
                }
            }
            self.sleep(deadline);
        }
    }

    fn step(&mut self) {
        if self.link.is_none() {
            self.link = self.dial.dial(Instant::now());
            self.window.rewind();
        }
        self.refill();
        if self.exchange().is_err() {
            self.link = None;
        }
    }

    /// Fills the window from the spool, or from the queue once the spool is empty, and spools what cannot wait in the queue.
    fn refill(&mut self) {
        while self.window.has_room() {
            match self.spool.as_mut().map_or(Next::End, Spool::next_frame) {
                Next::Frame(frame) => self.window.push(frame),
                Next::Unreadable => self.inbox.count_dropped(1),
                Next::End => break,
            }
        }
        if self.window.spool_is_acked()
            && let Some(spool) = self.spool.as_mut().filter(|s| s.is_empty())
        {
            spool.reset();
        }
        while self.window.has_room() && self.spool.as_ref().is_none_or(Spool::is_empty) {
            let Some((seq, event)) = self.inbox.take() else { return };
            let frame = self.format(seq, &event);
            self.window.push(frame);
        }
        self.overflow();
    }

    /// To the spool go: everything while it is in use (order), and everything while the sink is away or slow.
    fn overflow(&mut self) {
        let busy = self.inbox.len() > INBOX_EVENTS_MAX / 2;
        while let Some(spool) = self.spool.as_ref() {
            if !spool.has_room() || (spool.is_empty() && self.link.is_some() && !busy) {
                return;
            }
            let Some((seq, event)) = self.inbox.take() else { return };
            let frame = self.format(seq, &event);
            let appended = self.spool.as_mut().map_or(Ok(()), |s| s.append(&frame.bytes));
            if let Err(error) = appended {
                tracing::warn!("spool takes no more: {error}");
                self.inbox.count_dropped(1);
                return;
            }
        }
    }

    fn format(&self, seq: u64, event: &Event) -> Frame {
        let message = wire::message(event, &self.source, seq, &self.hostname, self.pid);
        let position = Position { run: self.source.run.clone(), seq };
        Frame { position, bytes: wire::frame(&message), origin: Origin::Inbox }
    }

    fn exchange(&mut self) -> Result<(), Broken> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        // Acknowledgements first: they make room.
        for ack in link.receive()? {
            let gone = self.window.acknowledge(&ack);
            let own = gone.iter().rev().find(|f| f.position.run == self.source.run);
            if let Some(frame) = own {
                self.inbox.set_acked(frame.position.seq);
            }
        }
        loop {
            while link.has_room()
                && let Some(frame) = self.window.next_unsent()
            {
                link.queue(&frame.bytes);
            }
            link.send()?;
            if !link.idle() || self.window.all_sent() {
                return Ok(());
            }
        }
    }

    fn nothing_left(&self) -> bool {
        self.window.is_empty()
            && self.inbox.len() == 0
            && self.spool.as_ref().is_none_or(Spool::is_empty)
            && self.link.as_ref().is_none_or(Link::idle)
    }

    fn sleep(&self, deadline: Option<Instant>) {
        let now = Instant::now();
        // An acknowledgement may have made room for what waits in queue or spool: nobody else will wake us for it.
        let queue_is_empty = self.inbox.about_to_sleep();
        let waits = !queue_is_empty || self.spool.as_ref().is_some_and(|s| !s.is_empty());
        if waits && self.window.has_room() {
            return;
        }
        let dial = if self.link.is_none() { self.dial.wait(now) } else { None };
        let close = deadline.map(|d| d.saturating_duration_since(now));
        let wait = dial.into_iter().chain(close).min();
        let timeout = wait.and_then(|w| Timespec::try_from(w).ok());
        let wake = self.inbox.wake_fd();
        let mut fds = vec![PollFd::from_borrowed_fd(wake, PollFlags::IN)];
        if let Some(link) = &self.link {
            let out = if link.idle() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::from_borrowed_fd(link.fd(), PollFlags::IN | out));
        }
        // An interrupted or failed poll is only one more turn.
        let _ = poll(&mut fds, timeout.as_ref());
        self.inbox.hush();
    }

    /// Leaves what is not acknowledged to the sensor's next run.
    fn save(mut self) {
        if self.nothing_left() {
            return;
        }
        let Some(spool) = self.spool.take() else { return };
        let before: Vec<Vec<u8>> = self.window.frames().map(|f| f.bytes.clone()).collect();
        let after =
            std::iter::from_fn(|| self.inbox.take()).map(|(seq, event)| self.format(seq, &event).bytes);
        if let Err(error) = spool.replace(before.into_iter(), after) {
            tracing::warn!("events are lost, the spool cannot be written: {error}");
        }
    }
}
