//! Messages that were taken from the queue and are not acknowledged yet, in order.

use std::collections::VecDeque;

use crate::wire::Position;

/// Messages between two acknowledgements: what one fsync of the sink covers at most.
const WINDOW_EVENTS_MAX: usize = 1024;
/// Their bytes.
const WINDOW_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Where a message lies besides the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere.
    Inbox,
    /// In the spool file, which may be emptied only after it is acknowledged.
    Spool,
}

/// A framed message.
#[derive(Debug)]
pub struct Frame {
    pub position: Position,
    pub bytes: Vec<u8>,
    pub origin: Origin,
}

/// The unacknowledged messages; those before `sent` were given to the present connection.
#[derive(Debug, Default)]
pub struct Window {
    frames: VecDeque<Frame>,
    bytes: usize,
    sent: usize,
    spooled: usize,
}

impl Window {
    pub fn has_room(&self) -> bool {
        self.frames.len() < WINDOW_EVENTS_MAX && self.bytes < WINDOW_BYTES_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// No message of the spool file is among the unacknowledged.
    pub fn spool_is_acked(&self) -> bool {
        self.spooled == 0
    }

    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.bytes.len();
        self.spooled += usize::from(frame.origin == Origin::Spool);
        self.frames.push_back(frame);
    }

    /// The next message that the present connection has not seen.
    pub fn next_unsent(&mut self) -> Option<&Frame> {
        let frame = self.frames.get(self.sent)?;
        self.sent += 1;
        Some(frame)
    }

    pub fn all_sent(&self) -> bool {
        self.sent == self.frames.len()
    }

    /// A new connection has seen nothing.
    pub fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Forgets what an acknowledgement covers: the event at this position and all before it. One that was not sent is ignored.
    pub fn acknowledge(&mut self, ack: &Position) -> Vec<Frame> {
        let covered = |f: &Frame| f.position.run == ack.run && f.position.seq <= ack.seq;
        let end = self.frames.iter().take(self.sent).rposition(covered).map_or(0, |last| last + 1);
        let gone: Vec<Frame> = self.frames.drain(..end).collect();
        self.sent -= end;
        for frame in &gone {
            self.bytes -= frame.bytes.len();
            self.spooled -= usize::from(frame.origin == Origin::Spool);
        }
        gone
    }

    /// Every message, in order.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(run: &str, seq: u64, origin: Origin) -> Frame {
        Frame { position: Position { run: run.into(), seq }, bytes: vec![0; 10], origin }
    }

    #[test]
    fn an_acknowledgement_covers_earlier_runs_and_nothing_unsent() {
        let mut window = Window::default();
        window.push(frame("a", 8, Origin::Spool));
        window.push(frame("a", 9, Origin::Spool));
        window.push(frame("b", 1, Origin::Inbox));
        window.push(frame("b", 2, Origin::Inbox));
        assert!(window.acknowledge(&Position { run: "b".into(), seq: 2 }).is_empty());
        for _ in 0..3 {
            window.next_unsent();
        }
        let gone = window.acknowledge(&Position { run: "b".into(), seq: 2 });
        assert_eq!((gone.len(), window.frames().count()), (3, 1));
        assert!(window.spool_is_acked());
        assert_eq!(window.next_unsent().unwrap().position.seq, 2);
        assert!(window.acknowledge(&Position { run: "x".into(), seq: 9 }).is_empty());
    }
}
