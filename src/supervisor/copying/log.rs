//! What a domain has written, and since when.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fixedbitset::FixedBitSet;
use honeyvmm::dirty::{DirtyLayout, DirtyLog};
use honeyvmm::disk::{CLUSTER_BYTES, file_bytes};

use super::super::resources::{self, Disk, ResourceError};
use super::super::saved::Saved;

const PAGE_BYTES: u64 = 4096;

/// Pages of RAM and clusters of disks.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// A bit a page.
    pub ram: FixedBitSet,
    /// A bit a cluster, of each disk that the guest may write.
    pub disks: Vec<FixedBitSet>,
}

impl Written {
    /// All that is in either.
    pub fn add(&mut self, other: &Written) {
        self.ram.grow(other.ram.len());
        self.ram.union_with(&other.ram);
        self.disks.resize(self.disks.len().max(other.disks.len()), FixedBitSet::new());
        for (ours, theirs) in self.disks.iter_mut().zip(&other.disks) {
            ours.grow(theirs.len());
            ours.union_with(theirs);
        }
    }

    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        let clusters: usize = self.disks.iter().map(|disk| disk.count_ones(..)).sum();
        self.ram.count_ones(..) as u64 * PAGE_BYTES + clusters as u64 * CLUSTER_BYTES
    }
}

/// Copies of one domain, one at a time.
pub struct Copies {
    log: DirtyLog,
    disks: usize,
    /// The snapshot that it went on from.
    origin: Option<Arc<Saved>>,
    // Held over a whole copy; nothing else is locked before it but within one (a domain's hold).
    turn: Mutex<Turn>,
}

/// Who copies.
#[derive(Default)]
pub struct Turn {
    /// The last snapshot, if writes are noted since.
    pub last: Option<Last>,
}

/// A snapshot that the next one may be a diff of.
pub struct Last {
    /// Where it lies.
    pub folder: PathBuf,
    /// What was taken out of the log since, by copies of any kind.
    pub since: Written,
}

impl Copies {
    /// Of a domain with so much RAM and these disks; also the file that its process is to note its writes in.
    pub fn new(
        memory_mib: u64,
        disks: &[Disk],
        origin: Option<Arc<Saved>>,
    ) -> Result<(Copies, File), ResourceError> {
        let wrong = |source| ResourceError::Make { what: "the log of what is written", source };
        let written = disks.iter().filter(|disk| !disk.spec.read_only);
        let bytes: Vec<u64> = written
            .map(|disk| file_bytes(&disk.base).map_err(|error| wrong(io::Error::other(error))))
            .collect::<Result<_, _>>()?;
        let layout = DirtyLayout::new(memory_mib << 20, &bytes);
        let file = resources::dirty(&layout)?;
        let log = file.try_clone().map_err(wrong)?;
        let log = DirtyLog::map(log, layout).map_err(|error| wrong(io::Error::other(error)))?;
        Ok((Copies { log, disks: bytes.len(), origin, turn: Mutex::default() }, file))
    }

    /// Waits until nobody copies.
    pub fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot that the domain went on from.
    pub fn origin(&self) -> Option<&Saved> {
        self.origin.as_deref()
    }

    /// Takes out what the domain's process has brought to the file.
    pub fn take(&self) -> Written {
        let disks = (0..self.disks).filter_map(|disk| self.log.disk(disk));
        Written { ram: self.log.ram().take(), disks: disks.map(|bits| bits.take()).collect() }
    }
}
