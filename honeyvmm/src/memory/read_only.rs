//! A domain's RAM for reading alone: what an onlooker in another process has of it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use vm_memory::volatile_memory::VolatileMemory;
use vm_memory::{Bytes, FileOffset, MmapRegion};

use super::{Gpa, MemoryError, whole_pages};

/// RAM from guest-physical address 0 on, of which nothing can be written. No reference into it is ever handed out.
#[derive(Debug)]
pub struct ReadOnlyRam(Source);

#[derive(Debug)]
enum Source {
    /// A memfd that the domain's process has mapped too.
    Mapped(MmapRegion<()>),
    /// That process' memory (`/proc/PID/mem`), and where in it RAM is mapped.
    Process { memory: File, at: u64, bytes: u64 },
}

impl ReadOnlyRam {
    /// Maps a whole memfd, which must not shrink afterwards; the descriptor may be one that was opened for reading only.
    ///
    /// # Errors
    /// A memfd that is empty or not of whole pages, no address space.
    pub fn from_memfd(memfd: impl Into<OwnedFd>) -> Result<Self, MemoryError> {
        let file = File::from(memfd.into());
        let metadata =
            file.metadata().map_err(|source| MemoryError::File { file_offset: 0, bytes: 0, source })?;
        let size = whole_pages(Gpa(0), metadata.len())?;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let mapping = MmapRegion::build(Some(FileOffset::new(file, 0)), size, libc::PROT_READ, flags)
            .map_err(MemoryError::Map)?;
        Ok(Self(Source::Mapped(mapping)))
    }

    /// RAM that only the domain's process has: `memory` is its `/proc/PID/mem`, where RAM is mapped at this address.
    pub fn from_process(memory: impl Into<OwnedFd>, at: u64, bytes: u64) -> Self {
        Self(Source::Process { memory: File::from(memory.into()), at, bytes })
    }

    /// The length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Source::Mapped(mapping) => mapping.size() as u64,
            Source::Process { bytes, .. } => *bytes,
        }
    }

    /// Copies RAM into `out`.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], also if the domain's process has gone; what is in `out` then means nothing.
    pub fn read(&self, gpa: Gpa, out: &mut [u8]) -> Result<(), MemoryError> {
        let bytes = out.len() as u64;
        let outside = || MemoryError::Outside { gpa, bytes };
        let end = gpa.checked_add(bytes).ok_or_else(outside)?;
        if end.0 > self.bytes() {
            return Err(outside());
        }
        match &self.0 {
            Source::Mapped(mapping) => {
                // Inside a mapping, whose size is a usize.
                let slice = mapping.get_slice(gpa.0 as usize, out.len()).map_err(|_| outside())?;
                slice.read_slice(out, 0).map_err(|_| outside())
            }
            Source::Process { memory, at, .. } => {
                memory.read_exact_at(out, at.wrapping_add(gpa.0)).map_err(|_| outside())
            }
        }
    }
}
