//! Reading a vcpu's ring. The guest can write it: a position or a record that cannot be is an error value, and the reader starts anew
//! at the writer's end.

use honeyvmm::memory::MemoryError;
use honeyvmm::shim::trace::{RING_BYTES, Trace};

use super::record::{self, HEAD_BYTES, Record, RecordError};

/// Why the ring has nothing to read although something was written.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// More was written than the ring holds.
    #[error("the ring's writer is {0} bytes ahead of its reader")]
    Position(u64),
    /// It is no record.
    #[error("the ring has no record where one should be")]
    Record(#[from] RecordError),
    /// It is past the ring's end.
    #[error("a record goes past the ring's end")]
    Memory(#[from] MemoryError),
}

/// A vcpu's ring and how far it was read.
pub struct Ring {
    trace: Trace,
    position: u64,
    buffer: Vec<u8>,
    // Read, but not taken.
    next: Option<(u64, Record)>,
}

impl Ring {
    /// Reads on where the last reader stopped.
    pub fn new(trace: Trace) -> Ring {
        Ring { position: trace.tail(), trace, buffer: Vec::new(), next: None }
    }

    /// The trace that it belongs to.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The next record, if one was written.
    ///
    /// # Errors
    /// What is there is none; the rest of what was written is passed over.
    pub fn peek(&mut self) -> Result<Option<&Record>, RingError> {
        if self.next.is_none() {
            let before = self.position;
            self.next = self.advance()?.map(|record| (before, record));
        }
        Ok(self.next.as_ref().map(|(_, record)| record))
    }

    /// Takes it. It stays in the ring until [`Ring::release`].
    ///
    /// # Errors
    /// As of [`Ring::peek`].
    pub fn take(&mut self) -> Result<Option<Record>, RingError> {
        self.peek()?;
        Ok(self.next.take().map(|(_, record)| record))
    }

    fn advance(&mut self) -> Result<Option<Record>, RingError> {
        loop {
            let head = self.trace.head();
            match self.read(head.wrapping_sub(self.position)) {
                Ok(Step::Record(record)) => return Ok(Some(record)),
                Ok(Step::Padding) => {}
                Ok(Step::Empty) => return Ok(None),
                Err(error) => {
                    self.position = head;
                    return Err(error);
                }
            }
        }
    }

    fn read(&mut self, written: u64) -> Result<Step, RingError> {
        if written == 0 {
            return Ok(Step::Empty);
        }
        if written > RING_BYTES || !written.is_multiple_of(8) {
            return Err(RingError::Position(written));
        }
        let to_end = RING_BYTES - self.position % RING_BYTES;
        let mut head = [0; HEAD_BYTES];
        // What fills the ring's end may be shorter than a head.
        let there = (HEAD_BYTES as u64).min(to_end).min(written) as usize;
        self.trace.read(self.position, &mut head[..there])?;
        let (bytes, kind) = record::head(&head)?;
        if bytes as u64 > written.min(to_end) {
            return Err(RecordError::Length(bytes as u32).into());
        }
        let from = self.position;
        self.position += bytes as u64;
        if kind.is_none() {
            return Ok(Step::Padding);
        }
        self.buffer.resize(bytes, 0);
        self.trace.read(from, &mut self.buffer)?;
        // The length may have been written anew between the two reads; `parse` compares it with the buffer's.
        Ok(Step::Record(record::parse(&self.buffer)?))
    }

    /// Gives back what was taken; a vcpu that waits for it goes on.
    pub fn release(&self) {
        self.trace.set_tail(self.next.as_ref().map_or(self.position, |(before, _)| *before));
    }
}

enum Step {
    Record(Record),
    Padding,
    Empty,
}

#[cfg(test)]
mod tests {
    use honeyvmm::memory::{Access, Gpa, Region};
    use honeyvmm::shim::{Layout, SHIM_GPA, window};

    use super::*;

    struct Writer(Region);

    impl Writer {
        fn new() -> Writer {
            let layout = Layout { ram_bytes: 0, vcpus: 1 };
            Writer(Region::anonymous(SHIM_GPA, layout.shim_bytes().max(16 << 20)).unwrap())
        }

        fn ring(&self) -> Ring {
            Ring::new(Trace::new(&self.0, 0).unwrap())
        }

        fn put(&self, at: u64, bytes: &[u8]) {
            self.0.write(Gpa(SHIM_GPA.0 + window::RING + at), bytes).unwrap();
        }

        fn set_head(&self, head: u64) {
            self.0.write_u64(Gpa(SHIM_GPA.0 + window::TRACE + 8), head).unwrap();
        }
    }

    fn leave(result: i64) -> Vec<u8> {
        let mut bytes = vec![0; 80];
        bytes[0] = 80;
        bytes[4] = 2;
        bytes[72..].copy_from_slice(&result.to_le_bytes());
        bytes
    }

    #[test]
    fn records_come_in_order_and_over_the_rings_end() {
        let writer = Writer::new();
        let start = RING_BYTES - 88;
        writer.0.write_u64(Gpa(SHIM_GPA.0 + window::TRACE + 64), start).unwrap();
        let mut ring = writer.ring();
        writer.put(start, &leave(1));
        writer.put(RING_BYTES - 8, &[8, 0, 0, 0, 0, 0, 0, 0]);
        writer.put(0, &leave(2));
        writer.set_head(start + 88 + 80);
        let phases: Vec<_> = std::iter::from_fn(|| ring.take().unwrap()).map(|record| record.phase).collect();
        assert_eq!(phases, [record::Phase::Leave(1), record::Phase::Leave(2)]);
        ring.release();
        assert_eq!(ring.trace().tail(), start + 168);
    }

    #[test]
    fn what_was_looked_at_is_not_given_back() {
        let writer = Writer::new();
        let mut ring = writer.ring();
        writer.put(0, &leave(1));
        writer.put(80, &leave(2));
        writer.set_head(160);
        ring.take().unwrap().unwrap();
        assert_eq!(ring.peek().unwrap().unwrap().phase, record::Phase::Leave(2));
        ring.release();
        assert_eq!(ring.trace().tail(), 80);
        assert_eq!(ring.take().unwrap().unwrap().phase, record::Phase::Leave(2));
        ring.release();
        assert_eq!(ring.trace().tail(), 160);
    }

    #[test]
    fn a_forged_ring_is_an_error_and_then_empty() {
        for (head, bytes) in
            [(u64::MAX, leave(1)), (80, vec![0; 80]), (80, vec![0xff; 80]), (72, leave(1)), (71, leave(1))]
        {
            let writer = Writer::new();
            writer.put(0, &bytes);
            let mut ring = writer.ring();
            writer.set_head(head);
            assert!(ring.take().is_err());
            assert!(ring.take().unwrap().is_none());
        }
    }
}
