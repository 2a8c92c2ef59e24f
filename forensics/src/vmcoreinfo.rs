//! The VMCOREINFO note that a Linux kernel keeps in its memory for crash and makedumpfile.
//!
//! It lies in guest memory, so whoever owns the guest can forge it: what is found here is a hint, never evidence.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::elf_core::RamRange;
use crate::sparse;

/// The kernel's VMCOREINFO_BYTES: one page.
const TEXT_BYTES_MAX: usize = 4096;
/// Note header (three words) and the padded name.
const HEADER_BYTES: usize = 12 + 12;
const NAME: &[u8; 12] = b"VMCOREINFO\0\0";
const NAME_BYTES: u32 = 11;
/// Notes that are counted: a guest can fill its memory with them.
const FOUND_MAX: usize = 64;
const CHUNK_BYTES: usize = 1 << 20;

/// A note that looks like the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Guest-physical address of the note's header.
    pub gpa: u64,
    /// Its text: `OSRELEASE=…` and more lines.
    pub text: Vec<u8>,
}

/// All notes in memory that look like the kernel's, in order of address.
pub fn find(memory: &File, ranges: &[RamRange]) -> io::Result<Vec<Found>> {
    let mut out = Vec::new();
    let overlap = HEADER_BYTES + TEXT_BYTES_MAX;
    let mut buffer = vec![0; CHUNK_BYTES + overlap];
    for range in ranges {
        let end = range.file_offset + range.bytes;
        for data in sparse::data_ranges(memory, range.file_offset..end)? {
            let mut at = data.start;
            while at < data.end && out.len() < FOUND_MAX {
                let length = (end - at).min(buffer.len() as u64) as usize;
                memory.read_exact_at(&mut buffer[..length], at)?;
                let gpa = range.gpa + (at - range.file_offset);
                find_in_chunk(&buffer[..length], gpa, &mut out);
                at += CHUNK_BYTES as u64;
            }
        }
    }
    Ok(out)
}

/// Notes whose header begins in the first `CHUNK_BYTES` of a chunk.
fn find_in_chunk(chunk: &[u8], gpa: u64, out: &mut Vec<Found>) {
    for name_at in memchr::memmem::find_iter(chunk, NAME) {
        let Some(start) = name_at.checked_sub(12) else { continue };
        if start >= CHUNK_BYTES || out.len() == FOUND_MAX {
            return;
        }
        if let Some(text) = parse(&chunk[start..]) {
            let found = Found { gpa: gpa + start as u64, text: text.to_vec() };
            if out.iter().all(|known| known.gpa != found.gpa) {
                out.push(found);
            }
        }
    }
}

/// The text of a note that begins here, if it is one.
pub fn parse(bytes: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| bytes.get(at..at + 4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
    let (name_bytes, text_bytes, kind) = (word(0)?, word(4)? as usize, word(8)?);
    if name_bytes != NAME_BYTES || kind != 0 || text_bytes > TEXT_BYTES_MAX || bytes.get(12..24)? != NAME {
        return None;
    }
    let text = bytes.get(HEADER_BYTES..HEADER_BYTES + text_bytes)?;
    text.starts_with(b"OSRELEASE=").then_some(text)
}
