//! Which clusters a layer holds: a bit each, in the file and, for the domain's own process, in memory.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::CLUSTER_BYTES;
use super::header::HEADER_BYTES;

/// Where the map lies in the layer.
const MAP_OFFSET: u64 = HEADER_BYTES as u64;

/// Bytes that the map of a disk takes in the file: whole pages, since data begins after it.
pub(super) fn map_bytes(disk_bytes: u64) -> u64 {
    disk_bytes.div_ceil(CLUSTER_BYTES).div_ceil(8).next_multiple_of(HEADER_BYTES as u64)
}

/// A piece of the map: the bits of consecutive clusters, from a multiple of eight on.
#[derive(Debug)]
pub(super) struct Map {
    first_cluster: u64,
    bytes: Vec<u8>,
}

impl Map {
    /// Reads the bits of `clusters` (and of some neighbours, up to whole bytes).
    pub fn load(file: &File, clusters: Range<u64>) -> io::Result<Self> {
        let first = clusters.start / 8;
        let mut bytes = vec![0; (clusters.end.div_ceil(8) - first) as usize];
        file.read_exact_at(&mut bytes, MAP_OFFSET + first)?;
        Ok(Self { first_cluster: first * 8, bytes })
    }

    /// Whether the layer holds a cluster; false for one that is not in this piece.
    pub fn holds(&self, cluster: u64) -> bool {
        let Some(bit) = cluster.checked_sub(self.first_cluster) else { return false };
        self.bytes.get((bit / 8) as usize).is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
    }

    /// Its bits, that of the first cluster is the lowest of the first byte.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Marks clusters as held, in memory and in the file. Only for a map of the whole disk.
    pub fn set(&mut self, file: &File, clusters: Range<u64>) -> io::Result<()> {
        if clusters.clone().all(|cluster| self.holds(cluster)) {
            return Ok(());
        }
        let touched = (clusters.start / 8) as usize..clusters.end.div_ceil(8) as usize;
        for cluster in clusters {
            self.bytes[(cluster / 8) as usize] |= 1 << (cluster % 8);
        }
        file.write_all_at(&self.bytes[touched.clone()], MAP_OFFSET + touched.start as u64)
    }
}
