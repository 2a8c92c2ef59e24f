//! Which blocks hold a file's content: extent trees (ext4) and block maps (ext2, ext3).

use std::io::{Read, Seek};

use super::field::{u16_le, u32_le};
use super::{Error, Filesystem, Inode};

const EXTENT_MAGIC: u16 = 0xf30a;
/// The kernel builds trees of at most five levels (EXT4_MAX_EXTENT_DEPTH).
const DEPTH_MAX: u16 = 5;
/// A file in more pieces than this is not one that a Debian system makes; 24 MiB of table.
const RUNS_MAX: usize = 1 << 20;
/// Pointers of a block map that are looked at: a map can name the same block over and over.
const POINTERS_MAX: u64 = 1 << 24;
/// Extents longer than this are allocated but never written, and read as zeroes.
const WRITTEN_LENGTH_MAX: u16 = 32768;
const ENTRY_BYTES: usize = 12;
const DIRECT_BLOCKS: usize = 12;

/// Consecutive blocks.
#[derive(Debug, Clone, Copy)]
struct Run {
    logical: u64,
    physical: u64,
    length: u64,
}

/// The written pieces of a file, in order of their place in the file.
#[derive(Debug, Default)]
pub struct BlockRuns {
    runs: Vec<Run>,
    /// Where the last extent ends, written or not.
    end: u64,
}

impl BlockRuns {
    /// The disk block of a file block; `None` is a hole.
    pub fn find(&self, logical: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.logical <= logical);
        let run = self.runs.get(after.checked_sub(1)?)?;
        (logical - run.logical < run.length).then(|| run.physical + (logical - run.logical))
    }

    /// Extents must ascend, also those that were never written: otherwise six levels of nodes that all name one node below
    /// them are billions of them.
    fn advance(&mut self, logical: u64, length: u16) -> Result<(), Error> {
        if length == 0 || logical < self.end {
            return Err(Error::Corrupt { what: "order of extents at file block", value: logical });
        }
        self.end = logical + u64::from(length);
        Ok(())
    }

    fn push(&mut self, run: Run, blocks: u64) -> Result<(), Error> {
        let end = run.physical.checked_add(run.length).filter(|end| *end <= blocks);
        if end.is_none() {
            return Err(Error::Corrupt { what: "block of a file", value: run.physical });
        }
        if let Some(last) = self.runs.last_mut()
            && run.logical == last.logical + last.length
            && run.physical == last.physical + last.length
        {
            last.length += run.length;
            return Ok(());
        }
        if self.runs.len() == RUNS_MAX {
            return Err(Error::Limit { what: "number of extents of a file", limit: RUNS_MAX as u64 });
        }
        self.runs.push(run);
        Ok(())
    }
}

/// Collects the written pieces of an inode's content.
pub fn collect<R: Read + Seek>(filesystem: &mut Filesystem<R>, inode: &Inode) -> Result<BlockRuns, Error> {
    if inode.has_inline_data() {
        return Err(Error::Unsupported { feature: "data inside the inode".to_owned() });
    }
    let mut runs = BlockRuns::default();
    if inode.has_extents() {
        walk_extents(filesystem, &inode.block_field, DEPTH_MAX, &mut runs)?;
    } else {
        BlockMap { filesystem, runs: &mut runs, pointers: 0, logical: 0, size: inode.size }.walk(inode)?;
    }
    Ok(runs)
}

fn walk_extents<R: Read + Seek>(
    filesystem: &mut Filesystem<R>,
    node: &[u8],
    depth_max: u16,
    runs: &mut BlockRuns,
) -> Result<(), Error> {
    let (magic, entries, depth) = (u16_le(node, 0), usize::from(u16_le(node, 2)), u16_le(node, 6));
    if magic != EXTENT_MAGIC {
        return Err(Error::Corrupt { what: "extent magic", value: magic.into() });
    }
    // Each level down must be smaller, so a tree that names itself ends.
    if depth > depth_max {
        return Err(Error::Corrupt { what: "extent tree depth", value: depth.into() });
    }
    if (entries + 1) * ENTRY_BYTES > node.len() {
        return Err(Error::Corrupt { what: "extent count", value: entries as u64 });
    }
    let blocks = filesystem.superblock().blocks;
    for entry in node[ENTRY_BYTES..].chunks_exact(ENTRY_BYTES).take(entries) {
        let logical = u64::from(u32_le(entry, 0));
        if depth == 0 {
            let length = u16_le(entry, 4);
            let physical = u64::from(u16_le(entry, 6)) << 32 | u64::from(u32_le(entry, 8));
            let written = length <= WRITTEN_LENGTH_MAX;
            runs.advance(logical, if written { length } else { length - WRITTEN_LENGTH_MAX })?;
            if written {
                runs.push(Run { logical, physical, length: length.into() }, blocks)?;
            }
            continue;
        }
        let child = u64::from(u16_le(entry, 8)) << 32 | u64::from(u32_le(entry, 4));
        let mut block = vec![0; filesystem.superblock().block_bytes() as usize];
        filesystem.read_block(child, &mut block)?;
        // Extents must ascend, so a child named twice is refused unless it is empty.
        if u16_le(&block, 2) == 0 || u16_le(&block, 6) != depth - 1 {
            return Err(Error::Corrupt { what: "extent tree node", value: child });
        }
        walk_extents(filesystem, &block, depth - 1, runs)?;
    }
    Ok(())
}

