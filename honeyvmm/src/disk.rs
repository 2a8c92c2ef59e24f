//! Disks: a raw base image, shared and never written, and a domain's private copy-on-write layer over it.
//!
//! Writes go to the page cache at once, data before the map's bit, so that killing the process loses nothing that the
//! guest has written. A power failure of the host loses what came after the last flush; a cluster that was written
//! first since then may read as zeros. Image formats other than raw, and growing a disk, are not done here.

mod below;
mod header;
mod layer;
mod map;
mod reader;
mod view;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{FlockOperation, SeekFrom, flock, seek};
use rustix::io::Errno;
use thiserror::Error;

pub use below::Below;
pub use header::HeaderError;
pub use layer::Layer;
pub use reader::LayerReader;
pub use view::View;

use crate::dirty::Bits;
use crate::memory::{Access, Gpa, MemoryError};

/// Bytes of a cluster, the unit of copying: the page and block size of our guests.
pub const CLUSTER_BYTES: u64 = 4096;
/// The largest disk; its map takes 32 MiB of our memory.
pub const DISK_BYTES_MAX: u64 = 1 << 40;
/// What a layer is bound to: 32 bytes that the caller derives from the base image's size, time and content.
pub type BaseId = [u8; 32];

/// Why a disk could not be opened, read or written.
#[derive(Debug, Error)]
pub enum DiskError {
    /// Somebody else holds the lock.
    #[error("disk {0} is in use by another domain")]
    InUse(String),
    /// The layer's header is foreign or damaged.
    #[error("not a usable copy-on-write layer")]
    Header(#[from] HeaderError),
    /// The base image is too large.
    #[error("disk of {0} bytes is larger than {DISK_BYTES_MAX}")]
    TooLarge(u64),
    /// Layer over layer over layer.
    #[error("{0} layers lie over each other, the limit is {max}", max = below::FROZEN_MAX)]
    TooDeep(usize),
    /// A range past the disk's end.
    #[error("{bytes} bytes at {offset} are outside a disk of {disk_bytes} bytes")]
    Outside {
        /// Where the range starts.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// The disk's length.
        disk_bytes: u64,
    },
    /// A write or discard of a disk that the domain may only read.
    #[error("disk is read-only")]
    ReadOnly,
    /// The guest named memory that it does not have, or the transfer failed.
    #[error("transfer between disk and guest memory failed")]
    Memory(#[from] MemoryError),
    /// The host refused.
    #[error("disk i/o failed")]
    Io(#[from] io::Error),
}

/// Whether a domain may write its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// One disk of a domain, locked for as long as it lives.
#[derive(Debug)]
pub struct Disk {
    below: Below,
    layer: Option<Layer>,
    bytes: u64,
    mode: Mode,
    /// Where written clusters are noted.
    written: Option<Bits>,
}

impl Disk {
    /// A disk named `name` (for messages) of a base image and perhaps a layer. Without a layer, writes go to the base.
    ///
    /// # Errors
    /// [`DiskError::InUse`] if another domain writes the same image or uses the same layer; an image that is too large.
    pub fn new(
        name: &str,
        below: impl Into<Below>,
        layer: Option<Layer>,
        mode: Mode,
    ) -> Result<Self, DiskError> {
        let below = below.into();
        let exclusive = layer.is_none() && mode == Mode::ReadWrite;
        let how = if exclusive {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        lock(name, below.image(), how)?;
        if let Some(layer) = &layer {
            lock(name, layer.file(), FlockOperation::NonBlockingLockExclusive)?;
        }
        let bytes = match &layer {
            Some(layer) => layer.disk_bytes(),
            None => file_bytes(below.image())?,
        };
        Ok(Self { below, layer, bytes, mode, written: None })
    }

    /// Has every cluster that is written or discarded noted there, while the log is on.
    pub fn log_writes(&mut self, bits: Bits) {
        self.written = Some(bits);
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the domain may write.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Reads `out.len()` bytes at `offset`.
    ///
    /// # Errors
    /// [`DiskError::Outside`], the host's errors.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        self.check(offset, out.len() as u64)?;
        for run in self.runs(offset, out.len() as u64) {
            let part = &mut out[(run.disk.start - offset) as usize..(run.disk.end - offset) as usize];
            run.file.read_exact_at(part, run.file_offset)?;
        }
        Ok(())
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// [`DiskError::ReadOnly`], [`DiskError::Outside`], the host's errors.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.write_with(offset, data.len() as u64, |file, at| Ok(file.write_all_at(data, at)?))
    }

    /// Reads consecutive bytes from `offset` on straight into ranges of guest memory.
    ///
    /// # Errors
    /// As [`Disk::read_at`]; [`DiskError::Memory`] for ranges outside the guest's memory.
    pub fn read_into_guest(
        &self,
        offset: u64,
        memory: &impl Access,
        ranges: &[(Gpa, u64)],
    ) -> Result<(), DiskError> {
        let bytes = total(ranges);
        self.check(offset, bytes)?;
        let mut rest = Ranges::new(ranges);
        for run in self.runs(offset, bytes) {
            let part = rest.take(run.disk.end - run.disk.start);
            memory.read_from_file_vectored_at(run.file, run.file_offset, &part)?;
        }
        Ok(())
    }

    /// Writes ranges of guest memory to consecutive bytes from `offset` on.
    ///
    /// # Errors
    /// As [`Disk::write_at`]; [`DiskError::Memory`] for ranges outside the guest's memory.
    pub fn write_from_guest(
        &mut self,
        offset: u64,
        memory: &impl Access,
        ranges: &[(Gpa, u64)],
    ) -> Result<(), DiskError> {
        self.write_with(offset, total(ranges), |file, at| {
            Ok(memory.write_to_file_vectored_at(file, at, ranges)?)
        })
    }

    /// Makes everything written so far survive a power failure.
    ///
    /// # Errors
    /// The host's errors: then nothing is known to be safe.
    pub fn flush(&self) -> Result<(), DiskError> {
        // Data and map are one file, so one call covers both; the map's bits were set after their data.
        let file = self.layer.as_ref().map_or(self.below.image(), Layer::file);
        Ok(rustix::fs::fdatasync(file).map_err(io::Error::from)?)
    }

    /// Gives whole clusters of the range back to the host; they read as zeros afterwards. Parts of clusters at its ends
    /// stay as they are, which a discard allows.
    ///
    /// # Errors
    /// [`DiskError::ReadOnly`], [`DiskError::Outside`], the host's errors.
    pub fn discard(&mut self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.check_write(offset, bytes)?;
        let first = offset.next_multiple_of(CLUSTER_BYTES);
        // The disk's last cluster may be a short one: it is whole if the range reaches the end.
        let end = offset + bytes;
        let last = if end == self.bytes { end } else { end - end % CLUSTER_BYTES };
        if first >= last {
            return Ok(());
        }
        let done = match &mut self.layer {
            Some(layer) => layer.discard(first..last),
            None => layer::punch(self.below.image(), first, last - first),
        };
        self.note(first..last);
        done
    }

    fn check(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        if offset.checked_add(bytes).is_some_and(|end| end <= self.bytes) {
            return Ok(());
        }
        Err(DiskError::Outside { offset, bytes, disk_bytes: self.bytes })
    }

    fn check_write(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        if self.mode == Mode::ReadOnly {
            return Err(DiskError::ReadOnly);
        }
        self.check(offset, bytes)
    }

    fn write_with(
        &mut self,
        offset: u64,
        bytes: u64,
        write: impl FnOnce(&File, u64) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        self.check_write(offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        let done = match &mut self.layer {
            Some(layer) => layer.write_with(&self.below, offset..offset + bytes, write),
            None => write(self.below.image(), offset),
        };
        self.note(offset..offset + bytes);
        done
    }

    /// Notes clusters that were written, or may have been when the write failed.
    fn note(&self, range: Range<u64>) {
        if let Some(written) = &self.written {
            written.mark(range.start / CLUSTER_BYTES..range.end.div_ceil(CLUSTER_BYTES));
        }
    }

    fn runs(&self, offset: u64, bytes: u64) -> impl Iterator<Item = Run<'_>> {
        runs(offset..offset + bytes, &self.below, self.layer.as_ref().map(Layer::file), |cluster| {
            self.layer.as_ref().is_some_and(|layer| layer.holds(cluster))
        })
    }
}

/// A piece of the disk that lies in one piece in one file.
struct Run<'a> {
    disk: Range<u64>,
    /// Of what lies below; `None`: the layer.
    place: Option<usize>,
    file: &'a File,
    file_offset: u64,
}

/// Cuts a range of the disk where the file that holds it changes. `held` says of a cluster whether the layer has it.
fn runs<'a>(
    range: Range<u64>,
    below: &'a Below,
    layer: Option<&'a File>,
    held: impl Fn(u64) -> bool,
) -> impl Iterator<Item = Run<'a>> {
    // None: the layer.
    let place = move |cluster| if held(cluster) { None } else { Some(below.place(cluster)) };
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let start = at;
        let here = place(start / CLUSTER_BYTES);
        let mut cluster = start / CLUSTER_BYTES + 1;
        while cluster * CLUSTER_BYTES < range.end && place(cluster) == here {
            cluster += 1;
        }
        at = range.end.min(cluster * CLUSTER_BYTES);
        let (file, file_offset) = match (layer, here) {
            (Some(file), None) => (file, layer::data_offset(start)),
            (_, place) => below.at(place.unwrap_or(0), start),
        };
        Some(Run { disk: start..at, place: here, file, file_offset })
    })
}

