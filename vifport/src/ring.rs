//! One direction of the port: a ring of descriptors over a ring of bytes, one producer, one consumer.
//!
//! Who fills in a number is not believed by who reads it: each side keeps its own index and its own record of what the
//! data area holds, and takes from shared memory only how far the other has come.
//!
//! Sleeping: a side sets its "wanted" word, then looks once more; the other publishes its index, then looks at the word.
//! With a sequentially consistent fence between the two steps on both sides, at least one sees the other.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use thiserror::Error;

use crate::frame::{Descriptor, FrameMeta, MetaError};
use crate::layout::{DATA_BYTES, DESCRIPTOR_BYTES, DESCRIPTORS, FRAME_BYTES_MAX, RingLayout};
use crate::memory::Memory;

/// What the other side did wrong. The port is not used again after it.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The other side's index is not one that it can have reached.
    #[error("ring index {theirs} with ours at {ours}")]
    Index {
        /// What the other side wrote.
        theirs: u32,
        /// Where this side is.
        ours: u32,
    },
    /// A frame of no bytes, or of more than `FRAME_BYTES_MAX`.
    #[error("frame of {0} bytes")]
    Length(u32),
    /// A frame that begins outside the data area.
    #[error("frame at offset {0}")]
    Offset(u32),
    /// Offload fields that make no sense.
    #[error("bad offload fields")]
    Meta(#[from] MetaError),
}

/// Why a frame was not sent.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum SendError {
    /// No descriptor or not enough room for the bytes; the frame counts as dropped.
    #[error("port is full")]
    Full,
    /// A frame of no bytes, or of more than `FRAME_BYTES_MAX`.
    #[error("frame of {0} bytes")]
    Length(usize),
    /// Offload fields that the other side would refuse.
    #[error("bad offload fields")]
    Meta(#[from] MetaError),
    /// The other side broke the rules, now or before.
    #[error("port is closed after a violation")]
    Broken(#[from] Violation),
}

#[derive(Debug)]
pub(crate) struct Producer {
    layout: RingLayout,
    produced: u32,
    consumed: u32,
    head: u32,
    used: u32,
    // Lengths of the frames in flight, oldest first; never more than DESCRIPTORS.
    in_flight: VecDeque<u32>,
}

impl Producer {
    /// Goes on where the ring stands: a backend that is started again finds the port as its predecessor left it.
    pub fn new(layout: RingLayout, memory: &Memory) -> Result<Self, Violation> {
        let produced = memory.word(layout.produced()).load(Acquire);
        let consumed = memory.word(layout.consumed()).load(Acquire);
        let pending = produced.wrapping_sub(consumed);
        if pending > DESCRIPTORS {
            return Err(Violation::Index { theirs: consumed, ours: produced });
        }
        // Where the predecessor's frames lie is not known for sure: they hold the whole area until all are taken.
        let mut in_flight: VecDeque<u32> = std::iter::repeat_n(0, pending as usize).collect();
        if let Some(last) = in_flight.back_mut() {
            *last = DATA_BYTES;
        }
        let used = in_flight.iter().sum();
        Ok(Self { layout, produced, consumed, head: 0, used, in_flight })
    }

    pub fn send(&mut self, memory: &Memory, meta: &FrameMeta, parts: &[&[u8]]) -> Result<(), SendError> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let len = match u32::try_from(total) {
            Ok(len) if (1..=FRAME_BYTES_MAX).contains(&len) => len,
            _ => return Err(SendError::Length(total)),
        };
        meta.check(len)?;
        if !self.has_room(len) {
            self.reclaim(memory)?;
            if !self.has_room(len) {
                return Err(SendError::Full);
            }
        }
        let offset = self.head;
        for part in parts {
            self.write(memory, part);
        }
        let descriptor = Descriptor { offset, len, meta: *meta };
        memory.write(self.layout.descriptor(self.produced), &descriptor.encode());
        self.used += len;
        self.in_flight.push_back(len);
        self.produced = self.produced.wrapping_add(1);
        memory.word(self.layout.produced()).store(self.produced, Release);
        Ok(())
    }

    /// True if a frame of `len` bytes fits; otherwise the consumer is asked to wake this side when it has made room.
    pub fn room_or_wait(&mut self, memory: &Memory, len: u32) -> Result<bool, Violation> {
        memory.word(self.layout.room_wanted()).store(1, Relaxed);
        fence(SeqCst);
        self.reclaim(memory)?;
        let room = self.has_room(len);
        if room {
            memory.word(self.layout.room_wanted()).store(0, Relaxed);
        }
        Ok(room)
    }

    /// True if the consumer sleeps and is to be woken; asking takes the wish back.
    pub fn take_frame_wanted(&self, memory: &Memory) -> bool {
        let wanted = memory.word(self.layout.frame_wanted());
        wanted.load(Relaxed) != 0 && wanted.swap(0, Relaxed) != 0
    }

    fn has_room(&self, len: u32) -> bool {
        self.produced.wrapping_sub(self.consumed) < DESCRIPTORS && len <= DATA_BYTES - self.used
    }

    fn reclaim(&mut self, memory: &Memory) -> Result<(), Violation> {
        // The consumer may rewrite the index while we look, so read it once.
        let theirs = memory.word(self.layout.consumed()).load(Acquire);
        let done = theirs.wrapping_sub(self.consumed);
        if done as usize > self.in_flight.len() {
            return Err(Violation::Index { theirs, ours: self.produced });
        }
        self.used -= self.in_flight.drain(..done as usize).sum::<u32>();
        self.consumed = theirs;
        Ok(())
    }

    fn write(&mut self, memory: &Memory, part: &[u8]) {
        let to_end = (DATA_BYTES - self.head) as usize;
        let (first, second) = part.split_at(part.len().min(to_end));
        memory.write(self.layout.data(self.head), first);
        memory.write(self.layout.data(0), second);
        // A part is at most FRAME_BYTES_MAX long, so the sum fits.
        self.head = (self.head + part.len() as u32) % DATA_BYTES;
    }
}

