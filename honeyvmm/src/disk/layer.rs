//! The private layer of one disk: what the domain has written, at the same offsets as on the disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::below::Below;
use super::header::{HEADER_BYTES, Header, HeaderError};
use super::map::{Map, map_bytes};
use super::{BaseId, CLUSTER_BYTES, DISK_BYTES_MAX, DiskError};

/// Data begins at a fixed place, so that the offset of a byte does not depend on the disk's size: after the map of the
/// largest disk. The file is sparse, the gap costs nothing.
const DATA_OFFSET: u64 = HEADER_BYTES as u64 + DISK_BYTES_MAX / CLUSTER_BYTES / 8;

/// Where a byte of the disk lies in the layer.
pub(super) fn data_offset(disk_offset: u64) -> u64 {
    DATA_OFFSET + disk_offset
}

/// A copy-on-write layer, open for writing.
#[derive(Debug)]
pub struct Layer {
    file: File,
    header: Header,
    map: Map,
}

impl Layer {
    /// Makes `file` (empty, open for reading and writing) an empty layer over a base image of `base_bytes` bytes.
    ///
    /// # Errors
    /// A base image that is too large, the host's errors.
    pub fn create(file: File, base_bytes: u64, base_id: BaseId) -> Result<Self, DiskError> {
        if base_bytes > DISK_BYTES_MAX {
            return Err(DiskError::TooLarge(base_bytes));
        }
        let header = Header { disk_bytes: base_bytes, base_id };
        file.set_len(0)?;
        file.set_len(layer_bytes(base_bytes))?;
        file.write_all_at(&header.encode(), 0)?;
        rustix::fs::fsync(&file).map_err(io::Error::from)?;
        let map = whole_map(&file, base_bytes)?;
        Ok(Self { file, header, map })
    }

    /// Opens a layer made by [`Layer::create`] over the same base image.
    ///
    /// # Errors
    /// [`DiskError::Header`] for a file that is no layer, is damaged or belongs to another base image.
    pub fn open(file: File, base_bytes: u64, base_id: BaseId) -> Result<Self, DiskError> {
        let header = read_header(&file)?;
        if (header.disk_bytes, header.base_id) != (base_bytes, base_id) {
            return Err(HeaderError::OtherBase.into());
        }
        let map = whole_map(&file, base_bytes)?;
        Ok(Self { file, header, map })
    }

    /// Opens a layer whose base was checked by whoever handed it in (the toolstack); only the size is compared again.
    ///
    /// # Errors
    /// As [`Layer::open`].
    pub fn open_handed_in(file: File, base_bytes: u64) -> Result<Self, DiskError> {
        let base_id = read_header(&file)?.base_id;
        Self::open(file, base_bytes, base_id)
    }

    /// Puts whole clusters, from this one on, into a layer that no domain has: a copy. Clusters of zeros stay holes, or become some.
    ///
    /// # Errors
    /// Clusters past the disk's end, the host's errors.
    pub fn put(&mut self, first: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let count = bytes.len() as u64 / CLUSTER_BYTES;
        let whole = bytes.len() as u64 == count * CLUSTER_BYTES;
        let clusters = self.header.disk_bytes.div_ceil(CLUSTER_BYTES);
        if !whole || first.checked_add(count).is_none_or(|end| end > clusters) {
            let (offset, disk_bytes) = (first.saturating_mul(CLUSTER_BYTES), self.header.disk_bytes);
            return Err(DiskError::Outside { offset, bytes: bytes.len() as u64, disk_bytes });
        }
        for (cluster, bytes) in (first..).zip(bytes.chunks(CLUSTER_BYTES as usize)) {
            if bytes.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(bytes, data_offset(cluster * CLUSTER_BYTES))?;
            } else if self.holds(cluster) {
                punch(&self.file, data_offset(cluster * CLUSTER_BYTES), CLUSTER_BYTES)?;
            }
        }
        Ok(self.map.set(&self.file, first..first + count)?)
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.header.disk_bytes
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn holds(&self, cluster: u64) -> bool {
        self.map.holds(cluster)
    }

    /// Lets `write` store the bytes of `range` (not empty) at the offset that it is given.
    pub(super) fn write_with(
        &mut self,
        below: &Below,
        range: Range<u64>,
        write: impl FnOnce(&File, u64) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let clusters = range.start / CLUSTER_BYTES..range.end.div_ceil(CLUSTER_BYTES);
        let last = clusters.end - 1;
        if !range.start.is_multiple_of(CLUSTER_BYTES) {
            self.fill(below, clusters.start)?;
        }
        let ends_short = !range.end.is_multiple_of(CLUSTER_BYTES) && range.end < self.header.disk_bytes;
        if ends_short && (last != clusters.start || range.start.is_multiple_of(CLUSTER_BYTES)) {
            self.fill(below, last)?;
        }
        write(&self.file, data_offset(range.start))?;
        // Only now: until the bit is set, a reader takes the cluster from the base.
        Ok(self.map.set(&self.file, clusters)?)
    }

    /// Makes whole clusters read as zeros. `range` begins at a cluster and ends at one, or at the disk's end.
    pub(super) fn discard(&mut self, range: Range<u64>) -> Result<(), DiskError> {
        let clusters = range.start / CLUSTER_BYTES..range.end.div_ceil(CLUSTER_BYTES);
        let bytes = (clusters.end - clusters.start) * CLUSTER_BYTES;
        punch(&self.file, data_offset(range.start), bytes)?;
        Ok(self.map.set(&self.file, clusters)?)
    }

    /// Copies a cluster from what lies below, unless the layer has it: the guest writes only a part of it.
    fn fill(&self, below: &Below, cluster: u64) -> io::Result<()> {
        if self.holds(cluster) {
            return Ok(());
        }
        let mut bytes = [0; CLUSTER_BYTES as usize];
        let start = cluster * CLUSTER_BYTES;
        let len = CLUSTER_BYTES.min(self.header.disk_bytes - start) as usize;
        below.read_cluster(cluster, &mut bytes[..len])?;
        self.file.write_all_at(&bytes, data_offset(start))
    }
}

/// Turns a range of a file into a hole, which reads as zeros.
pub(super) fn punch(file: &File, offset: u64, bytes: u64) -> Result<(), DiskError> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, offset, bytes).map_err(io::Error::from)?)
}

/// Reads and checks a layer's header, and the file's length against it.
pub(super) fn read_header(file: &File) -> Result<Header, DiskError> {
    let actual = file.metadata()?.len();
    if actual < HEADER_BYTES as u64 {
        return Err(HeaderError::Magic.into());
    }
    let mut page = [0; HEADER_BYTES];
    file.read_exact_at(&mut page, 0)?;
    let header = Header::decode(&page)?;
    let expected = layer_bytes(header.disk_bytes);
    if actual != expected {
        return Err(HeaderError::Length { actual, expected }.into());
    }
    Ok(header)
}

/// Length of the file: data of whole clusters.
fn layer_bytes(disk_bytes: u64) -> u64 {
    debug_assert!(map_bytes(disk_bytes) <= DATA_OFFSET - HEADER_BYTES as u64);
    data_offset(disk_bytes.next_multiple_of(CLUSTER_BYTES))
}

pub(super) fn whole_map(file: &File, disk_bytes: u64) -> io::Result<Map> {
    Map::load(file, 0..disk_bytes.div_ceil(CLUSTER_BYTES))
}
