//! Guest memory: mapped regions, and bounds-checked access to them by guest-physical address.
//!
//! The guest runs while we look, so nothing here hands out a Rust reference into its memory: bytes are copied in and
//! out, words are loaded and stored atomically, and file contents move straight between the file and the mapping.
//! Address translation (page tables, grants) is not done here.

mod address;
mod file;
mod log;
mod read_only;

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use vm_memory::bitmap::Bitmap;
use vm_memory::mmap::MmapRegionError;
use vm_memory::volatile_memory::VolatileMemory;
use vm_memory::{AtomicInteger, Bytes, FileOffset, MmapRegion, VolatileSlice};

pub use address::{EvtchnPort, Gfn, Gpa, GrantRef, Gva, PAGE_SHIFT, PAGE_SIZE};
pub use log::{PageLog, PageLogSlice};
pub use read_only::ReadOnlyRam;

use crate::dirty::Bits;

/// Why an access or a mapping was refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Some byte of the range is in no region, or the range spans two.
    #[error("no guest memory at {gpa}, {bytes} bytes")]
    Outside {
        /// Where the range begins.
        gpa: Gpa,
        /// Its length.
        bytes: u64,
    },
    /// An atomic access has to be aligned to its size.
    #[error("{gpa} is not aligned to {bytes} bytes")]
    Misaligned {
        /// The address asked for.
        gpa: Gpa,
        /// The size of the access.
        bytes: u64,
    },
    /// Length or base of a region is zero, not a multiple of a page, or past the end of the address space.
    #[error("region at {base} of {bytes} bytes is not made of whole pages")]
    BadRegion {
        /// The first address asked for.
        base: Gpa,
        /// The length asked for.
        bytes: u64,
    },
    /// A page of a mapping past the end of its file raises SIGBUS when touched, so it is refused at once.
    #[error("the memory's file has {file_bytes} bytes, the region needs {bytes}")]
    MemfdTooShort {
        /// The length of the region.
        bytes: u64,
        /// The length of the file.
        file_bytes: u64,
    },
    /// mmap refused.
    #[error("cannot map guest memory")]
    Map(#[source] MmapRegionError),
    /// A system call on a file failed.
    #[error("cannot move {bytes} bytes between guest memory and file offset {file_offset}")]
    File {
        /// Where in the file.
        file_offset: u64,
        /// How many bytes were to be moved.
        bytes: u64,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// One contiguous piece of guest-physical memory, mapped. Clones share the mapping.
#[derive(Debug, Clone)]
pub struct Region {
    mapping: Arc<MmapRegion<PageLog>>,
    base: Gpa,
}

/// All memory of a domain: its RAM, and the shim's pages elsewhere. Clones share the mappings.
#[derive(Debug, Clone)]
pub struct GuestMemory {
    ram: Region,
    shim: Option<Region>,
}

impl Region {
    /// Maps the first `bytes` bytes of a memfd, shared, as the guest memory from `base` on.
    ///
    /// # Errors
    /// A range that is not made of whole pages, a memfd shorter than `bytes`, no address space.
    pub fn from_memfd(memfd: impl Into<OwnedFd>, base: Gpa, bytes: u64) -> Result<Self, MemoryError> {
        let (file, size) = long_enough(memfd.into(), base, bytes)?;
        let mapping = MmapRegion::from_file(FileOffset::new(file, 0), size).map_err(MemoryError::Map)?;
        Ok(Self { mapping: Arc::new(mapping), base })
    }

    /// Maps the first `bytes` bytes of a file as the guest memory from `base` on; what is written stays in this process. The file's pages are read
    /// when they are touched, and shared with all who map it.
    ///
    /// # Errors
    /// As [`Region::from_memfd`].
    pub fn from_snapshot(file: impl Into<OwnedFd>, base: Gpa, bytes: u64) -> Result<Self, MemoryError> {
        let (file, size) = long_enough(file.into(), base, bytes)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let mapping =
            MmapRegion::build(Some(FileOffset::new(file, 0)), size, prot, flags).map_err(MemoryError::Map)?;
        Ok(Self { mapping: Arc::new(mapping), base })
    }

    /// Maps `bytes` bytes of new zeroed memory as the guest memory from `base` on.
    ///
    /// # Errors
    /// A range that is not made of whole pages, no address space.
    pub fn anonymous(base: Gpa, bytes: u64) -> Result<Self, MemoryError> {
        let size = whole_pages(base, bytes)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_ANONYMOUS | libc::MAP_SHARED | libc::MAP_NORESERVE;
        let mapping = MmapRegion::build(None, size, prot, flags).map_err(MemoryError::Map)?;
        Ok(Self { mapping: Arc::new(mapping), base })
    }

    /// Puts a large file's contents at `gpa` of a fresh region, which is all zero. Where it is a memfd the bytes go into its pages by
    /// system calls, two threads side by side: pages are neither faulted in one by one nor zeroed first, and those that stay
    /// zero (a third of a kernel) are left out.
    ///
    /// # Errors
    /// A range outside the region; the host has no memory.
    pub fn load(&self, gpa: Gpa, contents: &[u8]) -> Result<(), MemoryError> {
        let Some(file) = self.mapping.file_offset().filter(|_| self.contains(gpa, contents.len() as u64))
        else {
            // Outside: refused there.
            return self.write(gpa, contents);
        };
        let load = |gpa: Gpa, part: &[u8]| {
            for (at, run) in written_runs(part) {
                let gpa = gpa.offset(at as u64);
                let (bytes, file_offset) = (run.len() as u64, file.start() + (gpa.0 - self.base.0));
                let written = file.file().write_all_at(run, file_offset);
                written.map_err(|source| MemoryError::File { file_offset, bytes, source })?;
                self.map_now(gpa, bytes);
            }
            Ok(())
        };
        let half = (contents.len() / 2) & !(PAGE_SIZE as usize - 1);
        let (first, second) = contents.split_at(half);
        std::thread::scope(|scope| {
            let rest = scope.spawn(|| load(gpa.offset(half as u64), second));
            load(gpa, first)?;
            rest.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Fills in this process' page tables for a range: KVM then finds the neighbours of a page that the guest touches, and maps them with
    /// it. A range that is outside is left alone. A host kernel without the advice (before 5.14) maps page by page later.
    pub fn map_now(&self, gpa: Gpa, bytes: u64) {
        if bytes == 0 || !self.contains(gpa, bytes) {
            return;
        }
        let first = (gpa.0 - self.base.0) & !(PAGE_SIZE - 1);
        let end = gpa.0 - self.base.0 + bytes;
        // SAFETY:
        // - The range is inside the mapping, which `self` keeps: it was checked, and the mapping is of whole pages.
        // - The advice changes no contents; no reference into the mapping exists (the module's rule).
        let _ = unsafe {
            let at = self.mapping.as_ptr().add(first as usize).cast();
            rustix::mm::madvise(at, (end - first) as usize, rustix::mm::Advice::LinuxPopulateWrite)
        };
    }

    /// Has what this process writes here noted there, while the log is on; by all clones.
    pub fn log_writes(&self, bits: Bits) {
        self.mapping.bitmap().attach(bits);
    }

    /// The first guest-physical address.
    #[must_use]
    pub fn base(&self) -> Gpa {
        self.base
    }

    /// The length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.mapping.size() as u64
    }

    /// Where the region is mapped in this process: what KVM wants for a memslot.
    #[must_use]
    pub fn host_addr(&self) -> u64 {
        self.mapping.as_ptr() as u64
    }

    /// Whether all `bytes` bytes from `gpa` on are inside.
    #[must_use]
    pub fn contains(&self, gpa: Gpa, bytes: u64) -> bool {
        let end = self.base.0 + self.bytes();
        gpa >= self.base && gpa.checked_add(bytes).is_some_and(|last| last.0 <= end)
    }
}

impl GuestMemory {
    /// RAM, and the shim's region where there is one.
    #[must_use]
    pub fn new(ram: Region, shim: Option<Region>) -> Self {
        Self { ram, shim }
    }

    /// The domain's RAM: the only memory that a guest may name in a grant or a page table.
    #[must_use]
    pub fn ram(&self) -> &Region {
        &self.ram
    }

    /// The shim's region.
    #[must_use]
    pub fn shim(&self) -> Option<&Region> {
        self.shim.as_ref()
    }
}

impl From<Region> for GuestMemory {
    fn from(ram: Region) -> Self {
        Self::new(ram, None)
    }
}

/// A piece of guest memory, whose writes are noted.
pub type GuestSlice<'a> = VolatileSlice<'a, PageLogSlice<'a>>;

/// Access by guest-physical address. Every method fails, and changes nothing, when any byte of the range is outside.
pub trait Access {
    /// The mapped bytes of a range. For this module's own methods: a `VolatileSlice` is a raw view, not a reference.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn slice(&self, gpa: Gpa, bytes: u64) -> Result<GuestSlice<'_>, MemoryError>;

    /// Copies guest memory into `out`.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn read(&self, gpa: Gpa, out: &mut [u8]) -> Result<(), MemoryError> {
        let slice = self.slice(gpa, out.len() as u64)?;
        slice.read_slice(out, 0).map_err(|_| outside(gpa, out.len() as u64))
    }

    /// Copies `data` into guest memory.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn write(&self, gpa: Gpa, data: &[u8]) -> Result<(), MemoryError> {
        let slice = self.slice(gpa, data.len() as u64)?;
        slice.write_slice(data, 0).map_err(|_| outside(gpa, data.len() as u64))
    }

    /// Copies `N` bytes out of guest memory.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn read_array<const N: usize>(&self, gpa: Gpa) -> Result<[u8; N], MemoryError> {
        let mut out = [0; N];
        self.read(gpa, &mut out)?;
        Ok(out)
    }

    /// Sets `bytes` bytes to `value`.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn fill(&self, gpa: Gpa, value: u8, bytes: u64) -> Result<(), MemoryError> {
        const CHUNK_BYTES: usize = PAGE_SIZE as usize;
        let slice = self.slice(gpa, bytes)?;
        let chunk = [value; CHUNK_BYTES];
        for at in (0..slice.len()).step_by(CHUNK_BYTES) {
            let count = CHUNK_BYTES.min(slice.len() - at);
            slice.write_slice(&chunk[..count], at).map_err(|_| outside(gpa, bytes))?;
        }
        Ok(())
    }

    /// Reads a `u8`.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn read_u8(&self, gpa: Gpa) -> Result<u8, MemoryError> {
        self.read_array(gpa).map(u8::from_le_bytes)
    }

    /// Reads a little-endian `u16`, at any alignment.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn read_u16(&self, gpa: Gpa) -> Result<u16, MemoryError> {
        self.read_array(gpa).map(u16::from_le_bytes)
    }

    /// Reads a little-endian `u32`, at any alignment.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn read_u32(&self, gpa: Gpa) -> Result<u32, MemoryError> {
        self.read_array(gpa).map(u32::from_le_bytes)
    }

    /// Reads a little-endian `u64`, at any alignment.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn read_u64(&self, gpa: Gpa) -> Result<u64, MemoryError> {
        self.read_array(gpa).map(u64::from_le_bytes)
    }

    /// Writes a `u8`.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn write_u8(&self, gpa: Gpa, value: u8) -> Result<(), MemoryError> {
        self.write(gpa, &[value])
    }

    /// Writes a little-endian `u16`, at any alignment.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn write_u16(&self, gpa: Gpa, value: u16) -> Result<(), MemoryError> {
        self.write(gpa, &value.to_le_bytes())
    }

    /// Writes a little-endian `u32`, at any alignment.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn write_u32(&self, gpa: Gpa, value: u32) -> Result<(), MemoryError> {
        self.write(gpa, &value.to_le_bytes())
    }

    /// Writes a little-endian `u64`, at any alignment.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn write_u64(&self, gpa: Gpa, value: u64) -> Result<(), MemoryError> {
        self.write(gpa, &value.to_le_bytes())
    }

    /// Loads a `u8` atomically.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn load_u8(&self, gpa: Gpa, order: Ordering) -> Result<u8, MemoryError> {
        with_atomic(self, gpa, |word: &AtomicU8| word.load(order))
    }

    /// Loads a `u32` atomically.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::Misaligned`].
    fn load_u32(&self, gpa: Gpa, order: Ordering) -> Result<u32, MemoryError> {
        with_atomic(self, gpa, |word: &AtomicU32| word.load(order))
    }

    /// Loads a `u64` atomically.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::Misaligned`].
    fn load_u64(&self, gpa: Gpa, order: Ordering) -> Result<u64, MemoryError> {
        with_atomic(self, gpa, |word: &AtomicU64| word.load(order))
    }

    /// Stores a `u8` atomically.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn store_u8(&self, gpa: Gpa, value: u8, order: Ordering) -> Result<(), MemoryError> {
        change_atomic(self, gpa, |word: &AtomicU8| word.store(value, order))
    }

    /// Stores a `u32` atomically.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::Misaligned`].
    fn store_u32(&self, gpa: Gpa, value: u32, order: Ordering) -> Result<(), MemoryError> {
        change_atomic(self, gpa, |word: &AtomicU32| word.store(value, order))
    }

    /// Stores a `u64` atomically.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::Misaligned`].
    fn store_u64(&self, gpa: Gpa, value: u64, order: Ordering) -> Result<(), MemoryError> {
        change_atomic(self, gpa, |word: &AtomicU64| word.store(value, order))
    }

    /// Exchanges a `u8`, returning what was there.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    fn swap_u8(&self, gpa: Gpa, value: u8, order: Ordering) -> Result<u8, MemoryError> {
        change_atomic(self, gpa, |word: &AtomicU8| word.swap(value, order))
    }

    /// Sets bits of a `u64`, returning what was there.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::Misaligned`].
    fn fetch_or_u64(&self, gpa: Gpa, bits: u64, order: Ordering) -> Result<u64, MemoryError> {
        change_atomic(self, gpa, |word: &AtomicU64| word.fetch_or(bits, order))
    }

    /// Keeps only `bits` of a `u64`, returning what was there.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::Misaligned`].
    fn fetch_and_u64(&self, gpa: Gpa, bits: u64, order: Ordering) -> Result<u64, MemoryError> {
        change_atomic(self, gpa, |word: &AtomicU64| word.fetch_and(bits, order))
    }

    /// Keeps only `bits` of a `u16`, returning what was there.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::Misaligned`].
    fn fetch_and_u16(&self, gpa: Gpa, bits: u16, order: Ordering) -> Result<u16, MemoryError> {
        change_atomic(self, gpa, |word: &AtomicU16| word.fetch_and(bits, order))
    }

    /// Replaces a `u32` that still is `current`; `Ok(Err(seen))` when it is not.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::Misaligned`].
    fn compare_exchange_u32(
        &self,
        gpa: Gpa,
        current: u32,
        new: u32,
    ) -> Result<Result<u32, u32>, MemoryError> {
        change_atomic(self, gpa, |word: &AtomicU32| {
            word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
        })
    }

    /// Replaces a `u64` that still is `current`; `Ok(Err(seen))` when it is not.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::Misaligned`].
    fn compare_exchange_u64(
        &self,
        gpa: Gpa,
        current: u64,
        new: u64,
    ) -> Result<Result<u64, u64>, MemoryError> {
        change_atomic(self, gpa, |word: &AtomicU64| {
            word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
        })
    }

    /// Reads `bytes` bytes of a file straight into guest memory.
    ///
    /// # Errors
    /// [`MemoryError::Outside`]; [`MemoryError::File`], also for a file that ends too early (the range may then be part filled).
    fn read_from_file_at(
        &self,
        file: &impl std::os::fd::AsFd,
        file_offset: u64,
        gpa: Gpa,
        bytes: u64,
    ) -> Result<(), MemoryError> {
        self.read_from_file_vectored_at(file, file_offset, &[(gpa, bytes)])
    }

    /// Writes `bytes` bytes of guest memory straight into a file.
    ///
    /// # Errors
    /// [`MemoryError::Outside`], [`MemoryError::File`].
    fn write_to_file_at(
        &self,
        file: &impl std::os::fd::AsFd,
        file_offset: u64,
        gpa: Gpa,
        bytes: u64,
    ) -> Result<(), MemoryError> {
        self.write_to_file_vectored_at(file, file_offset, &[(gpa, bytes)])
    }

    /// Reads consecutive bytes of a file into several ranges of guest memory, in as few system calls as Linux allows.
    ///
    /// # Errors
    /// As [`Access::read_from_file_at`]; a range outside is found before the first byte moves.
    fn read_from_file_vectored_at(
        &self,
        file: &impl std::os::fd::AsFd,
        file_offset: u64,
        ranges: &[(Gpa, u64)],
    ) -> Result<(), MemoryError> {
        file::transfer(file::Direction::FromFile, self, file.as_fd(), file_offset, ranges)
    }

    /// Writes several ranges of guest memory to consecutive bytes of a file, in as few system calls as Linux allows.
    ///
    /// # Errors
    /// As [`Access::write_to_file_at`]; a range outside is found before the first byte moves.
    fn write_to_file_vectored_at(
        &self,
        file: &impl std::os::fd::AsFd,
        file_offset: u64,
        ranges: &[(Gpa, u64)],
    ) -> Result<(), MemoryError> {
        file::transfer(file::Direction::ToFile, self, file.as_fd(), file_offset, ranges)
    }
}

