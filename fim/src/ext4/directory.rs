//! Directory blocks (ext4 documentation, "Directory Entries").
//!
//! Hashed directories keep the linear form: their index blocks look like empty entries, so this reads both.

use super::Error;
use super::field::{u16_le, u32_le};

/// Names in one directory.
const ENTRIES_MAX: usize = 1 << 21;
const HEADER_BYTES: usize = 8;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The inode that it names.
    pub inode: u32,
    /// The name: any bytes but `/` and NUL, 1 to 255.
    pub name: Vec<u8>,
}

/// Appends the names of one directory block.
pub fn parse_block(block: &[u8], entries: &mut Vec<DirEntry>) -> Result<(), Error> {
    let mut at = 0;
    while at + HEADER_BYTES <= block.len() {
        let entry = &block[at..];
        let length = match u16_le(entry, 4) {
            // A length of 64 KiB does not fit its field.
            0 | 0xffff if block.len() == 65536 => block.len() - at,
            length => usize::from(length),
        };
        let name_length = usize::from(entry[6]);
        if length < HEADER_BYTES
            || length % 4 != 0
            || length > entry.len()
            || HEADER_BYTES + name_length > length
        {
            return Err(Error::Corrupt { what: "length of a directory entry", value: length as u64 });
        }
        let name = &entry[HEADER_BYTES..HEADER_BYTES + name_length];
        let inode = u32_le(entry, 0);
        if inode != 0 && !matches!(name, b"" | b"." | b"..") {
            if name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                return Err(Error::Corrupt { what: "name of inode", value: inode.into() });
            }
            if entries.len() == ENTRIES_MAX {
                return Err(Error::Limit {
                    what: "number of names in a directory",
                    limit: ENTRIES_MAX as u64,
                });
            }
            entries.push(DirEntry { inode, name: name.to_vec() });
        }
        at += length;
    }
    Ok(())
}
