//! Fields of on-disk structures: little-endian ones (ext4) and big-endian ones (the journal).
//!
//! A field outside the bytes reads as 0; callers check lengths first, and what is missing by design (the fields past
//! the end of a 128-byte inode) is 0 by the format's own rule.

/// A little-endian u16.
pub fn u16_le(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |field| u16::from_le_bytes([field[0], field[1]]))
}

/// A little-endian u32.
pub fn u32_le(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |field| u32::from_le_bytes([field[0], field[1], field[2], field[3]]))
}

/// A big-endian u16.
pub fn u16_be(bytes: &[u8], at: usize) -> u16 {
    u16_le(bytes, at).swap_bytes()
}

/// A big-endian u32.
pub fn u32_be(bytes: &[u8], at: usize) -> u32 {
    u32_le(bytes, at).swap_bytes()
}

/// One number of two halves.
pub fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
