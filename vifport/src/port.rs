//! Making a port, and the two ends of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use thiserror::Error;

use crate::frame::FrameMeta;
use crate::layout::{HEADER, PORT_BYTES, RingLayout};
use crate::memory::Memory;
use crate::ring::{Consumer, Producer, SendError, Violation};

/// Which end of the port this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The vif's backend, in the domain's process.
    Backend,
    /// The switch.
    Switch,
}

/// The three descriptors of a port. Both ends get all three.
#[derive(Debug)]
pub struct PortFds {
    /// The memfd.
    pub memory: OwnedFd,
    /// The eventfd that the switch waits on.
    pub to_switch: OwnedFd,
    /// The eventfd that the backend waits on.
    pub from_switch: OwnedFd,
}

/// Why descriptors do not make a port.
#[derive(Debug, Error)]
pub enum AttachError {
    /// Another length than a port's.
    #[error("port memory has {0} bytes")]
    Size(i64),
    /// Not sealed, so the other side could truncate it under us.
    #[error("port memory is not sealed against shrinking")]
    NotSealed,
    /// Another magic number, version or layout.
    #[error("port header is {0:x?}")]
    Header([u32; 4]),
    /// The indices in it are not those of a ring.
    #[error("port ring is damaged")]
    Ring(#[from] Violation),
    /// A system call failed.
    #[error("port memory cannot be mapped")]
    Io(#[from] io::Error),
}

/// Maker of ports: the toolstack, which hands the descriptors to both ends.
pub struct Port;

impl Port {
    /// Makes an empty port.
    pub fn create() -> io::Result<PortFds> {
        let memory = memfd_create("vifport", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memory, PORT_BYTES as u64)?;
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let header = HEADER.map(u32::to_le_bytes).concat();
        let written = rustix::io::pwrite(&memory, &header, 0)?;
        if written != header.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(PortFds { memory, to_switch: eventfd(0, flags)?, from_switch: eventfd(0, flags)? })
    }
}

/// One end of a port. For one thread at a time; it may move between threads.
#[derive(Debug)]
pub struct Endpoint {
    memory: Memory,
    producer: Producer,
    consumer: Consumer,
    peer_wake: OwnedFd,
    own_wake: OwnedFd,
    frames_dropped: u64,
    violation: Option<Violation>,
}

impl Endpoint {
    /// Maps the port after checking its size, seals and header.
    pub fn attach(fds: PortFds, side: Side) -> Result<Self, AttachError> {
        let size = fstat(&fds.memory).map_err(io::Error::from)?.st_size;
        if size != PORT_BYTES as i64 {
            return Err(AttachError::Size(size));
        }
        let seals = fcntl_get_seals(&fds.memory).map_err(io::Error::from)?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(AttachError::NotSealed);
        }
        let memory = Memory::map(fds.memory.as_fd())?;
        let header = [0, 4, 8, 12].map(|offset| u32::from_le(memory.word(offset).load(Relaxed)));
        if header != HEADER {
            return Err(AttachError::Header(header));
        }
        let (ours, theirs, peer_wake, own_wake) = match side {
            Side::Backend => (RingLayout::TO_SWITCH, RingLayout::FROM_SWITCH, fds.to_switch, fds.from_switch),
            Side::Switch => (RingLayout::FROM_SWITCH, RingLayout::TO_SWITCH, fds.from_switch, fds.to_switch),
        };
        let producer = Producer::new(ours, &memory)?;
        let consumer = Consumer::new(theirs, &memory);
        Ok(Self { memory, producer, consumer, peer_wake, own_wake, frames_dropped: 0, violation: None })
    }

    /// Puts one frame, given in parts, into the ring; call `notify` after the last of a batch. A frame that finds the
    /// ring full is counted as dropped and is gone, unless the caller keeps it (see `room_or_wait`).
    pub fn send(&mut self, meta: &FrameMeta, parts: &[&[u8]]) -> Result<(), SendError> {
        self.healthy()?;
        let sent = self.producer.send(&self.memory, meta, parts);
        match sent {
            Err(SendError::Full) => self.frames_dropped += 1,
            Err(SendError::Broken(violation)) => self.violation = Some(violation),
            Ok(()) | Err(SendError::Length(_) | SendError::Meta(_)) => {}
        }
        sent
    }

    /// Copies the next frame into `frame` (replacing what it held), or says that there is none. Call `notify` after the
    /// last of a batch: the other side may wait for room. After a violation every call fails with it.
    pub fn recv(&mut self, frame: &mut Vec<u8>) -> Result<Option<FrameMeta>, Violation> {
        self.healthy()?;
        let received = self.consumer.recv(&self.memory, frame);
        self.note(received)
    }

    /// Wakes the other side if it sleeps for want of what this side has done since.
    pub fn notify(&self) -> io::Result<()> {
        fence(SeqCst);
        let frame_wanted = self.producer.take_frame_wanted(&self.memory);
        let room_wanted = self.consumer.take_room_wanted(&self.memory);
        if !(frame_wanted || room_wanted) {
            return Ok(());
        }
        match rustix::io::write(&self.peer_wake, &1u64.to_ne_bytes()) {
            // A counter that is full wakes the other side as well as one that is not.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// To be called before sleeping on `wait_fd`. True: no frame is there, and the other side will signal the next one.
    /// False: there is a frame already, do not sleep.
    pub fn prepare_wait(&mut self) -> Result<bool, Violation> {
        self.healthy()?;
        let waits = self.consumer.wait(&self.memory);
        self.note(waits)
    }

    /// True if a frame of `len` bytes can be sent now. False: it cannot, and the other side will signal `wait_fd` when
    /// it has taken a frame; then ask again.
    pub fn room_or_wait(&mut self, len: u32) -> Result<bool, Violation> {
        self.healthy()?;
        let room = self.producer.room_or_wait(&self.memory, len);
        self.note(room)
    }

    /// Readable when the other side has signalled: a frame, or room that was waited for.
    pub fn wait_fd(&self) -> BorrowedFd<'_> {
        self.own_wake.as_fd()
    }

    /// Takes the signal back; to be called when `wait_fd` was readable, before frames are taken.
    pub fn clear_wait(&self) -> io::Result<()> {
        let mut count = [0; 8];
        match rustix::io::read(&self.own_wake, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Frames that this side could not send because the ring was full.
    pub fn frames_dropped(&self) -> u64 {
        self.frames_dropped
    }

    /// What the other side did wrong, if it did.
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    fn healthy(&self) -> Result<(), Violation> {
        self.violation.map_or(Ok(()), Err)
    }

    fn note<T>(&mut self, result: Result<T, Violation>) -> Result<T, Violation> {
        result.inspect_err(|violation| self.violation = Some(*violation))
    }
}

#[cfg(test)]
mod tests;