/// Ranges of guest memory, taken from the front piece by piece.
struct Ranges<'a> {
    ranges: &'a [(Gpa, u64)],
    taken: u64,
}

impl<'a> Ranges<'a> {
    fn new(ranges: &'a [(Gpa, u64)]) -> Self {
        Self { ranges, taken: 0 }
    }

    /// The next `bytes` bytes, which the ranges hold (the caller has added them up).
    fn take(&mut self, mut bytes: u64) -> Vec<(Gpa, u64)> {
        let mut part = Vec::new();
        while let Some((gpa, len)) = self.ranges.first().filter(|_| bytes > 0) {
            let piece = bytes.min(len - self.taken);
            part.push((Gpa(gpa.0 + self.taken), piece));
            bytes -= piece;
            self.taken += piece;
            if self.taken == *len {
                self.ranges = &self.ranges[1..];
                self.taken = 0;
            }
        }
        part
    }
}

fn total(ranges: &[(Gpa, u64)]) -> u64 {
    ranges.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
}

fn lock(name: &str, file: &File, how: FlockOperation) -> Result<(), DiskError> {
    flock(file, how).map_err(|errno| match errno {
        Errno::WOULDBLOCK => DiskError::InUse(name.to_owned()),
        other => io::Error::from(other).into(),
    })
}

/// Length of an image, in bytes. Moves the file's position, which nobody here uses.
///
/// # Errors
/// [`DiskError::TooLarge`], the host's errors.
pub fn file_bytes(file: &File) -> Result<u64, DiskError> {
    // A block device has no length in its metadata.
    let bytes = seek(file, SeekFrom::End(0)).map_err(io::Error::from)?;
    if bytes > DISK_BYTES_MAX {
        return Err(DiskError::TooLarge(bytes));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
