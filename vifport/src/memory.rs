//! The port's memory, mapped: the only place with raw pointers. Every access is checked against the mapping.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::layout::PORT_BYTES;

/// A shared mapping of `PORT_BYTES` bytes. The other side may change any byte at any time.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to the process, not to a thread; all access goes through atomics and copies.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps `fd`, which is at least `PORT_BYTES` long and sealed against shrinking (the caller has checked both).
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY:
        // - no address is asked for, so no existing mapping is replaced;
        // - no Rust reference is made to the bytes, so that others write to them breaks no aliasing rule;
        // - the file cannot shrink, so an access in range never raises SIGBUS.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                PORT_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base })
    }

    /// The word at `offset`.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        self.check(offset, 4);
        assert!(offset.is_multiple_of(4), "word at odd offset {offset}");
        // SAFETY:
        // - in bounds and aligned by the checks above (mmap returns page-aligned memory);
        // - valid for as long as self, which unmaps only when dropped;
        // - an atomic tolerates that another process writes at the same time.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        // SAFETY: in bounds by the check; `bytes` is private memory and cannot overlap the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len());
        }
    }

    /// Copies `bytes.len()` bytes at `offset` out.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.check(offset, bytes.len());
        // SAFETY: in bounds by the check; `bytes` is private memory and cannot overlap the mapping. Bytes that the
        // other side changes meanwhile come out old or new, and any value is a valid u8.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset), bytes.as_mut_ptr(), bytes.len());
        }
    }

    // Offsets are ours, checked by the rings before they get here: a failure is a broken invariant, not a peer's doing.
    fn check(&self, offset: usize, len: usize) {
        assert!(offset <= PORT_BYTES && len <= PORT_BYTES - offset, "{len} bytes at {offset} leave the port");
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `map`; no pointer into it outlives self.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), PORT_BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}
