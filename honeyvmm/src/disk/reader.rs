//! A layer as a copier reads it, while its domain writes: which clusters it holds, and what is in them.
//!
//! Data is written before its bit, so a cluster that is held has been written; one that is written meanwhile is read old or new, and the dirty log
//! says of it that it must be read again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use fixedbitset::FixedBitSet;

use super::header::Header;
use super::layer::{data_offset, read_header, whole_map};
use super::{BaseId, CLUSTER_BYTES, DiskError};
use crate::dirty::set_of;

/// A layer, for reading alone.
#[derive(Debug)]
pub struct LayerReader {
    file: File,
    header: Header,
}

impl LayerReader {
    /// Takes no lock: the domain may run.
    ///
    /// # Errors
    /// [`DiskError::Header`] for a file that is no layer or is damaged.
    pub fn open(file: File) -> Result<Self, DiskError> {
        let header = read_header(&file)?;
        Ok(Self { file, header })
    }

    /// What the layer is bound to.
    #[must_use]
    pub fn base_id(&self) -> BaseId {
        self.header.base_id
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.header.disk_bytes
    }

    /// The clusters that the layer holds at this moment.
    ///
    /// # Errors
    /// The host's errors.
    pub fn held(&self) -> io::Result<FixedBitSet> {
        let clusters = self.header.disk_bytes.div_ceil(CLUSTER_BYTES);
        let map = whole_map(&self.file, self.header.disk_bytes)?;
        // In words: a large disk has a hundred million clusters.
        let words = map
            .bytes()
            .chunks(8)
            .map(|bytes| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        Ok(set_of(clusters as usize, words))
    }

    /// Whole clusters from this one on, which the layer holds.
    ///
    /// # Errors
    /// The host's errors; clusters past the end.
    pub fn read(&self, first: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, data_offset(first * CLUSTER_BYTES))
    }
}
