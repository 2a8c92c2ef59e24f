//! A read-only view of an ext4 filesystem (also ext2 and ext3), straight from a disk's bytes.
//!
//! Source: the kernel's `Documentation/filesystems/ext4/` and, for the journal, `fs/jbd2/recovery.c`.
//! We parse it ourselves because integrity needs what the crates at hand keep to themselves (inode numbers, ctime,
//! link counts, attributes) and a full journal replay: the log of a running decoy has wrapped around and holds
//! revocations, and both decide whether a block is old or new. Nothing is ever written, nothing is mounted.
//!
//! Not done: metadata checksums are not verified (who is root in the decoy can make them right), no `META_BG`,
//! no data inside inodes, no fast commits, no decryption.

mod directory;
mod extent;
mod field;
mod inode;
mod journal;
mod superblock;
mod xattr;

use std::io::{Read, Seek, SeekFrom};

pub use directory::DirEntry;
pub use inode::{FileKind, Inode, Time};

use extent::BlockRuns;
use journal::Overlay;
use superblock::Superblock;

/// The root directory's inode number.
pub const ROOT_INODE: u32 = 2;
/// The longest symlink target that is read: PATH_MAX.
const SYMLINK_BYTES_MAX: u64 = 4096;
/// Directory data that is read: 256 MiB hold about five million names.
const DIRECTORY_BYTES_MAX: u64 = 256 << 20;

