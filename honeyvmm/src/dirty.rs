//! Which pages of RAM and which clusters of disks were written: bitmaps in one file that a domain's process and who copies the domain both map.
//!
//! RAM's come first (a bit a page), then one for each disk that the guest may write, in the domain's order (a bit a cluster of 4 KiB). Each begins at
//! a multiple of 8 bytes; bit n is bit n % 64 of the little-endian word n / 64. The domain's process sets bits, the copier takes them by exchanging
//! words with zero, so that none is lost between the two. Neither believes the other: what lies past a bitmap's end means nothing. How KVM is made to
//! note what the guest writes is not told here (`kvm::Vm`), nor who asks for it (`machine::Handle::log_writes`).

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fixedbitset::FixedBitSet;
use serde::{Deserialize, Serialize};
use vm_memory::volatile_memory::VolatileMemory;
use vm_memory::{FileOffset, MmapRegion};

use crate::disk::CLUSTER_BYTES;
use crate::memory::{Gpa, MemoryError, PAGE_SIZE};

const WORD_BITS: u64 = 64;
const WORD_BYTES: u64 = 8;

/// What is asked of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogRequest {
    /// Writes are noted from now on.
    Start,
    /// What KVM has noted is brought to the file, where all else is already.
    Collect,
    /// Nothing is noted any more, and nothing costs any more.
    Stop,
}

/// How many bits there are of what. Both sides reckon it from the domain's own sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyLayout {
    /// RAM's first.
    counts: Vec<u64>,
}

impl DirtyLayout {
    /// Of a domain with so much RAM and disks of these lengths that the guest may write.
    #[must_use]
    pub fn new(ram_bytes: u64, disks_bytes: &[u64]) -> Self {
        let clusters = disks_bytes.iter().map(|bytes| bytes.div_ceil(CLUSTER_BYTES));
        Self { counts: [ram_bytes / PAGE_SIZE].into_iter().chain(clusters).collect() }
    }

    /// Length of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.words_before(self.counts.len()) * WORD_BYTES
    }

    fn words_before(&self, part: usize) -> u64 {
        self.counts.iter().take(part).map(|count| count.div_ceil(WORD_BITS)).sum()
    }
}

/// The file, mapped. Clones share it.
#[derive(Debug, Clone)]
pub struct DirtyLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    words: MmapRegion<()>,
    layout: DirtyLayout,
    on: AtomicBool,
}

impl DirtyLog {
    /// Maps a file of this layout, which must not shrink afterwards.
    ///
    /// # Errors
    /// A file that is shorter, no address space.
    pub fn map(file: impl Into<OwnedFd>, layout: DirtyLayout) -> Result<Self, MemoryError> {
        let (file, bytes) = (File::from(file.into()), layout.bytes());
        let source = |source| MemoryError::File { file_offset: 0, bytes, source };
        let file_bytes = file.metadata().map_err(source)?.len();
        let size = usize::try_from(bytes).ok().filter(|size| *size > 0);
        let size = size.ok_or(MemoryError::BadRegion { base: Gpa(0), bytes })?;
        if file_bytes < bytes {
            return Err(MemoryError::MemfdTooShort { bytes, file_bytes });
        }
        let words = MmapRegion::from_file(FileOffset::new(file, 0), size).map_err(MemoryError::Map)?;
        Ok(Self(Arc::new(Shared { words, layout, on: AtomicBool::new(false) })))
    }

    /// RAM's bits.
    #[must_use]
    pub fn ram(&self) -> Bits {
        self.part(0)
    }

    /// Those of a disk: the first, second, ... that the guest may write.
    #[must_use]
    pub fn disk(&self, index: usize) -> Option<Bits> {
        (index + 1 < self.0.layout.counts.len()).then(|| self.part(index + 1))
    }

    /// From now on this process notes its own writes.
    pub fn switch_on(&self) {
        self.0.on.store(true, Ordering::SeqCst);
    }

    /// It notes none any more.
    pub fn switch_off(&self) {
        self.0.on.store(false, Ordering::SeqCst);
    }

    fn part(&self, part: usize) -> Bits {
        let layout = &self.0.layout;
        Bits {
            log: Arc::clone(&self.0),
            first_word: layout.words_before(part) as usize,
            count: layout.counts[part],
        }
    }
}

/// One bitmap of the file.
#[derive(Debug, Clone)]
pub struct Bits {
    log: Arc<Shared>,
    first_word: usize,
    count: u64,
}

impl Bits {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Notes a write that has just been done, if writes are noted. Bits past the end are none.
    ///
    /// After the write, never before: who takes the bit and then copies has the write or finds the bit again.
    pub fn mark(&self, bits: Range<u64>) {
        // Who switched the log on copies everything after that, so a write that did not see it yet is in the copy.
        if !self.log.on.load(Ordering::Relaxed) {
            return;
        }
        let mut at = bits.start;
        let end = bits.end.min(self.count);
        while at < end {
            let word_end = (at / WORD_BITS + 1) * WORD_BITS;
            let upto = end.min(word_end);
            let mask = (u64::MAX >> (WORD_BITS - (upto - at))) << (at % WORD_BITS);
            self.merge_word((at / WORD_BITS) as usize, mask);
            at = upto;
        }
    }

