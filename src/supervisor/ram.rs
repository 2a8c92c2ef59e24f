//! The RAM of a domain, as the supervisor and those it hands it to read it.
//!
//! A domain that was booted has a memfd, which anybody can map. One that goes on from a snapshot has the snapshot's file mapped, and what it has
//! written since is in its own process alone: it is read through `/proc/PID/mem`, as long as that process lives.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use fixedbitset::FixedBitSet;

use super::resources;
use crate::sparse;

const PAGE_BYTES: u64 = 4096;
/// `Documentation/admin-guide/mm/pagemap.rst`: an entry of 8 bytes a page; it is in memory, or swapped; it belongs to a file.
const PAGEMAP_ENTRY_BYTES: u64 = 8;
const PAGEMAP_PRESENT: u64 = 1 << 63;
const PAGEMAP_SWAPPED: u64 = 1 << 62;
const PAGEMAP_FILE: u64 = 1 << 61;

/// A domain's RAM.
pub struct Ram {
    bytes: u64,
    /// The memfd, or the snapshot's file.
    file: File,
    restored: bool,
    process: OnceLock<Process>,
}

/// The process that has a restored domain's RAM.
struct Process {
    memory: File,
    pagemap: File,
    at: u64,
}

impl Ram {
    /// A memfd.
    pub fn booted(memfd: File, bytes: u64) -> Ram {
        Ram { bytes, file: memfd, restored: false, process: OnceLock::new() }
    }

    /// What a snapshot holds.
    pub fn restored(image: File, bytes: u64) -> Ram {
        Ram { bytes, file: image, restored: true, process: OnceLock::new() }
    }

    /// What the domain's process is handed.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The domain's process runs, with RAM mapped there.
    pub fn mapped(&self, pid: u32, address: u64) -> io::Result<()> {
        if self.restored {
            let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
            let process = Process { memory: open("mem")?, pagemap: open("pagemap")?, at: address };
            // Told twice, it is the same.
            let _ = self.process.set(process);
        }
        Ok(())
    }

    /// A file to read it from, for reading only, and where in it RAM begins.
    pub fn reader(&self) -> io::Result<(File, u64)> {
        if !self.restored {
            return Ok((resources::read_only(&self.file).map_err(io::Error::other)?, 0));
        }
        let process = self.process()?;
        Ok((process.memory.try_clone()?, process.at))
    }

    fn process(&self) -> io::Result<&Process> {
        self.process.get().ok_or_else(|| io::Error::other("the domain does not run"))
    }

    /// Pages that [`Ram::file`] may hold something of.
    pub fn file_pages(&self) -> io::Result<FixedBitSet> {
        let mut pages = FixedBitSet::with_capacity((self.bytes / PAGE_BYTES) as usize);
        for extent in sparse::extents(&self.file)? {
            let end = extent.end.min(self.bytes).div_ceil(PAGE_BYTES);
            pages.insert_range((extent.start / PAGE_BYTES) as usize..end as usize);
        }
        Ok(pages)
    }

    /// Pages that the domain's process alone has: those that were written since it went on from a snapshot. Of a booted domain none, its RAM is the file.
    pub fn own_pages(&self) -> io::Result<FixedBitSet> {
        let mut pages = FixedBitSet::with_capacity((self.bytes / PAGE_BYTES) as usize);
        if !self.restored {
            return Ok(pages);
        }
        let process = self.process()?;
        let mut entries = vec![0; pages.len() * PAGEMAP_ENTRY_BYTES as usize];
        process.pagemap.read_exact_at(&mut entries, process.at / PAGE_BYTES * PAGEMAP_ENTRY_BYTES)?;
        for (page, entry) in entries.as_chunks().0.iter().enumerate() {
            let entry = u64::from_ne_bytes(*entry);
            if entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED) != 0 && entry & PAGEMAP_FILE == 0 {
                pages.insert(page);
            }
        }
        Ok(pages)
    }

    /// The snapshot that the domain goes on from, for reading only.
    pub fn saved(&self) -> io::Result<Option<File>> {
        self.restored.then(|| self.file.try_clone()).transpose()
    }

    /// Whether it is to be read through the domain's process.
    pub fn is_in_process(&self) -> bool {
        self.restored
    }

    /// Copies it to a file of as many bytes; pages of zeros stay holes.
    pub fn copy_to(&self, to: &File) -> io::Result<()> {
        if !self.restored {
            return sparse::copy(&self.file, to);
        }
        sparse::copy(&self.file, to)?;
        let (from, at) = self.reader()?;
        let mut page = [0; PAGE_BYTES as usize];
        for number in self.own_pages()?.ones() {
            let offset = number as u64 * PAGE_BYTES;
            from.read_exact_at(&mut page, at + offset)?;
            to.write_all_at(&page, offset)?;
        }
        Ok(())
    }
}
