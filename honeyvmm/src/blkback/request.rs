//! Requests and responses of the block ring, 64-bit layout (Xen's io/blkif.h). Pure: bytes in, values out.

use thiserror::Error;

use crate::memory::{GrantRef, PAGE_SIZE};

/// Bytes of one request.
pub const REQUEST_BYTES: usize = 112;
/// Bytes of one entry of an indirect page, and of a direct segment.
pub const SEGMENT_BYTES: usize = 8;
/// Bytes of a sector, always: a disk with larger ones would say so in `sector-size`.
pub const SECTOR_BYTES: u64 = 512;
/// Segments that we take in an indirect request: `feature-max-indirect-segments`. 1 MiB, as QEMU and Linux offer at least 128 KiB.
pub const INDIRECT_SEGMENTS_MAX: u16 = 256;

const DIRECT_SEGMENTS_MAX: u8 = 11;
const INDIRECT_PAGES: usize = 8;
const SECTORS_PER_PAGE: u8 = (PAGE_SIZE / SECTOR_BYTES) as u8;

const OP_READ: u8 = 0;
const OP_WRITE: u8 = 1;
const OP_WRITE_BARRIER: u8 = 2;
const OP_FLUSH_DISKCACHE: u8 = 3;
const OP_DISCARD: u8 = 5;
const OP_INDIRECT: u8 = 6;

/// Where the data goes, and what has to reach stable storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the disk to the guest.
    Read,
    /// From the guest to the disk.
    Write,
    /// Likewise, but all earlier writes are flushed before, and this one after. Often without any data.
    FlushedWrite,
}

/// A piece of a granted page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub page: GrantRef,
    /// The first byte in the page.
    pub offset: u64,
    /// Bytes, whole sectors.
    pub bytes: u64,
}

/// Where the segments of a transfer are described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segments {
    /// In the request.
    Direct(Vec<Segment>),
    /// In a granted page of `count` descriptions, at most `INDIRECT_SEGMENTS_MAX`: they fit in one page of eight.
    Indirect {
        /// Number of segments.
        count: u16,
        /// The page with their descriptions.
        page: GrantRef,
    },
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Move data.
    Transfer {
        /// Which way.
        direction: Direction,
        /// First sector of the disk.
        sector: u64,
        /// Pieces of guest memory.
        segments: Segments,
    },
    /// Forget sectors.
    Discard {
        /// First sector.
        sector: u64,
        /// Number of sectors.
        sectors: u64,
    },
}

/// What no honest frontend asks for.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// An operation that was not offered.
    #[error("unknown block operation {0}")]
    Operation(u8),
    /// More segments than fit or were offered, or none where there must be one.
    #[error("block request with {0} segments")]
    SegmentCount(u16),
    /// Sectors outside a page, or the last before the first.
    #[error("block segment from sector {first} to {last} of its page")]
    Segment {
        /// First sector in the page.
        first: u8,
        /// Last sector in the page.
        last: u8,
    },
}

/// A request as far as it can be answered: even a bad one has an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The frontend's own value, echoed.
    pub id: u64,
    /// The operation to echo; of an indirect request the inner one.
    pub op: u8,
    /// What is asked for, or what is wrong with it.
    pub operation: Result<Operation, RequestError>,
}

/// How a request ended: `BLKIF_RSP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub enum Status {
    /// Done.
    Okay = 0,
    /// Not done.
    Error = -1,
    /// Not offered.
    NotSupported = -2,
}

impl Request {
    /// Reads one entry of the ring.
    pub fn parse(entry: &[u8; REQUEST_BYTES]) -> Self {
        let id = u64_at(entry, 8);
        let sector = u64_at(entry, 16);
        match entry[0] {
            op @ (OP_READ | OP_WRITE | OP_WRITE_BARRIER | OP_FLUSH_DISKCACHE) => {
                Self { id, op, operation: direct(entry, op, sector) }
            }
            OP_INDIRECT => Self { id, op: entry[1], operation: indirect(entry, sector) },
            op @ OP_DISCARD => {
                Self { id, op, operation: Ok(Operation::Discard { sector, sectors: u64_at(entry, 24) }) }
            }
            // 4 is reserved for packet commands, the others have no meaning yet.
            op => Self { id, op, operation: Err(RequestError::Operation(op)) },
        }
    }

    /// The response's bytes: id, operation, a byte of padding, status, four bytes of padding.
    pub fn response(&self, status: Status) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8] = self.op;
        bytes[10..12].copy_from_slice(&(status as i16).to_le_bytes());
        bytes
    }
}

impl Segment {
    /// Reads one description: grant reference, first and last sector in the page.
    ///
    /// # Errors
    /// [`RequestError::Segment`].
    pub fn parse(bytes: &[u8; SEGMENT_BYTES]) -> Result<Self, RequestError> {
        let (first, last) = (bytes[4], bytes[5]);
        if first > last || last >= SECTORS_PER_PAGE {
            return Err(RequestError::Segment { first, last });
        }
        Ok(Self {
            page: GrantRef(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            offset: u64::from(first) * SECTOR_BYTES,
            bytes: u64::from(last - first + 1) * SECTOR_BYTES,
        })
    }
}

/// Whether an operation waits for a device rather than for the page cache.
pub fn is_slow(op: u8) -> bool {
    matches!(op, OP_WRITE_BARRIER | OP_FLUSH_DISKCACHE | OP_DISCARD)
}

fn direction(op: u8) -> Result<Direction, RequestError> {
    match op {
        OP_READ => Ok(Direction::Read),
        OP_WRITE => Ok(Direction::Write),
        OP_WRITE_BARRIER | OP_FLUSH_DISKCACHE => Ok(Direction::FlushedWrite),
        // An indirect request of an indirect request, a discard or anything unknown.
        other => Err(RequestError::Operation(other)),
    }
}

fn direct(entry: &[u8; REQUEST_BYTES], op: u8, sector: u64) -> Result<Operation, RequestError> {
    let direction = direction(op)?;
    let count = entry[1];
    let empty_allowed = direction == Direction::FlushedWrite;
    if count > DIRECT_SEGMENTS_MAX || (count == 0 && !empty_allowed) {
        return Err(RequestError::SegmentCount(count.into()));
    }
    let described = entry[24..].as_chunks().0.iter().take(count.into());
    let segments = described.map(Segment::parse).collect::<Result<_, _>>()?;
    Ok(Operation::Transfer { direction, sector, segments: Segments::Direct(segments) })
}

fn indirect(entry: &[u8; REQUEST_BYTES], sector: u64) -> Result<Operation, RequestError> {
    const { assert!(INDIRECT_SEGMENTS_MAX as usize * SEGMENT_BYTES <= PAGE_SIZE as usize) };
    const { assert!(28 + INDIRECT_PAGES * 4 <= REQUEST_BYTES) };
    let direction = direction(entry[1])?;
    let count = u16::from_le_bytes([entry[2], entry[3]]);
    if count == 0 || count > INDIRECT_SEGMENTS_MAX {
        return Err(RequestError::SegmentCount(count));
    }
    let page = GrantRef(u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]));
    Ok(Operation::Transfer { direction, sector, segments: Segments::Indirect { count, page } })
}

fn u64_at(entry: &[u8; REQUEST_BYTES], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&entry[at..at + 8]);
    u64::from_le_bytes(bytes)
}
