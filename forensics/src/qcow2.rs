//! Disks as qcow2, version 3, uncompressed (QEMU `docs/interop/qcow2.rst`). Write only.
//!
//! Everything is laid out before anything is written: header, refcount table and blocks, L1, L2 tables, data. Only
//! clusters that are not all zero are stored.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::sparse;

const CLUSTER_BITS: u32 = 16;
const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
const HEADER_BYTES: u32 = 104;
/// An L2 table fills one cluster with 8-byte entries.
const L2_ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Refcounts are 16 bits wide (order 4).
const REFCOUNTS_PER_BLOCK: u64 = CLUSTER_BYTES / 2;
/// The cluster is used once, so it may be written in place.
const COPIED: u64 = 1 << 63;
const SECTOR_BYTES: u64 = 512;

/// Writes a raw image as qcow2 into an empty file.
pub fn write(raw: &File, out: &File) -> io::Result<()> {
    let bytes = raw.metadata()?.len();
    let used = used_clusters(raw, bytes)?;
    let layout = Layout::new(bytes, &used);
    out.write_all_at(&layout.header(bytes), 0)?;
    out.write_all_at(&layout.refcounts(), CLUSTER_BYTES)?;
    out.write_all_at(&layout.tables(&used), layout.l1_start * CLUSTER_BYTES)?;
    let mut buffer = vec![0; CLUSTER_BYTES as usize];
    for (place, cluster) in (layout.data_start..).zip(&used) {
        let length = (bytes - cluster * CLUSTER_BYTES).min(CLUSTER_BYTES) as usize;
        raw.read_exact_at(&mut buffer[..length], cluster * CLUSTER_BYTES)?;
        sparse::write_nonzero(out, &buffer[..length], place * CLUSTER_BYTES)?;
    }
    out.set_len(layout.clusters * CLUSTER_BYTES)
}

/// The clusters that are not all zero, ascending.
fn used_clusters(raw: &File, bytes: u64) -> io::Result<Vec<u64>> {
    let mut out: Vec<u64> = Vec::new();
    let mut buffer = vec![0; CLUSTER_BYTES as usize];
    for range in sparse::data_ranges(raw, 0..bytes)? {
        for cluster in range.start / CLUSTER_BYTES..range.end.div_ceil(CLUSTER_BYTES) {
            // Two ranges of data can share a cluster.
            if out.last() == Some(&cluster) {
                continue;
            }
            let length = (bytes - cluster * CLUSTER_BYTES).min(CLUSTER_BYTES) as usize;
            raw.read_exact_at(&mut buffer[..length], cluster * CLUSTER_BYTES)?;
            if !sparse::is_zero(&buffer[..length]) {
                out.push(cluster);
            }
        }
    }
    Ok(out)
}

/// Where everything stands, in clusters.
struct Layout {
    l1_entries: u64,
    /// Indices of the L2 tables that exist.
    l2_tables: Vec<u64>,
    refcount_table_clusters: u64,
    refcount_blocks: u64,
    l1_start: u64,
    l2_start: u64,
    data_start: u64,
    clusters: u64,
}

impl Layout {
    fn new(bytes: u64, used: &[u64]) -> Layout {
        let l1_entries = bytes.div_ceil(CLUSTER_BYTES * L2_ENTRIES).max(1);
        let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER_BYTES);
        let mut l2_tables: Vec<u64> = used.iter().map(|cluster| cluster / L2_ENTRIES).collect();
        l2_tables.dedup();
        let others = 1 + l1_clusters + l2_tables.len() as u64 + used.len() as u64;
        // Refcount blocks count themselves: grow until the sum is covered.
        let (mut blocks, mut table_clusters) = (1, 1);
        while blocks * REFCOUNTS_PER_BLOCK < others + blocks + table_clusters {
            blocks += 1;
            table_clusters = (blocks * 8).div_ceil(CLUSTER_BYTES);
        }
        let l1_start = 1 + table_clusters + blocks;
        let l2_start = l1_start + l1_clusters;
        let data_start = l2_start + l2_tables.len() as u64;
        Layout {
            l1_entries,
            refcount_table_clusters: table_clusters,
            refcount_blocks: blocks,
            l1_start,
            l2_start,
            data_start,
            clusters: data_start + used.len() as u64,
            l2_tables,
        }
    }

    fn header(&self, bytes: u64) -> Vec<u8> {
        let mut out = b"QFI\xfb".to_vec();
        let words =
            |out: &mut Vec<u8>, fields: &[u32]| fields.iter().for_each(|f| out.extend(f.to_be_bytes()));
        // Version; backing file: none (offset and length); cluster bits.
        words(&mut out, &[3, 0, 0, 0, CLUSTER_BITS]);
        out.extend(bytes.next_multiple_of(SECTOR_BYTES).to_be_bytes());
        // No encryption.
        words(&mut out, &[0, self.l1_entries as u32]);
        out.extend((self.l1_start * CLUSTER_BYTES).to_be_bytes());
        out.extend(CLUSTER_BYTES.to_be_bytes());
        // No snapshots, no feature bits.
        words(&mut out, &[self.refcount_table_clusters as u32, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        words(&mut out, &[4, HEADER_BYTES]);
        // The end of the header extensions.
        out.extend([0; 8]);
        out
    }

    /// The refcount table and its blocks: every cluster up to the end is used once.
    fn refcounts(&self) -> Vec<u8> {
        let first_block = 1 + self.refcount_table_clusters;
        let mut out = Vec::new();
        for block in first_block..first_block + self.refcount_blocks {
            out.extend((block * CLUSTER_BYTES).to_be_bytes());
        }
        out.resize((self.refcount_table_clusters * CLUSTER_BYTES) as usize, 0);
        for _ in 0..self.clusters {
            out.extend(1_u16.to_be_bytes());
        }
        out.resize(((self.refcount_table_clusters + self.refcount_blocks) * CLUSTER_BYTES) as usize, 0);
        out
    }

    /// The L1 table and the L2 tables behind it.
    fn tables(&self, used: &[u64]) -> Vec<u8> {
        let mut out = vec![0; ((self.data_start - self.l1_start) * CLUSTER_BYTES) as usize];
        let mut put = |at: u64, cluster: u64| {
            let entry = (cluster * CLUSTER_BYTES) | COPIED;
            out[at as usize..at as usize + 8].copy_from_slice(&entry.to_be_bytes());
        };
        for (table, cluster) in self.l2_tables.iter().zip(self.l2_start..) {
            put(table * 8, cluster);
        }
        let mut table = 0;
        for (cluster, place) in used.iter().zip(self.data_start..) {
            while self.l2_tables[table] != cluster / L2_ENTRIES {
                table += 1;
            }
            let table_start = (self.l2_start - self.l1_start + table as u64) * CLUSTER_BYTES;
            put(table_start + cluster % L2_ENTRIES * 8, place);
        }
        out
    }
}
