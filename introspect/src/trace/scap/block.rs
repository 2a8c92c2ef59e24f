//! Blocks, of which a capture is made (`userspace/libscap/scap_savefile.h`): type, length, contents filled up to four bytes, length again.

/// `SHB_BLOCK_TYPE`.
pub const SECTION: u32 = 0x0a0d_0d0a;
/// `MI_BLOCK_TYPE`.
pub const MACHINE: u32 = 0x201;
/// `PL_BLOCK_TYPE_V9`.
pub const PROCESSES: u32 = 0x215;
/// `EV_BLOCK_TYPE_V2`: an event whose header tells its number of parameters.
pub const EVENT: u32 = 0x216;
/// `EVF_BLOCK_TYPE_V2`: the same after 32 bits of flags.
pub const EVENT_WITH_FLAGS: u32 = 0x217;
/// `FDL_BLOCK_TYPE_V2`.
pub const DESCRIPTORS: u32 = 0x218;
/// `IL_BLOCK_TYPE_V2`.
pub const INTERFACES: u32 = 0x219;
/// `UL_BLOCK_TYPE_V2`.
pub const USERS: u32 = 0x220;

/// Type and length before the contents, length after them.
const FRAME_BYTES: usize = 12;

/// A block of this type with these contents.
pub fn block(block_type: u32, contents: &[u8]) -> Vec<u8> {
    let padded = contents.len().next_multiple_of(4);
    // The lists before the events are cut far below 4 GiB (`preface`), an event below 64 KiB (`parameters`).
    let length = u32::try_from(padded + FRAME_BYTES).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(padded + FRAME_BYTES);
    bytes.extend(block_type.to_le_bytes());
    bytes.extend(length.to_le_bytes());
    bytes.extend(contents);
    bytes.resize(8 + padded, 0);
    bytes.extend(length.to_le_bytes());
    bytes
}

/// How many of these bytes are whole blocks; the rest of the last one is to come. `None`: there is no block where one should begin.
#[must_use]
pub fn whole_blocks(bytes: &[u8]) -> Option<usize> {
    let mut whole = 0;
    while let Some(head) = bytes[whole..].first_chunk::<8>() {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if length < FRAME_BYTES {
            return None;
        }
        match whole.checked_add(length).filter(|end| *end <= bytes.len()) {
            Some(end) => whole = end,
            None => break,
        }
    }
    Some(whole)
}
