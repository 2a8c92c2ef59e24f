//! The RAM of a domain, as the supervisor and those it hands it to read it.
//!
//! A domain that was booted has a memfd, which anybody can map. One that goes on from a snapshot has the snapshot's file mapped, and what it has
//! written since is in its own process alone: it is read through `/proc/PID/mem`, as long as that process lives.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use super::resources;

/// Bytes that are copied at once.
const CHUNK_BYTES: usize = 1 << 20;
const PAGE_BYTES: usize = 4096;

/// A domain's RAM.
pub struct Ram {
    bytes: u64,
    /// The memfd, or the snapshot's file.
    file: File,
    restored: bool,
    process: OnceLock<(File, u64)>,
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
            let memory = File::open(format!("/proc/{pid}/mem"))?;
            // Told twice, it is the same.
            let _ = self.process.set((memory, address));
        }
        Ok(())
    }

    /// A file to read it from, for reading only, and where in it RAM begins.
    pub fn reader(&self) -> io::Result<(File, u64)> {
        if !self.restored {
            return Ok((resources::read_only(&self.file).map_err(io::Error::other)?, 0));
        }
        let (memory, at) = self.process.get().ok_or_else(|| io::Error::other("the domain does not run"))?;
        Ok((memory.try_clone()?, *at))
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
            return resources::copy(&self.file, to);
        }
        let (from, at) = self.reader()?;
        to.set_len(self.bytes)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        for offset in (0..self.bytes).step_by(CHUNK_BYTES) {
            let part = &mut chunk[..CHUNK_BYTES.min((self.bytes - offset) as usize)];
            from.read_exact_at(part, at + offset)?;
            for (index, page) in part.chunks(PAGE_BYTES).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    to.write_all_at(page, offset + (index * PAGE_BYTES) as u64)?;
                }
            }
        }
        Ok(())
    }
}
