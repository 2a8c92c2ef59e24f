//! The first page of a copy-on-write layer: what it is a layer of, and where its parts lie.
//!
//! Little endian: magic (8 bytes), version u32, cluster bytes u32, disk bytes u64, base id (32 bytes), blake3 of all that
//! (32 bytes). The map follows at 4096, a bit a cluster; the data after it, each cluster at its place.

use thiserror::Error;

use super::{BaseId, CLUSTER_BYTES, DISK_BYTES_MAX};

pub(super) const HEADER_BYTES: usize = 4096;

const MAGIC: [u8; 8] = *b"HNLAYER\0";
const VERSION: u32 = 1;
const SUMMED_BYTES: usize = 56;

/// Why a file is not a layer of the disk at hand.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// Another kind of file.
    #[error("file is not a copy-on-write layer")]
    Magic,
    /// Made by another version.
    #[error("layer has version {0}, not {VERSION}")]
    Version(u32),
    /// The checksum does not fit, or a field holds what no header can.
    #[error("layer header is damaged")]
    Damaged,
    /// The file ends too early or too late.
    #[error("layer has {actual} bytes instead of {expected}")]
    Length {
        /// The file's bytes.
        actual: u64,
        /// What the header asks for.
        expected: u64,
    },
    /// The base image has another size or another content than when the layer was made.
    #[error("layer belongs to another base image")]
    OtherBase,
}

/// What a layer's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the disk in bytes.
    pub disk_bytes: u64,
    /// The base image that the layer lies over.
    pub base_id: BaseId,
}

impl Header {
    /// The header's page.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        page[0..8].copy_from_slice(&MAGIC);
        page[8..12].copy_from_slice(&VERSION.to_le_bytes());
        page[12..16].copy_from_slice(&(CLUSTER_BYTES as u32).to_le_bytes());
        page[16..24].copy_from_slice(&self.disk_bytes.to_le_bytes());
        page[24..56].copy_from_slice(&self.base_id);
        let sum = blake3::hash(&page[..SUMMED_BYTES]);
        page[SUMMED_BYTES..SUMMED_BYTES + 32].copy_from_slice(sum.as_bytes());
        page
    }

    /// Reads a header's page.
    ///
    /// # Errors
    /// Anything but a whole header of this version.
    pub fn decode(page: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        if page[0..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let word = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        if word(8) != VERSION {
            return Err(HeaderError::Version(word(8)));
        }
        let sum = blake3::hash(&page[..SUMMED_BYTES]);
        let disk_bytes = u64::from(word(16)) | u64::from(word(20)) << 32;
        if page[SUMMED_BYTES..SUMMED_BYTES + 32] != *sum.as_bytes()
            || u64::from(word(12)) != CLUSTER_BYTES
            || disk_bytes > DISK_BYTES_MAX
        {
            return Err(HeaderError::Damaged);
        }
        let mut base_id = [0; 32];
        base_id.copy_from_slice(&page[24..56]);
        Ok(Self { disk_bytes, base_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed() {
        let header = Header { disk_bytes: 1 << 33, base_id: [7; 32] };
        let page = header.encode();
        assert_eq!(Header::decode(&page), Ok(header));
        for bit in 0..(SUMMED_BYTES + 32) * 8 {
            let mut damaged = page;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn foreign_files_are_named_for_what_they_are() {
        assert_eq!(Header::decode(&[0; HEADER_BYTES]), Err(HeaderError::Magic));
        let mut page = Header { disk_bytes: 1 << 20, base_id: [7; 32] }.encode();
        page[8] = 9;
        assert_eq!(Header::decode(&page), Err(HeaderError::Version(9)));
        let huge = Header { disk_bytes: DISK_BYTES_MAX + 1, base_id: [7; 32] }.encode();
        assert_eq!(Header::decode(&huge), Err(HeaderError::Damaged));
    }
}
