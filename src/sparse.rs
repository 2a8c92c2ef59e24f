//! Files with holes: where they hold something, their pages, and copies that keep the holes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

const PAGE_BYTES: u64 = 4096;
/// Bytes that are copied, or looked at, at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The ranges of a file that hold something, in order. A block device tells of no holes: all of it.
pub fn extents(file: &File) -> io::Result<Vec<Range<u64>>> {
    // A block device has no length in its metadata.
    let bytes = rustix::fs::seek(file, SeekFrom::End(0))?;
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(std::iter::once(0..bytes).collect()),
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        found.push(start..end);
        at = end;
    }
    Ok(found)
}

/// Calls with each page that is no hole, in order: its number and its bytes (the last one may be short).
pub fn each_page(file: &File, mut each: impl FnMut(u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let bytes = rustix::fs::seek(file, SeekFrom::End(0))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    // Up to where pages have been read: two pieces may lie in one.
    let mut done = 0;
    for extent in extents(file)? {
        let end = extent.end.next_multiple_of(PAGE_BYTES).min(bytes);
        let mut offset = (extent.start / PAGE_BYTES * PAGE_BYTES).max(done);
        while offset < end {
            let wanted = chunk.len().min((end - offset) as usize);
            let part = &mut chunk[..wanted];
            file.read_exact_at(part, offset)?;
            for (number, page) in (offset / PAGE_BYTES..).zip(part.chunks(PAGE_BYTES as usize)) {
                each(number, page)?;
            }
            offset += wanted as u64;
        }
        done = end;
    }
    Ok(())
}

/// Copies a file; holes stay holes.
pub fn copy(from: &File, to: &File) -> io::Result<()> {
    let bytes = rustix::fs::seek(from, SeekFrom::End(0))?;
    if to.metadata()?.len() != bytes {
        to.set_len(bytes)?;
    }
    let mut chunk = vec![0; CHUNK_BYTES];
    for extent in extents(from)? {
        let mut at = extent.start;
        while at < extent.end {
            let wanted = chunk.len().min((extent.end - at) as usize);
            let part = &mut chunk[..wanted];
            from.read_exact_at(part, at)?;
            to.write_all_at(part, at)?;
            at += wanted as u64;
        }
    }
    Ok(())
}