impl Access for Region {
    fn slice(&self, gpa: Gpa, bytes: u64) -> Result<GuestSlice<'_>, MemoryError> {
        if !self.contains(gpa, bytes) {
            return Err(outside(gpa, bytes));
        }
        // `contains` holds both within the mapping, whose size is a usize.
        let offset = (gpa.0 - self.base.0) as usize;
        self.mapping.get_slice(offset, bytes as usize).map_err(|_| outside(gpa, bytes))
    }
}

impl Access for GuestMemory {
    fn slice(&self, gpa: Gpa, bytes: u64) -> Result<GuestSlice<'_>, MemoryError> {
        if self.ram.contains(gpa, bytes) {
            return self.ram.slice(gpa, bytes);
        }
        self.shim.as_ref().ok_or_else(|| outside(gpa, bytes))?.slice(gpa, bytes)
    }
}

fn outside(gpa: Gpa, bytes: u64) -> MemoryError {
    MemoryError::Outside { gpa, bytes }
}

/// Runs of whole pages that have a byte that is not 0, and where each begins.
fn written_runs(contents: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    const PAGE: usize = PAGE_SIZE as usize;
    let is_zero = |page: &[u8]| *page == [0; PAGE][..page.len()];
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = &contents[at.min(contents.len())..];
        at += PAGE * rest.chunks(PAGE).take_while(|page| is_zero(page)).count();
        let rest = contents.get(at..).filter(|rest| !rest.is_empty())?;
        let bytes = PAGE * rest.chunks(PAGE).take_while(|page| !is_zero(page)).count();
        let run = (at, &rest[..bytes.min(rest.len())]);
        at += bytes;
        Some(run)
    })
}

