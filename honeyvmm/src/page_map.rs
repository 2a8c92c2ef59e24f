//! The map beside a diff of RAM: which pages the diff holds. A page that it holds and that is a hole in the data is a page of zeros.
//!
//! Little endian: magic (8 bytes), version u32, 0 u32, pages u64; then a bit a page in words of 64 bits. Whether it is the map that was written is
//! for the sums of its manifest to tell, not for this parser.

use fixedbitset::FixedBitSet;
use thiserror::Error;

use crate::dirty::set_of;

const MAGIC: [u8; 8] = *b"HNPAGES\0";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const WORD_BYTES: usize = 8;
/// Pages of the largest RAM: it ends below the shim's memory (`shim::SHIM_GPA`).
const PAGES_MAX: u64 = 1 << 26;

/// Why bytes are no map.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PageMapError {
    /// Another kind of file.
    #[error("not a map of pages")]
    Magic,
    /// Another form.
    #[error("map of pages has version {0}, not {VERSION}")]
    Version(u32),
    /// No RAM is that large.
    #[error("map of {0} pages, of more than {PAGES_MAX}")]
    TooLarge(u64),
    /// It ends too early or too late.
    #[error("map has {actual} bytes instead of {expected}")]
    Length {
        /// The bytes that there are.
        actual: usize,
        /// What its header asks for.
        expected: usize,
    },
    /// A bit past the last page.
    #[error("map of {0} pages holds one more")]
    PastEnd(u64),
}

/// The bytes of a map.
#[must_use]
pub fn encode(held: &FixedBitSet) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + held.as_slice().len() * WORD_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend((held.len() as u64).to_le_bytes());
    held.as_slice().iter().for_each(|word| bytes.extend((*word as u64).to_le_bytes()));
    bytes
}

/// Reads a map.
///
/// # Errors
/// Anything but a whole map of this version.
pub fn decode(bytes: &[u8]) -> Result<FixedBitSet, PageMapError> {
    let (header, words) = bytes.split_at_checked(HEADER_BYTES).ok_or(PageMapError::Magic)?;
    if header[..8] != MAGIC {
        return Err(PageMapError::Magic);
    }
    let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if version != VERSION {
        return Err(PageMapError::Version(version));
    }
    let pages = header[16..].iter().rev().fold(0, |pages, byte| pages << 8 | u64::from(*byte));
    if pages > PAGES_MAX {
        return Err(PageMapError::TooLarge(pages));
    }
    let expected = HEADER_BYTES + pages.div_ceil(64) as usize * WORD_BYTES;
    if bytes.len() != expected {
        return Err(PageMapError::Length { actual: bytes.len(), expected });
    }
    let (words, _) = words.as_chunks::<WORD_BYTES>();
    let past = pages % 64;
    if past != 0 && words.last().is_some_and(|word| u64::from_le_bytes(*word) >> past != 0) {
        return Err(PageMapError::PastEnd(pages));
    }
    Ok(set_of(pages as usize, words.iter().map(|word| u64::from_le_bytes(*word))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pages: usize, held: &[usize]) -> FixedBitSet {
        let mut set = FixedBitSet::with_capacity(pages);
        held.iter().for_each(|page| set.insert(*page));
        set
    }

    #[test]
    fn a_map_is_read_as_it_was_written() {
        for (pages, held) in [(0, &[][..]), (1, &[0]), (64, &[0, 63]), (65, &[64]), (1000, &[1, 500, 999])] {
            let map = set(pages, held);
            assert_eq!(decode(&encode(&map)), Ok(map), "{pages}");
        }
    }

    #[test]
    fn what_is_no_map_is_refused_by_what_is_wrong() {
        let good = encode(&set(65, &[1]));
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            decode(&bytes)
        };
        assert_eq!(decode(b"HN"), Err(PageMapError::Magic));
        assert_eq!(changed(0, b'X'), Err(PageMapError::Magic));
        assert_eq!(changed(8, 2), Err(PageMapError::Version(2)));
        assert_eq!(changed(22, 1), Err(PageMapError::TooLarge(65 | 1 << 48)));
        assert_eq!(changed(16, 1), Err(PageMapError::Length { actual: 40, expected: 32 }));
        assert_eq!(decode(&good[..39]), Err(PageMapError::Length { actual: 39, expected: 40 }));
        assert_eq!(changed(32, 2), Err(PageMapError::PastEnd(65)));
    }
}
