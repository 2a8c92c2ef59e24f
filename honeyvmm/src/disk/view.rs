//! A disk seen from another process, at the same time: what lies below and the layer as one `Read + Seek`.
//!
//! The map is read again for every access, so what the domain has written shows at once. While the domain runs, a
//! reader sees each cluster old or new; who needs one moment for the whole disk pauses the domain.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom as RawSeekFrom, seek};
use rustix::io::Errno;

use super::below::Below;
use super::header::HeaderError;
use super::layer::{data_offset, read_header};
use super::map::Map;
use super::{CLUSTER_BYTES, DiskError, file_bytes, runs};

/// Reads of more are cut: a bound for the piece of the map that one read takes.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Clusters of map that are looked at in one go when all is gone through.
const MAP_STEP_CLUSTERS: u64 = 1 << 18;

/// Base and layer, read-only, with a position of its own.
#[derive(Debug)]
pub struct View {
    below: Below,
    layer: Option<File>,
    bytes: u64,
    position: u64,
}

impl View {
    /// A view of a base image (and frozen layers) and perhaps a layer over it. Takes no lock: the domain may run.
    ///
    /// # Errors
    /// A layer that is none, is damaged or has another size than the base image.
    pub fn new(below: impl Into<Below>, layer: Option<File>) -> Result<Self, DiskError> {
        let below = below.into();
        let bytes = file_bytes(below.image())?;
        if let Some(layer) = &layer
            && read_header(layer)?.disk_bytes != bytes
        {
            return Err(HeaderError::OtherBase.into());
        }
        Ok(Self { below, layer, bytes, position: 0 })
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads at `offset` without moving the position; fewer bytes than asked for at the disk's end.
    ///
    /// # Errors
    /// The host's errors.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let end = self.bytes.min(offset.saturating_add((out.len() as u64).min(READ_BYTES_MAX)));
        if offset >= end {
            return Ok(0);
        }
        let map = self.map(offset / CLUSTER_BYTES..end.div_ceil(CLUSTER_BYTES))?;
        let held = |cluster| map.as_ref().is_some_and(|map| map.holds(cluster));
        for run in runs(offset..end, &self.below, self.layer.as_ref(), held) {
            let part = &mut out[(run.disk.start - offset) as usize..(run.disk.end - offset) as usize];
            run.file.read_exact_at(part, run.file_offset)?;
        }
        Ok((end - offset) as usize)
    }

    /// The ranges of the disk that are stored somewhere, in order; all between them reads as zeros.
    ///
    /// # Errors
    /// The host's errors.
    pub fn allocated(&self) -> io::Result<Vec<Range<u64>>> {
        let stored_below = |place| {
            let (file, start) = self.below.at(place, 0);
            stored(file, start, self.bytes)
        };
        let below: Vec<_> = (0..self.below.places()).map(stored_below).collect::<io::Result<_>>()?;
        let layer = match &self.layer {
            Some(file) => stored(file, data_offset(0), self.bytes)?,
            None => Vec::new(),
        };
        let mut found = Vec::new();
        let clusters = self.bytes.div_ceil(CLUSTER_BYTES);
        for first in (0..clusters).step_by(MAP_STEP_CLUSTERS as usize) {
            let piece = first..clusters.min(first + MAP_STEP_CLUSTERS);
            let map = self.map(piece.clone())?;
            let held = |cluster| map.as_ref().is_some_and(|map| map.holds(cluster));
            let range = piece.start * CLUSTER_BYTES..self.bytes.min(piece.end * CLUSTER_BYTES);
            for run in runs(range, &self.below, self.layer.as_ref(), held) {
                intersect(&run.disk, run.place.map_or(&layer, |place| &below[place]), &mut found);
            }
        }
        Ok(found)
    }

    fn map(&self, clusters: Range<u64>) -> io::Result<Option<Map>> {
        self.layer.as_ref().map(|file| Map::load(file, clusters)).transpose()
    }
}

impl Read for View {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.read_at(self.position, out)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for View {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.bytes.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// The extents of `file` within `bytes` bytes from `start` on that are no holes, counted from `start`.
fn stored(file: &File, start: u64, bytes: u64) -> io::Result<Vec<Range<u64>>> {
    let end = start + bytes;
    let mut extents = Vec::new();
    let mut at = start;
    while at < end {
        // Who shares this open file reads by offset, as we do: moving its cursor disturbs nobody.
        let data = match seek(file, RawSeekFrom::Data(at)) {
            Ok(data) => data.min(end),
            Err(Errno::NXIO) => break,
            // A block device tells of no holes.
            Err(Errno::INVAL) => {
                extents.push(at - start..bytes);
                break;
            }
            Err(errno) => return Err(errno.into()),
        };
        let hole = seek(file, RawSeekFrom::Hole(data))?.min(end);
        if data < hole {
            extents.push(data - start..hole - start);
        }
        at = hole;
    }
    Ok(extents)
}

/// Appends the parts of `extents` (in order) that lie in `run`, joined to what is there where they touch.
fn intersect(run: &Range<u64>, extents: &[Range<u64>], found: &mut Vec<Range<u64>>) {
    let first = extents.partition_point(|extent| extent.end <= run.start);
    for extent in extents[first..].iter().take_while(|extent| extent.start < run.end) {
        let part = extent.start.max(run.start)..extent.end.min(run.end);
        match found.last_mut() {
            Some(last) if last.end == part.start => last.end = part.end,
            Some(_) | None => found.push(part),
        }
    }
}
