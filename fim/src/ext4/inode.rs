//! Inodes (ext4 documentation, "Index Nodes").

use super::Error;
use super::field::{join, u16_le, u32_le};

/// `i_flags`: the file's blocks are named by extents.
const FLAG_EXTENTS: u32 = 0x8_0000;
/// `i_flags`: the content is in the inode itself.
const FLAG_INLINE_DATA: u32 = 0x1000_0000;
/// Flags that `chattr` sets and `lsattr` shows: secrm, unrm, compr, sync, immutable, append, nodump, noatime,
/// journal data, notail, dirsync, topdir, nocow. The rest is bookkeeping that changes by itself.
const FLAGS_OF_CHATTR: u32 = 0x0082_c0ff;
const BLOCK_FIELD_BYTES: usize = 60;
/// The fixed part of every inode; what follows is counted by `i_extra_isize`.
const OLD_INODE_BYTES: usize = 128;

/// What kind of file an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
}

impl FileKind {
    fn from_mode(mode: u16) -> Result<FileKind, Error> {
        match mode >> 12 {
            0x8 => Ok(FileKind::Regular),
            0x4 => Ok(FileKind::Directory),
            0xa => Ok(FileKind::Symlink),
            0x2 => Ok(FileKind::CharDevice),
            0x6 => Ok(FileKind::BlockDevice),
            0x1 => Ok(FileKind::Fifo),
            0xc => Ok(FileKind::Socket),
            // An inode that a directory names always has a type; 0 is a freed inode.
            other => Err(Error::Corrupt { what: "file type in i_mode", value: other.into() }),
        }
    }
}

/// A time stamp, seconds since 1970 (34 bits wide) and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000 unless somebody wrote the disk by hand.
    pub nanoseconds: u32,
}

impl Time {
    /// "Inode Timestamps": the extra field has two more bits of seconds and 30 of nanoseconds.
    fn new(seconds: u32, extra: u32) -> Time {
        let epoch = i64::from(extra & 3) << 32;
        Time { seconds: i64::from(seconds.cast_signed()) + epoch, nanoseconds: extra >> 2 }
    }
}

/// One inode.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content.
    pub size: u64,
    /// Number of names.
    pub links: u16,
    /// 512-byte sectors that it occupies, as `stat` counts them.
    pub sectors: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of the inode: cannot be set by a program, so a forged mtime shows beside it.
    pub ctime: Time,
    /// Creation, where the inode is large enough to tell.
    pub crtime: Option<Time>,
    /// What `lsattr` shows, as bits.
    pub attributes: u32,
    /// Major and minor of a device.
    pub device: Option<(u32, u32)>,
    /// Block with further extended attributes, or 0.
    pub xattr_block: u64,
    pub(super) flags: u32,
    pub(super) block_field: [u8; BLOCK_FIELD_BYTES],
    after_fields: Vec<u8>,
}

impl Inode {
    /// Parses an inode of at least 128 bytes.
    pub fn parse(number: u32, bytes: &[u8]) -> Result<Inode, Error> {
        if bytes.len() < OLD_INODE_BYTES {
            return Err(Error::Corrupt { what: "length of an inode", value: bytes.len() as u64 });
        }
        let mode = u16_le(bytes, 0);
        let kind = FileKind::from_mode(mode)?;
        let extra_bytes = usize::from(if bytes.len() > 130 { u16_le(bytes, 0x80) } else { 0 });
        let fields_end = OLD_INODE_BYTES + extra_bytes;
        if fields_end > bytes.len() {
            return Err(Error::Corrupt { what: "i_extra_isize", value: extra_bytes as u64 });
        }
        let extra = |at: usize| if at + 4 <= fields_end { u32_le(bytes, at) } else { 0 };
        Ok(Inode {
            number,
            kind,
            permissions: mode & 0o7777,
            uid: u32::from(u16_le(bytes, 0x78)) << 16 | u32::from(u16_le(bytes, 0x2)),
            gid: u32::from(u16_le(bytes, 0x7a)) << 16 | u32::from(u16_le(bytes, 0x18)),
            size: join(u32_le(bytes, 0x6c), u32_le(bytes, 0x4)),
            links: u16_le(bytes, 0x1a),
            sectors: join(u16_le(bytes, 0x74).into(), u32_le(bytes, 0x1c)),
            mtime: Time::new(u32_le(bytes, 0x10), extra(0x88)),
            ctime: Time::new(u32_le(bytes, 0xc), extra(0x84)),
            crtime: (fields_end >= 0x98).then(|| Time::new(extra(0x90), extra(0x94))),
            attributes: u32_le(bytes, 0x20) & FLAGS_OF_CHATTR,
            device: device(kind, u32_le(bytes, 0x28), u32_le(bytes, 0x2c)),
            xattr_block: join(u16_le(bytes, 0x76).into(), u32_le(bytes, 0x68)),
            flags: u32_le(bytes, 0x20),
            block_field: std::array::from_fn(|i| bytes[0x28 + i]),
            after_fields: bytes[fields_end..].to_vec(),
        })
    }

    /// Extents name the blocks; otherwise it is the block map of ext2.
    pub(super) fn has_extents(&self) -> bool {
        self.flags & FLAG_EXTENTS != 0
    }

    pub(super) fn has_inline_data(&self) -> bool {
        self.flags & FLAG_INLINE_DATA != 0
    }

    /// The target of a short symlink, which is stored where others have their block map.
    pub(super) fn inline_target(&self) -> Option<&[u8]> {
        let length = usize::try_from(self.size).ok()?;
        let short = self.kind == FileKind::Symlink && !self.has_extents() && length < BLOCK_FIELD_BYTES;
        short.then(|| &self.block_field[..length])
    }

    /// The bytes after the last field: attributes may be there.
    pub(super) fn after_fields(&self) -> &[u8] {
        &self.after_fields
    }
}

/// Devices are in the first block field in the old form (8 + 8 bits), or in the second in the new one (12 + 20 bits).
fn device(kind: FileKind, old: u32, new: u32) -> Option<(u32, u32)> {
    if !matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
        return None;
    }
    if old != 0 {
        return Some((old >> 8 & 0xff, old & 0xff));
    }
    Some((new >> 8 & 0xfff, (new & 0xff) | (new >> 12 & 0xf_ff00)))
}