    /// Adds what KVM noted.
    pub fn merge(&self, words: &[u64]) {
        for (index, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
            self.merge_word(index, *word);
        }
    }

    /// Takes all bits out.
    #[must_use]
    pub fn take(&self) -> FixedBitSet {
        let words = (0..self.words()).map(|index| {
            let Some(word) = self.word(index) else { return 0 };
            // Most are 0, and a look does not take the cache line from who writes.
            if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::AcqRel) }
        });
        set_of(self.count as usize, words)
    }

    fn words(&self) -> usize {
        self.count.div_ceil(WORD_BITS) as usize
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.words() {
            return None;
        }
        // Inside the mapping and aligned: the layout reckons in words, and the mapping begins at a page.
        self.log.words.get_atomic_ref((self.first_word + index) * WORD_BYTES as usize).ok()
    }

    fn merge_word(&self, index: usize, bits: u64) {
        if let Some(word) = self.word(index)
            && word.load(Ordering::Relaxed) & bits != bits
        {
            word.fetch_or(bits, Ordering::AcqRel);
        }
    }
}

/// The runs of a set, in order, each cut after `run_max`.
pub fn runs(set: &FixedBitSet, run_max: usize) -> impl Iterator<Item = Range<usize>> {
    let mut ones = set.ones().peekable();
    std::iter::from_fn(move || {
        let first = ones.next()?;
        let mut end = first + 1;
        while end - first < run_max && ones.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some(first..end)
    })
}

/// A set of these words; bits past `count` are dropped.
pub(crate) fn set_of(count: usize, words: impl Iterator<Item = u64>) -> FixedBitSet {
    // A block is a word: we run on 64-bit hosts only, as the guests do.
    let mut set = FixedBitSet::with_capacity_and_blocks(count, words.map(|word| word as usize));
    let past = count % WORD_BITS as usize;
    if past != 0
        && let Some(last) = set.as_mut_slice().last_mut()
    {
        *last &= (1 << past) - 1;
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(ram_pages: u64, disks_bytes: &[u64]) -> (DirtyLog, DirtyLog) {
        let layout = DirtyLayout::new(ram_pages * PAGE_SIZE, disks_bytes);
        let file = tempfile::tempfile().unwrap();
        file.set_len(layout.bytes()).unwrap();
        let other = DirtyLog::map(file.try_clone().unwrap(), layout.clone()).unwrap();
        (DirtyLog::map(file, layout).unwrap(), other)
    }

    fn ones(bits: &Bits) -> Vec<usize> {
        bits.take().ones().collect()
    }

    #[test]
    fn what_one_process_marks_the_other_takes_once() {
        let (vmm, copier) = log(200, &[70 * CLUSTER_BYTES + 1, CLUSTER_BYTES]);
        vmm.ram().mark(3..4);
        assert_eq!(ones(&copier.ram()), [0; 0], "the log is off");
        vmm.switch_on();
        vmm.ram().mark(62..130);
        vmm.ram().mark(199..500);
        vmm.disk(0).unwrap().mark(70..71);
        vmm.disk(1).unwrap().mark(0..1);
        let expected: Vec<usize> = (62..130).chain([199]).collect();
        assert_eq!(ones(&copier.ram()), expected);
        assert_eq!(ones(&copier.ram()), [0; 0]);
        assert_eq!(ones(&copier.disk(0).unwrap()), [70]);
        assert_eq!(ones(&copier.disk(1).unwrap()), [0]);
        assert!(copier.disk(2).is_none());
        vmm.switch_off();
        vmm.ram().mark(0..1);
        assert_eq!(ones(&copier.ram()), [0; 0]);
    }

    #[test]
    fn bits_past_the_end_are_dropped() {
        let (vmm, copier) = log(3, &[CLUSTER_BYTES]);
        vmm.ram().merge(&[u64::MAX, u64::MAX]);
        assert_eq!(ones(&copier.ram()), [0, 1, 2]);
        assert_eq!(ones(&copier.disk(0).unwrap()), [0; 0], "the neighbour's word is its own");
    }

    #[test]
    fn runs_are_whole_and_bounded() {
        let mut set = FixedBitSet::with_capacity(100);
        set.insert_range(3..9);
        set.insert(99);
        let found = |run_max| runs(&set, run_max).collect::<Vec<_>>();
        assert_eq!(found(100), [3..9, 99..100]);
        assert_eq!(found(4), [3..7, 7..9, 99..100]);
    }

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let layout = DirtyLayout::new(100 * PAGE_SIZE, &[]);
        let file = tempfile::tempfile().unwrap();
        file.set_len(layout.bytes() - 1).unwrap();
        assert!(matches!(DirtyLog::map(file, layout), Err(MemoryError::MemfdTooShort { .. })));
    }

    #[test]
    fn no_mark_is_lost_between_threads() {
        let (vmm, copier) = log(64, &[]);
        vmm.switch_on();
        let bits = vmm.ram();
        let marking = std::thread::spawn(move || (0..64).for_each(|bit| bits.mark(bit..bit + 1)));
        let mut seen = FixedBitSet::with_capacity(64);
        while !marking.is_finished() {
            seen.union_with(&copier.ram().take());
        }
        marking.join().unwrap();
        seen.union_with(&copier.ram().take());
        assert_eq!(seen.count_ones(..), 64);
    }
}
