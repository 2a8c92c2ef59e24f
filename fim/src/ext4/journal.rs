//! The journal, replayed in memory: which blocks have a newer copy in the log (`fs/jbd2/recovery.c`).
//!
//! Three passes as the kernel makes them: find the last whole transaction, collect revocations, take the copies. The
//! log is a ring: it wraps at its end. Block checksums are not verified; the sequence number and the commit block
//! decide what is whole. Fast commits are not replayed, so such a log is refused.

use std::collections::HashMap;
use std::io::{Read, Seek};

use super::extent::BlockRuns;
use super::field::{join, u16_be, u32_be};
use super::{Error, Filesystem};

const MAGIC: u32 = 0xc03b_3998;
const SUPERBLOCK_BYTES: usize = 1024;
const HEADER_BYTES: usize = 12;
/// Blocks of a log: 4 GiB at 4 KiB, four times the largest that mke2fs makes.
const LOG_BLOCKS_MAX: u32 = 1 << 20;
/// Copies and revocations of a log: a copy takes a block, and a kernel revokes less than it writes; a log of revocations alone
/// would hold a thousand a block.
const RECORDS_MAX: usize = 2 * LOG_BLOCKS_MAX as usize;

const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOKE: u32 = 5;

const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
/// Revoke records, 64bit, asynchronous commit, both checksum versions.
const INCOMPAT_KNOWN: u32 = 0x1 | INCOMPAT_64BIT | 0x4 | INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3;

const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

/// The copy of a block in the log.
#[derive(Debug, Clone, Copy)]
pub struct Logged {
    /// Block of the disk where the copy stands.
    pub block: u64,
    escaped: bool,
}

impl Logged {
    /// A block that begins with the journal's own magic is logged with zeroes there; puts it back into bytes that were
    /// read from `within` on.
    pub fn unescape(&self, within: u64, out: &mut [u8]) {
        if !self.escaped {
            return;
        }
        for (at, byte) in MAGIC.to_be_bytes().iter().enumerate() {
            let place = (at as u64).checked_sub(within).and_then(|place| out.get_mut(place as usize));
            if let Some(place) = place {
                *place = *byte;
            }
        }
    }
}

/// Newer copies of blocks.
#[derive(Debug, Default)]
pub struct Overlay {
    blocks: HashMap<u64, Logged>,
}

impl Overlay {
    /// The newest copy of a block, if the log has one.
    pub fn get(&self, block: u64) -> Option<Logged> {
        self.blocks.get(&block).copied()
    }

    /// Number of blocks with a newer copy.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }
}

/// The journal's superblock.
#[derive(Debug, Clone, Copy)]
struct Log {
    first: u32,
    end: u32,
    start: u32,
    sequence: u32,
    incompat: u32,
}

impl Log {
    fn parse(bytes: &[u8], block_bytes: u64) -> Result<Log, Error> {
        let corrupt = |what, value: u32| Err(Error::Corrupt { what, value: value.into() });
        if u32_be(bytes, 0) != MAGIC {
            return corrupt("journal magic", u32_be(bytes, 0));
        }
        if u64::from(u32_be(bytes, 0xc)) != block_bytes {
            return corrupt("journal block size", u32_be(bytes, 0xc));
        }
        // Version 1 superblocks (block type 3) have no feature fields.
        let incompat = if u32_be(bytes, 4) == 4 { u32_be(bytes, 0x28) } else { 0 };
        let log = Log {
            first: u32_be(bytes, 0x14),
            end: u32_be(bytes, 0x10),
            start: u32_be(bytes, 0x1c),
            sequence: u32_be(bytes, 0x18),
            incompat,
        };
        if log.first == 0 || log.first >= log.end || log.end > LOG_BLOCKS_MAX {
            return corrupt("length of the journal", log.end);
        }
        if log.start != 0 && !(log.first..log.end).contains(&log.start) {
            return corrupt("start of the journal", log.start);
        }
        Ok(log)
    }