/// A file that holds a region of this length.
fn long_enough(file: OwnedFd, base: Gpa, bytes: u64) -> Result<(std::fs::File, usize), MemoryError> {
    let size = whole_pages(base, bytes)?;
    let file = std::fs::File::from(file);
    let metadata = file.metadata().map_err(|source| MemoryError::File { file_offset: 0, bytes, source })?;
    if metadata.len() < bytes {
        return Err(MemoryError::MemfdTooShort { bytes, file_bytes: metadata.len() });
    }
    Ok((file, size))
}

fn whole_pages(base: Gpa, bytes: u64) -> Result<usize, MemoryError> {
    let bad = MemoryError::BadRegion { base, bytes };
    let whole = bytes > 0 && bytes.is_multiple_of(PAGE_SIZE) && base.page_offset() == 0;
    match (base.checked_add(bytes), usize::try_from(bytes)) {
        (Some(_), Ok(size)) if whole => Ok(size),
        _ => Err(bad),
    }
}

/// As [`with_atomic`], of an access that writes.
fn change_atomic<A: AtomicInteger, T>(
    memory: &(impl Access + ?Sized),
    gpa: Gpa,
    access: impl FnOnce(&A) -> T,
) -> Result<T, MemoryError> {
    let changed = with_atomic(memory, gpa, access)?;
    memory.slice(gpa, size_of::<A>() as u64)?.bitmap().mark_dirty(0, size_of::<A>());
    Ok(changed)
}

/// The reference to the atomic lives only inside `access`, which is one instruction on it.
fn with_atomic<A: AtomicInteger, T>(
    memory: &(impl Access + ?Sized),
    gpa: Gpa,
    access: impl FnOnce(&A) -> T,
) -> Result<T, MemoryError> {
    let bytes = size_of::<A>() as u64;
    let slice = memory.slice(gpa, bytes)?;
    let word = slice.get_atomic_ref::<A>(0).map_err(|_| MemoryError::Misaligned { gpa, bytes })?;
    Ok(access(word))
}

#[cfg(test)]
mod tests;
