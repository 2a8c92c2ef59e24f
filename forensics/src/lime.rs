//! Memory in the LiME format, version 1: before each range a header of 32 bytes (LiME `doc/`, "LiME format").

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::elf_core::RamRange;
use crate::sparse;

const MAGIC: u32 = 0x4c69_4d45;
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
/// Ranges that a reader takes.
const RANGES_MAX: usize = 4096;

/// Why a file is not in the LiME format.
#[derive(Debug, thiserror::Error)]
pub enum LimeError {
    /// It cannot be read.
    #[error("cannot read the LiME file")]
    Read(#[from] io::Error),
    /// A header that is none.
    #[error("no LiME header at byte {offset}: magic {magic:#x}, version {version}")]
    Header {
        /// Where.
        offset: u64,
        /// What stands there.
        magic: u32,
        /// What stands behind it.
        version: u32,
    },
    /// A range that ends before it begins, or after the file does.
    #[error("LiME range at byte {offset} does not fit the file")]
    Range {
        /// Where.
        offset: u64,
    },
    /// More ranges than a machine has.
    #[error("LiME file has more than {RANGES_MAX} ranges")]
    TooMany,
}

/// Writes ranges of memory into an empty file.
pub fn write(memory: &File, ranges: &[RamRange], out: &File) -> io::Result<()> {
    let mut at = 0;
    let mut buffer = Vec::new();
    for range in ranges.iter().filter(|range| range.bytes > 0) {
        out.write_all_at(&header(range.gpa, range.gpa + range.bytes - 1), at)?;
        at += HEADER_BYTES as u64;
        sparse::copy(memory, range.file_offset..range.file_offset + range.bytes, out, at, &mut buffer)?;
        at += range.bytes;
    }
    out.set_len(at)
}

fn header(first: u64, last: u64) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..8].copy_from_slice(&VERSION.to_le_bytes());
    out[8..16].copy_from_slice(&first.to_le_bytes());
    out[16..24].copy_from_slice(&last.to_le_bytes());
    out
}

/// Opens a LiME file: its ranges, with `file_offset` where their bytes are.
pub fn open(file: &File) -> Result<Vec<RamRange>, LimeError> {
    let file_bytes = file.metadata()?.len();
    let mut out = Vec::new();
    let mut at = 0;
    while at < file_bytes {
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, at)?;
        let range = parse_header(&header, at)?;
        at = range.file_offset.checked_add(range.bytes).ok_or(LimeError::Range { offset: at })?;
        if at > file_bytes {
            return Err(LimeError::Range { offset: range.file_offset });
        }
        if out.len() == RANGES_MAX {
            return Err(LimeError::TooMany);
        }
        out.push(range);
    }
    Ok(out)
}

/// Parses the header that stands at `offset` of a file.
pub fn parse_header(header: &[u8; 32], offset: u64) -> Result<RamRange, LimeError> {
    let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| header[at + i]));
    let (magic, version) = (u32_at(0), u32_at(4));
    if magic != MAGIC || version != VERSION {
        return Err(LimeError::Header { offset, magic, version });
    }
    let (first, last) = (u64_at(8), u64_at(16));
    let bytes =
        last.checked_sub(first).and_then(|bytes| bytes.checked_add(1)).ok_or(LimeError::Range { offset })?;
    let file_offset = offset.checked_add(HEADER_BYTES as u64).ok_or(LimeError::Range { offset })?;
    Ok(RamRange { gpa: first, file_offset, bytes })
}
