//! Copies that keep holes: what is all zero is not written.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// The unit of holes: a page, and the block of most filesystems.
pub const PAGE_BYTES: usize = 4096;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The ranges of a file that are not holes, as far as its filesystem tells; the whole file if it does not.
pub fn data_ranges(file: &File, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut out = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => return Ok(vec![range]),
            Err(error) => return Err(error.into()),
        };
        if start >= range.end {
            break;
        }
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(range.end);
        if end <= start {
            break;
        }
        out.push(start..end);
        at = end;
    }
    Ok(out)
}

/// Copies a range of one file to a place in another; zero pages and holes stay holes. Gives the bytes written.
pub fn copy(from: &File, range: Range<u64>, to: &File, at: u64, buffer: &mut Vec<u8>) -> io::Result<u64> {
    let mut written = 0;
    buffer.resize(CHUNK_BYTES, 0);
    for data in data_ranges(from, range.clone())? {
        let mut position = data.start;
        while position < data.end {
            let length = (data.end - position).min(CHUNK_BYTES as u64) as usize;
            from.read_exact_at(&mut buffer[..length], position)?;
            written += write_nonzero(to, &buffer[..length], at + (position - range.start))?;
            position += length as u64;
        }
    }
    Ok(written)
}

/// Writes the pages of `bytes` that are not all zero, neighbours in one call.
pub fn write_nonzero(to: &File, bytes: &[u8], at: u64) -> io::Result<u64> {
    let mut written = 0;
    let mut start = None;
    for offset in (0..bytes.len()).step_by(PAGE_BYTES) {
        let page = &bytes[offset..(offset + PAGE_BYTES).min(bytes.len())];
        if is_zero(page) {
            if let Some(from) = start.take() {
                to.write_all_at(&bytes[from..offset], at + from as u64)?;
                written += (offset - from) as u64;
            }
        } else if start.is_none() {
            start = Some(offset);
        }
    }
    if let Some(from) = start {
        to.write_all_at(&bytes[from..], at + from as u64)?;
        written += (bytes.len() - from) as u64;
    }
    Ok(written)
}

/// Whether all bytes are zero. In words, so that the compiler makes it wide.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| *word == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}
