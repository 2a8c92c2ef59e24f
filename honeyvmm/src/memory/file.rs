//! File contents straight into and out of guest memory (preadv, pwritev), without a copy in between.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::bitmap::Bitmap;

use super::{Access, Gpa, MemoryError};

/// Ranges of one system call: the kernel's UIO_MAXIOV.
const RANGES_PER_CALL_MAX: usize = 1024;

#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    FromFile,
    ToFile,
}

/// Moves all ranges, resuming after a short transfer or a signal.
pub(super) fn transfer(
    direction: Direction,
    memory: &(impl Access + ?Sized),
    file: BorrowedFd<'_>,
    file_offset: u64,
    ranges: &[(Gpa, u64)],
) -> Result<(), MemoryError> {
    let mut iovecs = iovecs_of(memory, ranges)?;
    let moved = transfer_all(direction, file, file_offset, &mut iovecs);
    if let Direction::FromFile = direction {
        // Also where it ended too early: some of it has come.
        for &(gpa, bytes) in ranges {
            memory.slice(gpa, bytes)?.bitmap().mark_dirty(0, bytes as usize);
        }
    }
    moved
}

fn transfer_all(
    direction: Direction,
    file: BorrowedFd<'_>,
    file_offset: u64,
    iovecs: &mut [libc::iovec],
) -> Result<(), MemoryError> {
    let total = iovecs.iter().map(|iovec| iovec.iov_len as u64).sum();
    let mut pending = iovecs;
    let mut at = file_offset;
    while !pending.is_empty() {
        let moved = transfer_once(direction, file, at, pending).map_err(|source| MemoryError::File {
            file_offset,
            bytes: total,
            source,
        })?;
        at += moved as u64;
        pending = advance(pending, moved);
    }
    Ok(())
}

/// The mapped address of each range that is not empty.
fn iovecs_of(
    memory: &(impl Access + ?Sized),
    ranges: &[(Gpa, u64)],
) -> Result<Vec<libc::iovec>, MemoryError> {
    let mut iovecs = Vec::with_capacity(ranges.len());
    for &(gpa, bytes) in ranges {
        let slice = memory.slice(gpa, bytes)?;
        if bytes > 0 {
            iovecs
                .push(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
        }
    }
    Ok(iovecs)
}

fn transfer_once(
    direction: Direction,
    file: BorrowedFd<'_>,
    file_offset: u64,
    iovecs: &[libc::iovec],
) -> io::Result<usize> {
    let offset =
        libc::off_t::try_from(file_offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let count = iovecs.len().min(RANGES_PER_CALL_MAX) as libc::c_int;
    loop {
        let moved = match direction {
            // SAFETY:
            // - `file` is open for the length of the borrow.
            // - `iovecs` has at least `count` entries, each a bounds-checked part of a mapping that the caller's borrow of
            //   the memory keeps alive, and no Rust reference into a mapping exists (the module's rule).
            Direction::FromFile => unsafe { libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), count, offset) },
            // SAFETY: as above; the kernel only reads from the ranges.
            Direction::ToFile => unsafe { libc::pwritev(file.as_raw_fd(), iovecs.as_ptr(), count, offset) },
        };
        match usize::try_from(moved) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(moved) => return Ok(moved),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Drops `moved` bytes from the front of the ranges.
fn advance(iovecs: &mut [libc::iovec], mut moved: usize) -> &mut [libc::iovec] {
    let mut done = 0;
    while done < iovecs.len() && moved >= iovecs[done].iov_len {
        moved -= iovecs[done].iov_len;
        done += 1;
    }
    let rest = &mut iovecs[done..];
    if let Some(first) = rest.first_mut() {
        first.iov_base = first.iov_base.cast::<u8>().wrapping_add(moved).cast();
        first.iov_len -= moved;
    }
    rest
}
