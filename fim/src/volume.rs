//! Where on a disk the filesystem begins: a whole-disk filesystem, or the first partition that holds one.
//!
//! Reads MBR (primary partitions) and GPT (UEFI specification, section 5.3). No LVM, no RAID, no extended partitions.

use std::io::{Read, Seek, SeekFrom};

const SECTOR_BYTES: u64 = 512;
const EXT4_MAGIC_OFFSET: u64 = 1024 + 0x38;
const EXT4_MAGIC: [u8; 2] = [0x53, 0xef];
const MBR_TYPE_GPT: u8 = 0xee;
/// A GPT has 128 entries unless somebody made it by hand.
const GPT_ENTRIES_MAX: u32 = 128;
const GPT_ENTRY_BYTES_MAX: u32 = 4096;

/// Byte offset of the first ext4 filesystem of a disk; `Ok(None)` if there is none.
pub fn find<R: Read + Seek>(disk: &mut R) -> std::io::Result<Option<u64>> {
    let mut starts = vec![0];
    let mut sector = [0; SECTOR_BYTES as usize];
    if read_at(disk, 0, &mut sector)? && sector[510..] == [0x55, 0xaa] {
        for entry in sector[446..510].chunks_exact(16) {
            match entry[4] {
                0 => {}
                MBR_TYPE_GPT => starts.extend(gpt_starts(disk)?),
                _ => starts.push(u64::from(u32_at(entry, 8)) * SECTOR_BYTES),
            }
        }
    }
    for start in starts {
        let mut magic = [0; 2];
        if read_at(disk, start.saturating_add(EXT4_MAGIC_OFFSET), &mut magic)? && magic == EXT4_MAGIC {
            return Ok(Some(start));
        }
    }
    Ok(None)
}

fn gpt_starts<R: Read + Seek>(disk: &mut R) -> std::io::Result<Vec<u64>> {
    let mut header = [0; 92];
    if !read_at(disk, SECTOR_BYTES, &mut header)? || !header.starts_with(b"EFI PART") {
        return Ok(Vec::new());
    }
    let (table, count, bytes) = (u64_at(&header, 72), u32_at(&header, 80), u32_at(&header, 84));
    if !(128..=GPT_ENTRY_BYTES_MAX).contains(&bytes) {
        return Ok(Vec::new());
    }
    let mut starts = Vec::new();
    for i in 0..count.min(GPT_ENTRIES_MAX) {
        let mut entry = [0; 48];
        let at = table.saturating_mul(SECTOR_BYTES).saturating_add(u64::from(i) * u64::from(bytes));
        if read_at(disk, at, &mut entry)? && entry[..16] != [0; 16] {
            starts.push(u64_at(&entry, 32).saturating_mul(SECTOR_BYTES));
        }
    }
    Ok(starts)
}

/// Reads exactly `out`; `false` if the disk ends before.
fn read_at<R: Read + Seek>(disk: &mut R, at: u64, out: &mut [u8]) -> std::io::Result<bool> {
    // Offsets past i64 cannot be sought to; no disk is that long.
    if i64::try_from(at).is_err() {
        return Ok(false);
    }
    disk.seek(SeekFrom::Start(at))?;
    match disk.read_exact(out) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
