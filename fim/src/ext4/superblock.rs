//! The superblock and the group descriptors (ext4 documentation, "Super Block", "Block Group Descriptors").

use super::Error;
use super::field::{join, u16_le, u32_le};

/// Where the superblock stands.
pub const OFFSET: u64 = 1024;
/// Its length.
pub const BYTES: usize = 1024;
/// The longest group descriptor that is read; longer ones would carry fields that we do not know.
pub const DESCRIPTOR_BYTES_MAX: usize = 64;

const MAGIC: u16 = 0xef53;
/// Blocks of 64 KiB: the largest that the format allows.
const LOG_BLOCK_SIZE_MAX: u32 = 6;
const COMPAT_HAS_JOURNAL: u32 = 0x4;
const INCOMPAT_64BIT: u32 = 0x80;
const INCOMPAT_META_BG: u32 = 0x10;
/// Features that change nothing in how we read, or that we read: filetype, recover, extents, 64bit, mmp, flex_bg,
/// ea_inode, csum_seed, largedir, inline_data (refused file by file), encrypt (names and content as stored), casefold.
const INCOMPAT_KNOWN: u32 =
    0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;

/// What of the superblock we need.
#[derive(Debug, Default)]
pub struct Superblock {
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes of an inode.
    pub inode_bytes: u16,
    /// Bytes of a group descriptor.
    pub descriptor_bytes: u16,
    /// The journal's inode.
    pub journal_inode: Option<u32>,
    /// UUID.
    pub uuid: [u8; 16],
    log_block_bytes: u32,
    first_data_block: u32,
    inodes: u32,
    inodes_per_group: u32,
    wide: bool,
}

impl Superblock {
    /// Parses the 1024 bytes and refuses what would make later arithmetic meaningless.
    pub fn parse(bytes: &[u8; BYTES]) -> Result<Superblock, Error> {
        let magic = u16_le(bytes, 0x38);
        if magic != MAGIC {
            return Err(Error::Magic { magic });
        }
        let incompat = u32_le(bytes, 0x60);
        if incompat & INCOMPAT_META_BG != 0 || incompat & !INCOMPAT_KNOWN != 0 {
            let feature = format!("incompatible bits {:#x}", incompat & !INCOMPAT_KNOWN);
            return Err(Error::Unsupported { feature });
        }
        let log = u32_le(bytes, 0x18);
        if log > LOG_BLOCK_SIZE_MAX {
            return Err(Error::Corrupt { what: "s_log_block_size", value: log.into() });
        }
        let wide = incompat & INCOMPAT_64BIT != 0;
        let old = u32_le(bytes, 0x4c) == 0;
        let has_journal = u32_le(bytes, 0x5c) & COMPAT_HAS_JOURNAL != 0;
        let superblock = Superblock {
            blocks: join(if wide { u32_le(bytes, 0x150) } else { 0 }, u32_le(bytes, 0x4)),
            inode_bytes: if old { 128 } else { u16_le(bytes, 0x58) },
            descriptor_bytes: if wide { u16_le(bytes, 0xfe) } else { 32 },
            journal_inode: has_journal.then(|| u32_le(bytes, 0xe0)).filter(|number| *number != 0),
            uuid: std::array::from_fn(|i| bytes[0x68 + i]),
            log_block_bytes: 10 + log,
            first_data_block: u32_le(bytes, 0x14),
            inodes: u32_le(bytes, 0),
            inodes_per_group: u32_le(bytes, 0x28),
            wide,
        };
        superblock.validate()?;
        Ok(superblock)
    }

    fn validate(&self) -> Result<(), Error> {
        let corrupt = |what, value| Err(Error::Corrupt { what, value });
        // The byte offset of the last block must fit.
        if self.blocks == 0 || self.blocks > u64::MAX >> 20 {
            return corrupt("s_blocks_count", self.blocks);
        }
        let inode_bytes = u64::from(self.inode_bytes);
        if inode_bytes < 128 || inode_bytes > self.block_bytes() || !inode_bytes.is_power_of_two() {
            return corrupt("s_inode_size", inode_bytes);
        }
        if !matches!(self.descriptor_bytes, 32 | 64) {
            return corrupt("s_desc_size", self.descriptor_bytes.into());
        }
        if self.inodes_per_group == 0 {
            return corrupt("s_inodes_per_group", 0);
        }
        Ok(())
    }

    /// Bytes of a block: 1024 to 65536.
    pub fn block_bytes(&self) -> u64 {
        1 << self.log_block_bytes
    }

    /// The group of an inode, and its place in the group's table.
    pub fn inode_place(&self, number: u32) -> Result<(u32, u32), Error> {
        if number == 0 || number > self.inodes {
            return Err(Error::Corrupt { what: "inode number", value: number.into() });
        }
        Ok(((number - 1) / self.inodes_per_group, (number - 1) % self.inodes_per_group))
    }

    /// Byte offset of a group's descriptor.
    pub fn descriptor_place(&self, group: u32) -> Result<u64, Error> {
        let table = (u64::from(self.first_data_block) + 1) * self.block_bytes();
        Ok(table + u64::from(group) * u64::from(self.descriptor_bytes))
    }

    /// First block of the inode table that a descriptor names.
    pub fn inode_table(&self, descriptor: &[u8]) -> Result<u64, Error> {
        let high = if self.wide { u32_le(descriptor, 0x28) } else { 0 };
        let table = join(high, u32_le(descriptor, 0x8));
        if table == 0 || table >= self.blocks {
            return Err(Error::Corrupt { what: "bg_inode_table", value: table });
        }
        Ok(table)
    }
}