/// Why something of the filesystem cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk itself did not give its bytes.
    #[error("cannot read {bytes} bytes at offset {offset} of the disk")]
    Read {
        /// Byte offset in the filesystem.
        offset: u64,
        /// How many bytes were wanted.
        bytes: usize,
        /// The disk's own error.
        source: std::io::Error,
    },
    /// There is no ext4 here.
    #[error("not an ext2, ext3 or ext4 filesystem: superblock magic is {magic:#06x}")]
    Magic {
        /// What stands where 0xef53 should.
        magic: u16,
    },
    /// A feature that this reader does not know, and without which the bytes mean something else.
    #[error("filesystem feature is not supported: {feature}")]
    Unsupported {
        /// Name or bits of the feature.
        feature: String,
    },
    /// A field says what cannot be.
    #[error("corrupt filesystem: {what} is {value}")]
    Corrupt {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// More than we are willing to read.
    #[error("{what} is over the limit of {limit}")]
    Limit {
        /// The thing.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// An opened filesystem on any disk that can be read and sought.
#[derive(Debug)]
pub struct Filesystem<R> {
    disk: R,
    start: u64,
    superblock: Superblock,
    overlay: Overlay,
}

impl<R: Read + Seek> Filesystem<R> {
    /// Opens the filesystem that begins `start` bytes into the disk, and replays its journal in memory, as a mount
    /// would on the disk. The disk must not change while the filesystem is in use.
    pub fn open(disk: R, start: u64) -> Result<Filesystem<R>, Error> {
        let mut filesystem =
            Filesystem { disk, start, superblock: Superblock::default(), overlay: Overlay::default() };
        let mut bytes = [0; superblock::BYTES];
        filesystem.read_raw(superblock::OFFSET, &mut bytes)?;
        filesystem.superblock = Superblock::parse(&bytes)?;
        if let Some(number) = filesystem.superblock.journal_inode {
            let inode = filesystem.inode(number)?;
            let runs = filesystem.runs(&inode)?;
            filesystem.overlay = journal::replay(&mut filesystem, &runs)?;
        }
        Ok(filesystem)
    }

    /// The filesystem's UUID.
    pub fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    /// How many blocks the journal holds that are newer than those in place.
    pub fn journal_blocks(&self) -> usize {
        self.overlay.len()
    }

    /// The inode with this number.
    pub fn inode(&mut self, number: u32) -> Result<Inode, Error> {
        let (group, index) = self.superblock.inode_place(number)?;
        let mut descriptor = [0; superblock::DESCRIPTOR_BYTES_MAX];
        let descriptor = &mut descriptor[..usize::from(self.superblock.descriptor_bytes)];
        self.read_within_block(self.superblock.descriptor_place(group)?, descriptor)?;
        let table = self.superblock.inode_table(descriptor)?;
        let inode_bytes = u64::from(self.superblock.inode_bytes);
        let offset = table * self.superblock.block_bytes() + u64::from(index) * inode_bytes;
        let mut bytes = vec![0; usize::from(self.superblock.inode_bytes)];
        self.read_within_block(offset, &mut bytes)?;
        Inode::parse(number, &bytes)
    }

    /// The names in a directory, in disk order, without `.` and `..`.
    pub fn read_dir(&mut self, inode: &Inode) -> Result<Vec<DirEntry>, Error> {
        if inode.size > DIRECTORY_BYTES_MAX {
            return Err(Error::Limit { what: "size of a directory", limit: DIRECTORY_BYTES_MAX });
        }
        let mut entries = Vec::new();
        let mut content = self.content(inode)?;
        let mut block = vec![0; self.superblock.block_bytes() as usize];
        loop {
            let length = content.read(self, &mut block)?;
            if length == 0 {
                return Ok(entries);
            }
            directory::parse_block(&block[..length], &mut entries)?;
        }
    }

    /// Where a symlink points.
    pub fn read_link(&mut self, inode: &Inode) -> Result<Vec<u8>, Error> {
        if inode.size > SYMLINK_BYTES_MAX {
            return Err(Error::Limit { what: "length of a symlink", limit: SYMLINK_BYTES_MAX });
        }
        if let Some(target) = inode.inline_target() {
            return Ok(target.to_vec());
        }
        let mut target = vec![0; inode.size as usize];
        let mut content = self.content(inode)?;
        let mut filled = 0;
        while filled < target.len() {
            match content.read(self, &mut target[filled..])? {
                0 => break,
                length => filled += length,
            }
        }
        target.truncate(filled);
        Ok(target)
    }

    /// A file's content, to be read in pieces.
    pub fn content(&mut self, inode: &Inode) -> Result<Content, Error> {
        Ok(Content { runs: self.runs(inode)?, position: 0, size: inode.size })
    }

    /// The extended attributes: full names (`security.capability`) and values, sorted by name.
    pub fn xattrs(&mut self, inode: &Inode) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut out = xattr::parse_in_inode(inode.after_fields())?;
        if inode.xattr_block != 0 {
            let mut block = vec![0; self.superblock.block_bytes() as usize];
            self.read_block(inode.xattr_block, &mut block)?;
            out.extend(xattr::parse_block(&block)?);
        }
        out.sort();
        Ok(out)
    }

    fn runs(&mut self, inode: &Inode) -> Result<BlockRuns, Error> {
        extent::collect(self, inode)
    }

    fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Reads a whole block as it is after replay.
    fn read_block(&mut self, block: u64, out: &mut [u8]) -> Result<(), Error> {
        self.read_within_block(block * self.superblock.block_bytes(), out)
    }

    /// Reads bytes that do not cross the end of a block, as they are after replay.
    fn read_within_block(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let block_bytes = self.superblock.block_bytes();
        let (block, within) = (offset / block_bytes, offset % block_bytes);
        if block >= self.superblock.blocks || within + out.len() as u64 > block_bytes {
            return Err(Error::Corrupt { what: "block number", value: block });
        }
        let Some(logged) = self.overlay.get(block) else {
            return self.read_raw(offset, out);
        };
        self.read_raw(logged.block * block_bytes + within, out)?;
        logged.unescape(within, out);
        Ok(())
    }

    fn read_raw(&mut self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let bytes = out.len();
        let at = self.start.saturating_add(offset);
        self.disk
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.disk.read_exact(out))
            .map_err(|source| Error::Read { offset, bytes, source })
    }
}

/// A place in a file's content.
#[derive(Debug)]
pub struct Content {
    runs: BlockRuns,
    position: u64,
    size: u64,
}

impl Content {
    /// Reads on; 0 means the end. Holes and blocks never written are zeroes.
    pub fn read<R: Read + Seek>(&mut self, from: &mut Filesystem<R>, out: &mut [u8]) -> Result<usize, Error> {
        let block_bytes = from.superblock.block_bytes();
        let mut filled = 0;
        while filled < out.len() && self.position < self.size {
            let within = self.position % block_bytes;
            let length =
                (block_bytes - within).min(self.size - self.position).min((out.len() - filled) as u64);
            let piece = &mut out[filled..filled + length as usize];
            match self.runs.find(self.position / block_bytes) {
                Some(block) => from.read_within_block(block * block_bytes + within, piece)?,
                None => piece.fill(0),
            }
            filled += length as usize;
            self.position += length;
        }
        Ok(filled)
    }
}