/// The walk of an ext2 block map: 12 direct blocks, then one, two and three levels of indirection.
struct BlockMap<'a, R> {
    filesystem: &'a mut Filesystem<R>,
    runs: &'a mut BlockRuns,
    pointers: u64,
    logical: u64,
    size: u64,
}

impl<R: Read + Seek> BlockMap<'_, R> {
    fn walk(&mut self, inode: &Inode) -> Result<(), Error> {
        for (i, field) in inode.block_field.chunks_exact(4).enumerate() {
            let level = i.saturating_sub(DIRECT_BLOCKS - 1) as u32;
            self.visit(u32_le(field, 0), level)?;
        }
        Ok(())
    }

    fn visit(&mut self, block: u32, level: u32) -> Result<(), Error> {
        let block_bytes = self.filesystem.superblock().block_bytes();
        if self.logical * block_bytes >= self.size {
            return Ok(());
        }
        self.pointers += 1;
        if self.pointers > POINTERS_MAX {
            return Err(Error::Limit { what: "number of block pointers of a file", limit: POINTERS_MAX });
        }
        if block == 0 {
            self.logical += (block_bytes / 4).pow(level);
            return Ok(());
        }
        if level == 0 {
            let run = Run { logical: self.logical, physical: block.into(), length: 1 };
            self.logical += 1;
            return self.runs.push(run, self.filesystem.superblock().blocks);
        }
        let mut pointers = vec![0; block_bytes as usize];
        self.filesystem.read_block(block.into(), &mut pointers)?;
        for pointer in pointers.chunks_exact(4) {
            self.visit(u32_le(pointer, 0), level - 1)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const BLOCK_BYTES: usize = 1024;

    /// A node of which all entries are this one.
    fn node(depth: u16, entry: [u8; ENTRY_BYTES], bytes: usize) -> Vec<u8> {
        let entries = bytes / ENTRY_BYTES - 1;
        let mut node = EXTENT_MAGIC.to_le_bytes().to_vec();
        node.extend((entries as u16).to_le_bytes());
        node.extend([0; 2]);
        node.extend(depth.to_le_bytes());
        node.resize(ENTRY_BYTES, 0);
        node.extend(entry.repeat(entries));
        node.resize(bytes, 0);
        node
    }

    fn index(child: u8) -> [u8; ENTRY_BYTES] {
        std::array::from_fn(|at| if at == 4 { child } else { 0 })
    }

    #[test]
    fn a_tree_of_which_all_branches_are_one_is_refused() {
        let mut disk = vec![0; 8 * BLOCK_BYTES];
        let mut superblock =
            |at: usize, field: &[u8]| disk[BLOCK_BYTES + at..][..field.len()].copy_from_slice(field);
        superblock(0x4, &[8]);
        superblock(0x28, &[8]);
        superblock(0x38, &[0x53, 0xef]);
        for depth in 1..5 {
            let at = (7 - usize::from(depth)) * BLOCK_BYTES;
            disk[at..at + BLOCK_BYTES].copy_from_slice(&node(depth, index(8 - depth as u8), BLOCK_BYTES));
        }
        // An extent that was never written: nothing is taken from it, but its place in the file counts.
        let unwritten = std::array::from_fn(|at| if at == 4 || at == 5 { 0xff } else { 0 });
        disk[7 * BLOCK_BYTES..].copy_from_slice(&node(0, unwritten, BLOCK_BYTES));
        let mut filesystem = Filesystem::open(Cursor::new(disk), 0).unwrap();
        let mut runs = BlockRuns::default();
        let result = walk_extents(&mut filesystem, &node(5, index(3), 60), DEPTH_MAX, &mut runs);
        assert!(matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
    }
}
