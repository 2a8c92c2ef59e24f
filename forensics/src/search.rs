//! A byte string in the memory and the disks of a case.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::memmem::Finder;
use serde::Serialize;

use crate::case::{CaseError, read_manifest};
use crate::elf_core::{self, RamRange};
use crate::sparse;
use crate::verify::open_regular;

/// The longest byte string that is looked for.
pub const NEEDLE_BYTES_MAX: usize = 64 << 10;
const CHUNK_BYTES: usize = 4 << 20;

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// The item: `memory.elf`, `disk-xvda.raw`.
    pub item: String,
    /// Byte offset in it.
    pub offset: u64,
    /// Guest-physical address, for memory.
    pub gpa: Option<u64>,
}

/// Why nothing could be looked for.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// Not a case.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// Nothing to look for, or too much.
    #[error("cannot search for {bytes} bytes, only for 1 to {NEEDLE_BYTES_MAX}")]
    Needle {
        /// Its length.
        bytes: usize,
    },
    /// Reading an item.
    #[error("cannot search {item}")]
    Read {
        /// The item.
        item: String,
        /// Why.
        source: io::Error,
    },
}

/// The first `hits_max` places of a byte string, in memory (`memory.elf`) and in raw disks; the other formats hold the same.
pub fn search(case: &Path, needle: &[u8], hits_max: usize) -> Result<Vec<Hit>, SearchError> {
    if needle.is_empty() || needle.len() > NEEDLE_BYTES_MAX {
        return Err(SearchError::Needle { bytes: needle.len() });
    }
    let manifest = read_manifest(case)?;
    let mut hits = Vec::new();
    let wanted = |name: &str| name == "memory.elf" || name.ends_with(".raw");
    for item in manifest.items.iter().map(|item| item.name.as_str()).filter(|name| wanted(name)) {
        let failed = |source| SearchError::Read { item: item.to_owned(), source };
        let file = open_regular(&case.join(item)).map_err(failed)?;
        let file = file.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let segments = elf_core::open(&file).map(|(core, _)| core.segments).unwrap_or_default();
        for offset in find(&file, needle, hits_max - hits.len().min(hits_max)).map_err(failed)? {
            hits.push(Hit { item: item.to_owned(), offset, gpa: gpa(&segments, offset) });
        }
    }
    Ok(hits)
}

fn gpa(segments: &[RamRange], offset: u64) -> Option<u64> {
    segments
        .iter()
        .find(|segment| (segment.file_offset..segment.file_offset + segment.bytes).contains(&offset))
        .map(|segment| segment.gpa + (offset - segment.file_offset))
}

/// Offsets of a byte string in a file. Holes are skipped, so zeroes alone are not looked for there.
fn find(file: &File, needle: &[u8], hits_max: usize) -> io::Result<Vec<u64>> {
    let finder = Finder::new(needle);
    let length = file.metadata()?.len();
    let mut buffer = vec![0; CHUNK_BYTES + needle.len() - 1];
    let mut out: Vec<u64> = Vec::new();
    for range in sparse::data_ranges(file, 0..length)? {
        let mut at = range.start;
        while at < range.end && out.len() < hits_max {
            // The overlap finds what lies across two chunks, but once only.
            let bytes = (length - at).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..bytes], at)?;
            let begins_here = finder.find_iter(&buffer[..bytes]).take_while(|offset| *offset < CHUNK_BYTES);
            let new = begins_here.map(|offset| at + offset as u64).filter(|place| *place < range.end);
            out.extend(new.take(hits_max - out.len()).collect::<Vec<_>>());
            at += CHUNK_BYTES as u64;
        }
    }
    Ok(out)
}
