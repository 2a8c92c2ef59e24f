//! Extended attributes (ext4 documentation, "Extended Attributes"), in the inode and in a block of their own.

use super::Error;
use super::field::{u16_le, u32_le};

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
/// Attributes of one file: what fits into a block of 64 KiB.
const ENTRIES_MAX: usize = 4096;

/// The attributes behind an inode's fields. Value offsets count from the first entry.
pub fn parse_in_inode(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    if u32_le(bytes, 0) != MAGIC {
        return Ok(Vec::new());
    }
    parse_entries(&bytes[4..], &bytes[4..])
}

/// The attributes of a block. Value offsets count from the block's start.
pub fn parse_block(block: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let magic = u32_le(block, 0);
    if magic != MAGIC || block.len() < BLOCK_HEADER_BYTES {
        return Err(Error::Corrupt { what: "magic of an attribute block", value: magic.into() });
    }
    parse_entries(&block[BLOCK_HEADER_BYTES..], block)
}

fn parse_entries(mut entries: &[u8], values: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut out = Vec::new();
    // Four zero bytes end the list.
    while entries.len() >= 4 && u32_le(entries, 0) != 0 {
        let name_length = entries.first().copied().map_or(0, usize::from);
        let padded = (ENTRY_BYTES + name_length).next_multiple_of(4);
        if padded > entries.len() || out.len() == ENTRIES_MAX {
            return Err(Error::Corrupt { what: "length of an attribute's name", value: name_length as u64 });
        }
        let name = full_name(entries[1], &entries[ENTRY_BYTES..ENTRY_BYTES + name_length]);
        out.push((name, value(entries, values)?));
        entries = &entries[padded..];
    }
    Ok(out)
}

fn value(entry: &[u8], values: &[u8]) -> Result<Vec<u8>, Error> {
    let (offset, inode) = (usize::from(u16_le(entry, 2)), u32_le(entry, 4));
    let (size, hash) = (u32_le(entry, 8), u32_le(entry, 12));
    if inode != 0 {
        // A value in an inode of its own: its stored hash stands for it.
        return Ok(format!("inode {inode} size {size} hash {hash:08x}").into_bytes());
    }
    let end = offset.checked_add(size as usize);
    let value = end.and_then(|end| values.get(offset..end));
    value.map(<[u8]>::to_vec).ok_or(Error::Corrupt { what: "size of an attribute", value: size.into() })
}

/// "Attribute Name Indices": the prefix is stored as a number.
fn full_name(index: u8, name: &[u8]) -> String {
    let prefix = match index {
        0 => "",
        1 => "user.",
        2 => "system.posix_acl_access",
        3 => "system.posix_acl_default",
        4 => "trusted.",
        6 => "security.",
        7 => "system.",
        8 => "system.richacl",
        // Numbers not given out yet stay visible as such.
        other => return format!("index{other}.{}", name.escape_ascii()),
    };
    format!("{prefix}{}", name.escape_ascii())
}