    fn has(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    /// The place after this one; the log is a ring.
    fn after(&self, place: u32) -> u32 {
        if place + 1 >= self.end { self.first } else { place + 1 }
    }
}

/// Something that a transaction of the log does.
#[derive(Debug)]
enum Record {
    Copy { block: u64, logged: Logged, sequence: u32 },
    Revoke { block: u64, sequence: u32 },
}

/// Reads the log and gives the blocks that it has newer copies of; none if the filesystem was unmounted cleanly.
pub fn replay<R: Read + Seek>(filesystem: &mut Filesystem<R>, runs: &BlockRuns) -> Result<Overlay, Error> {
    let block_bytes = filesystem.superblock().block_bytes();
    let mut block = vec![0; block_bytes as usize];
    read_log_block(filesystem, runs, 0, &mut block)?;
    let log = Log::parse(&block[..SUPERBLOCK_BYTES], block_bytes)?;
    if log.start == 0 {
        return Ok(Overlay::default());
    }
    let unknown = log.incompat & !INCOMPAT_KNOWN;
    if unknown != 0 {
        let name = if unknown == INCOMPAT_FAST_COMMIT { " (fast commit)" } else { "" };
        return Err(Error::Unsupported { feature: format!("journal bits {unknown:#x}{name}") });
    }
    Ok(apply(&committed_records(filesystem, runs, &log)?))
}

/// The records of all whole transactions, oldest first.
fn committed_records<R: Read + Seek>(
    filesystem: &mut Filesystem<R>,
    runs: &BlockRuns,
    log: &Log,
) -> Result<Vec<Record>, Error> {
    let mut block = vec![0; filesystem.superblock().block_bytes() as usize];
    let (mut records, mut committed) = (Vec::new(), 0);
    let (mut place, mut sequence) = (log.start, log.sequence);
    let mut steps = 0;
    // One round at most: a log whose every block carries the right number would else be read for ever.
    while steps < log.end {
        read_log_block(filesystem, runs, place, &mut block)?;
        if u32_be(&block, 0) != MAGIC || u32_be(&block, 8) != sequence {
            break;
        }
        place = log.after(place);
        steps += 1;
        match u32_be(&block, 4) {
            DESCRIPTOR => {
                for tag in parse_tags(&block, log) {
                    let copy = runs.find(place.into());
                    let copy =
                        copy.ok_or(Error::Corrupt { what: "hole in the journal", value: place.into() })?;
                    let logged = Logged { block: copy, escaped: tag.escaped };
                    records.push(Record::Copy { block: tag.block, logged, sequence });
                    place = log.after(place);
                    steps += 1;
                }
            }
            REVOKE => {
                let revoked = parse_revocations(&block, log).into_iter();
                records.extend(revoked.map(|block| Record::Revoke { block, sequence }));
            }
            COMMIT => {
                committed = records.len();
                sequence = sequence.wrapping_add(1);
            }
            // Anything else is the rest of an older round: the log ends here.
            _ => break,
        }
        if records.len() > RECORDS_MAX {
            return Err(Error::Limit { what: "number of records of the journal", limit: RECORDS_MAX as u64 });
        }
    }
    records.truncate(committed);
    Ok(records)
}

/// A copy counts unless the same or a later transaction revoked its block; of several, the last one.
fn apply(records: &[Record]) -> Overlay {
    let mut revoked: HashMap<u64, u32> = HashMap::new();
    for record in records {
        if let Record::Revoke { block, sequence } = record {
            revoked.insert(*block, *sequence);
        }
    }
    let mut overlay = Overlay::default();
    for record in records {
        if let Record::Copy { block, logged, sequence } = record {
            // Sequence numbers wrap, so "not before" is a signed difference.
            let dead = revoked.get(block).is_some_and(|at| at.wrapping_sub(*sequence).cast_signed() >= 0);
            if !dead {
                overlay.blocks.insert(*block, *logged);
            }
        }
    }
    overlay
}

struct Tag {
    block: u64,
    escaped: bool,
}

/// The tags of a descriptor block: which blocks the copies behind it belong to.
fn parse_tags(block: &[u8], log: &Log) -> Vec<Tag> {
    let v3 = log.has(INCOMPAT_CSUM_V3);
    let wide = log.has(INCOMPAT_64BIT);
    let tag_bytes = match (v3, wide) {
        (true, _) => 16,
        (false, true) => 12 + if log.has(INCOMPAT_CSUM_V2) { 2 } else { 0 },
        (false, false) => 8 + if log.has(INCOMPAT_CSUM_V2) { 2 } else { 0 },
    };
    let tail = if v3 || log.has(INCOMPAT_CSUM_V2) { 4 } else { 0 };
    let mut tags = Vec::new();
    let mut at = HEADER_BYTES;
    while at + tag_bytes <= block.len() - tail {
        let tag = &block[at..at + tag_bytes];
        let flags = if v3 { u32_be(tag, 4) } else { u16_be(tag, 6).into() };
        let high = if wide { u32_be(tag, 8) } else { 0 };
        tags.push(Tag { block: join(high, u32_be(tag, 0)), escaped: flags & TAG_ESCAPED != 0 });
        at += tag_bytes + if flags & TAG_SAME_UUID == 0 { 16 } else { 0 };
        if flags & TAG_LAST != 0 {
            break;
        }
    }
    tags
}

/// The blocks that a revocation block names.
fn parse_revocations(block: &[u8], log: &Log) -> Vec<u64> {
    let used = (u32_be(block, HEADER_BYTES) as usize).min(block.len());
    let records = block.get(HEADER_BYTES + 4..used).unwrap_or_default();
    if log.has(INCOMPAT_64BIT) {
        return records.chunks_exact(8).map(|record| join(u32_be(record, 0), u32_be(record, 4))).collect();
    }
    records.chunks_exact(4).map(|record| u32_be(record, 0).into()).collect()
}

fn read_log_block<R: Read + Seek>(
    filesystem: &mut Filesystem<R>,
    runs: &BlockRuns,
    place: u32,
    out: &mut [u8],
) -> Result<(), Error> {
    let block = runs.find(place.into());
    let block = block.ok_or(Error::Corrupt { what: "hole in the journal", value: place.into() })?;
    filesystem.read_block(block, out)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const BLOCK_BYTES: usize = 65536;
    const LOG_START: usize = 2;
    const JOURNAL_INODE: u8 = 8;

    fn put(disk: &mut [u8], at: usize, field: &[u8]) {
        disk[at..at + field.len()].copy_from_slice(field);
    }

    /// A disk with nothing but a journal whose blocks all revoke as much as there is room for.
    fn disk_of_revocations(log_blocks: usize) -> Vec<u8> {
        let mut disk = vec![0; (LOG_START + log_blocks) * BLOCK_BYTES];
        let superblock = 1024;
        put(&mut disk, superblock, &[16]);
        put(&mut disk, superblock + 0x4, &((LOG_START + log_blocks) as u32).to_le_bytes());
        put(&mut disk, superblock + 0x18, &[6]);
        put(&mut disk, superblock + 0x28, &[16]);
        put(&mut disk, superblock + 0x38, &[0x53, 0xef]);
        put(&mut disk, superblock + 0x5c, &[4]);
        put(&mut disk, superblock + 0xe0, &[JOURNAL_INODE]);
        // The group descriptor's block holds the inode table too, from its start on.
        put(&mut disk, BLOCK_BYTES + 0x8, &[1]);
        let inode = BLOCK_BYTES + usize::from(JOURNAL_INODE - 1) * 128;
        put(&mut disk, inode + 1, &[0x80]);
        put(&mut disk, inode + 0x22, &[8]);
        put(&mut disk, inode + 0x28, &[0x0a, 0xf3, 1]);
        put(&mut disk, inode + 0x28 + 16, &(log_blocks as u16).to_le_bytes());
        put(&mut disk, inode + 0x28 + 20, &[LOG_START as u8]);
        let head = [MAGIC, 4, 0, BLOCK_BYTES as u32, log_blocks as u32, 1, 1, 1];
        put(&mut disk, LOG_START * BLOCK_BYTES, head.map(u32::to_be_bytes).as_flattened());
        for block in LOG_START + 1..LOG_START + log_blocks {
            let revoke = [MAGIC, REVOKE, 1, BLOCK_BYTES as u32];
            put(&mut disk, block * BLOCK_BYTES, revoke.map(u32::to_be_bytes).as_flattened());
        }
        disk
    }

    #[test]
    fn a_log_of_revocations_alone_is_refused() {
        let result = Filesystem::open(Cursor::new(disk_of_revocations(200)), 0);
        assert!(matches!(result, Err(Error::Limit { .. })), "{:?}", result.map(|f| f.journal_blocks()));
    }

    #[test]
    fn a_log_with_some_revocations_is_read() {
        let filesystem = Filesystem::open(Cursor::new(disk_of_revocations(20)), 0).unwrap();
        assert_eq!(filesystem.journal_blocks(), 0);
    }
}