#[derive(Debug)]
pub(crate) struct Consumer {
    layout: RingLayout,
    consumed: u32,
}

impl Consumer {
    /// Goes on where the ring stands.
    pub fn new(layout: RingLayout, memory: &Memory) -> Self {
        Self { layout, consumed: memory.word(layout.consumed()).load(Acquire) }
    }

    pub fn recv(&mut self, memory: &Memory, frame: &mut Vec<u8>) -> Result<Option<FrameMeta>, Violation> {
        if self.pending(memory)? == 0 {
            return Ok(None);
        }
        let mut bytes = [0; DESCRIPTOR_BYTES];
        memory.read(self.layout.descriptor(self.consumed), &mut bytes);
        let Descriptor { offset, len, meta } = Descriptor::decode(&bytes)?;
        if !(1..=FRAME_BYTES_MAX).contains(&len) {
            return Err(Violation::Length(len));
        }
        if offset >= DATA_BYTES {
            return Err(Violation::Offset(offset));
        }
        meta.check(len)?;
        frame.resize(len as usize, 0);
        let to_end = (DATA_BYTES - offset) as usize;
        let (first, second) = frame.split_at_mut((len as usize).min(to_end));
        memory.read(self.layout.data(offset), first);
        memory.read(self.layout.data(0), second);
        self.consumed = self.consumed.wrapping_add(1);
        memory.word(self.layout.consumed()).store(self.consumed, Release);
        Ok(Some(meta))
    }

    /// True if nothing is there and the producer has been asked to wake this side; false if there is a frame.
    pub fn wait(&mut self, memory: &Memory) -> Result<bool, Violation> {
        memory.word(self.layout.frame_wanted()).store(1, Relaxed);
        fence(SeqCst);
        let empty = self.pending(memory)? == 0;
        if !empty {
            memory.word(self.layout.frame_wanted()).store(0, Relaxed);
        }
        Ok(empty)
    }

    /// True if the producer sleeps and there is room again worth waking it for; asking takes the wish back.
    pub fn take_room_wanted(&self, memory: &Memory) -> bool {
        let wanted = memory.word(self.layout.room_wanted());
        wanted.load(Relaxed) != 0 && wanted.swap(0, Relaxed) != 0
    }

    fn pending(&self, memory: &Memory) -> Result<u32, Violation> {
        let theirs = memory.word(self.layout.produced()).load(Acquire);
        let pending = theirs.wrapping_sub(self.consumed);
        if pending > DESCRIPTORS {
            return Err(Violation::Index { theirs, ours: self.consumed });
        }
        Ok(pending)
    }
}
