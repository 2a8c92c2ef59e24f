//! The block backend: Xen's io/blkif.h between a guest's blkfront and a [`Disk`].
//!
//! Requests are carried out by whoever calls [`Blkback::service`], to the end: reads and writes meet the page cache, which
//! takes less time than handing them to another thread would. So a vcpu's thread does them itself, but stops after
//! [`BYTES_PER_CALL_MAX`] bytes or before a flush, and a worker does the rest ([`BlkDevice`] holds the two together).
//!
//! Multi-page rings, several queues, persistent grants and the 32-bit layout are not offered.

mod device;
mod request;
mod vdev;

use crate::disk::{CLUSTER_BYTES, Disk, DiskError, Mode};
use crate::grant::{GrantAccess, GrantError, GrantTable, GrantedPage};
use crate::memory::{Access, Gpa, GrantRef, GuestMemory, MemoryError, PAGE_SIZE};
use crate::ring::{Notify, RingError, ServerRing};
use crate::xenbus::{MappedRing, Nodes};

pub use device::BlkDevice;
pub use request::{
    INDIRECT_SEGMENTS_MAX, Operation, REQUEST_BYTES, Request, RequestError, SECTOR_BYTES, Segment,
};
pub use vdev::{Vdev, VdevError};

use request::{Direction, SEGMENT_BYTES, Segments, Status};

/// After so many bytes a call to `service` returns: 0.2 ms from the page cache.
pub const BYTES_PER_CALL_MAX: u64 = 1 << 20;
/// After so many requests a call returns: two rings full.
pub const REQUESTS_PER_CALL_MAX: u32 = 64;

/// `info` node: the guest may not write.
const VDISK_READONLY: u64 = 4;

/// What a guest did that no honest frontend does.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// The ring's indices are a lie: the ring was closed.
    #[error("block ring closed")]
    Ring(#[from] RingError),
    /// A request that makes no sense; it got an error response.
    #[error("block request refused")]
    Request(#[from] RequestError),
    /// A page that was not granted; the request got an error response.
    #[error("block request names a bad grant")]
    Grant(#[from] GrantError),
    /// Sectors past the disk's end, or a write to a read-only disk; the request got an error response.
    #[error("block request misses the disk")]
    Disk(#[source] DiskError),
}

/// How long a caller of `service` has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A vcpu's thread: whatever waits for a device (a flush, a discard) is left for later.
    Short,
    /// A worker.
    Long,
}

/// What a call of `service` has done, and what the caller must do.
#[derive(Debug, Default)]
pub struct Serviced {
    /// Send the frontend its event.
    pub notify: bool,
    /// Requests wait that this call left; the frontend will not send another event for them: call again.
    pub more: bool,
    /// The first violation of this call.
    pub violation: Option<Violation>,
    /// The first failure that is the host's (disk full, I/O error). The guest got an error response.
    pub host_error: Option<DiskError>,
}

/// What went through a disk so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Read requests done.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Write requests done.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes done.
    pub flushes: u64,
}

/// One virtual disk of a domain.
#[derive(Debug)]
pub struct Blkback {
    disk: Disk,
    connection: Option<Connection>,
    counters: Counters,
}

#[derive(Debug)]
struct Connection {
    ring: MappedRing,
    memory: GuestMemory,
    grants: GrantTable,
}

/// The memory of a request, in use until the data has moved.
struct Held {
    ranges: Vec<(Gpa, u64)>,
    _pages: Vec<GrantedPage>,
}

/// Why a request failed: sorts the guest's doing from the host's.
#[derive(Debug)]
enum Failure {
    Guest(Violation),
    Host(DiskError),
}

impl Blkback {
    /// A backend without a frontend yet.
    #[must_use]
    pub fn new(disk: Disk) -> Self {
        Self { disk, connection: None, counters: Counters::default() }
    }

    /// What went through so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the backend offers, for its folder in xenstore.
    #[must_use]
    pub fn features(&self) -> Nodes {
        let mut features = vec![
            ("feature-flush-cache", 1),
            ("feature-barrier", 1),
            ("feature-max-indirect-segments", u64::from(INDIRECT_SEGMENTS_MAX)),
            ("feature-persistent", 0),
            ("max-ring-page-order", 0),
        ];
        if self.disk.mode() == Mode::ReadWrite {
            features.push(("feature-discard", 1));
            features.push(("discard-granularity", CLUSTER_BYTES));
            features.push(("discard-alignment", 0));
            features.push(("discard-secure", 0));
        }
        nodes(&features)
    }

    /// What the device is, to be published before the backend becomes Connected.
    #[must_use]
    pub fn properties(&self) -> Nodes {
        let info = if self.disk.mode() == Mode::ReadOnly { VDISK_READONLY } else { 0 };
        nodes(&[
            ("sectors", self.disk.bytes() / SECTOR_BYTES),
            ("sector-size", SECTOR_BYTES),
            ("physical-sector-size", SECTOR_BYTES),
            ("info", info),
        ])
    }

    /// Takes up the ring that a frontend has granted, in place of any before.
    pub fn connect(&mut self, ring: MappedRing, memory: GuestMemory, grants: GrantTable) {
        self.connection = Some(Connection { ring, memory, grants });
    }

    /// Lets go of the ring.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Carries out what the frontend has asked for; to be called at each of its events, from any thread.
    pub fn service(&mut self, patience: Patience) -> Serviced {
        let mut serviced = Serviced::default();
        let Some(mut connection) = self.connection.take() else { return serviced };
        match self.serve(&mut connection, patience, &mut serviced) {
            Ok(()) => self.connection = Some(connection),
            Err(error) => serviced.violation = Some(error.into()),
        }
        serviced
    }

    fn serve(
        &mut self,
        connection: &mut Connection,
        patience: Patience,
        serviced: &mut Serviced,
    ) -> Result<(), RingError> {
        let mut bytes_left = BYTES_PER_CALL_MAX;
        for _ in 0..REQUESTS_PER_CALL_MAX {
            if patience == Patience::Short && next_is_slow(&connection.ring.ring)? {
                break;
            }
            let Some(entry) = connection.ring.ring.take_request::<REQUEST_BYTES>()? else {
                break;
            };
            let request = Request::parse(&entry);
            let (status, cost) = match self.carry_out(connection, &request) {
                Ok(cost) => (Status::Okay, cost),
                Err(failure) => (serviced.note(failure), 0),
            };
            connection.ring.ring.push_response(&request.response(status))?;
            bytes_left = bytes_left.saturating_sub(cost);
            if bytes_left == 0 {
                break;
            }
        }
        serviced.notify = connection.ring.ring.publish()? == Notify::Needed;
        serviced.more = connection.ring.ring.final_check()?;
        Ok(())
    }

    /// Does one request; the answer is its cost in bytes.
    fn carry_out(&mut self, connection: &Connection, request: &Request) -> Result<u64, Failure> {
        match &request.operation {
            Ok(Operation::Transfer { direction, sector, segments }) => {
                let bytes = self.transfer(connection, *direction, *sector, segments)?;
                // A flush waits for the device: nothing else is done in the same call.
                Ok(if *direction == Direction::FlushedWrite { BYTES_PER_CALL_MAX } else { bytes })
            }
            Ok(Operation::Discard { sector, sectors }) => {
                let (offset, bytes) = (bytes_of(*sector), bytes_of(*sectors));
                self.disk.discard(offset, bytes)?;
                Ok(0)
            }
            Err(error) => Err(Failure::Guest((*error).into())),
        }
    }

    fn transfer(
        &mut self,
        connection: &Connection,
        direction: Direction,
        sector: u64,
        segments: &Segments,
    ) -> Result<u64, Failure> {
        let described;
        let segments = match segments {
            Segments::Direct(segments) => segments,
            Segments::Indirect { count, page } => {
                described = connection.described(*count, *page)?;
                &described
            }
        };
        let access = if direction == Direction::Read { GrantAccess::Write } else { GrantAccess::Read };
        let held = connection.ranges(segments, access)?;
        let ranges = &held.ranges;
        let bytes = ranges.iter().map(|(_, bytes)| bytes).sum();
        let offset = bytes_of(sector);
        match direction {
            Direction::Read => self.disk.read_into_guest(offset, connection.memory.ram(), ranges)?,
            Direction::Write => self.disk.write_from_guest(offset, connection.memory.ram(), ranges)?,
            Direction::FlushedWrite => {
                self.disk.flush()?;
                if bytes > 0 {
                    self.disk.write_from_guest(offset, connection.memory.ram(), ranges)?;
                    self.disk.flush()?;
                }
            }
        }
        self.count(direction, bytes);
        Ok(bytes)
    }

    fn count(&mut self, direction: Direction, bytes: u64) {
        let counters = &mut self.counters;
        if direction == Direction::Read {
            counters.reads += 1;
            counters.read_bytes += bytes;
        } else if bytes > 0 {
            counters.writes += 1;
            counters.written_bytes += bytes;
        }
        if direction == Direction::FlushedWrite {
            counters.flushes += 1;
        }
    }
}

impl Connection {
    /// Copies the descriptions of an indirect request's segments out of their page, then reads them.
    fn described(&self, count: u16, page: GrantRef) -> Result<Vec<Segment>, Violation> {
        let page = self.grants.resolve(page, GrantAccess::Read)?;
        let mut bytes = [0; PAGE_SIZE as usize];
        let bytes = &mut bytes[..usize::from(count) * SEGMENT_BYTES];
        // A granted page is always RAM.
        self.memory.read(page.gpa(), bytes).map_err(|error| Violation::Ring(error.into()))?;
        Ok(bytes.as_chunks().0.iter().map(Segment::parse).collect::<Result<_, _>>()?)
    }

    /// The memory behind segments, neighbours joined.
    fn ranges(&self, segments: &[Segment], access: GrantAccess) -> Result<Held, Violation> {
        let mut ranges: Vec<(Gpa, u64)> = Vec::with_capacity(segments.len());
        let mut pages = Vec::with_capacity(segments.len());
        for segment in segments {
            let page = self.grants.resolve(segment.page, access)?;
            let start = page.gpa().offset(segment.offset);
            match ranges.last_mut() {
                Some((gpa, bytes)) if gpa.offset(*bytes) == start => *bytes += segment.bytes,
                Some(_) | None => ranges.push((start, segment.bytes)),
            }
            pages.push(page);
        }
        Ok(Held { ranges, _pages: pages })
    }
}

impl Serviced {
    /// Keeps the first failure of each kind, and says what the guest is told.
    fn note(&mut self, failure: Failure) -> Status {
        match failure {
            Failure::Guest(violation) => {
                let status = match &violation {
                    Violation::Request(RequestError::Operation(_)) => Status::NotSupported,
                    Violation::Request(_) | Violation::Ring(_) | Violation::Grant(_) | Violation::Disk(_) => {
                        Status::Error
                    }
                };
                self.violation.get_or_insert(violation);
                status
            }
            Failure::Host(error) => {
                self.host_error.get_or_insert(error);
                Status::Error
            }
        }
    }
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Guest(violation)
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Outside { .. }
            | DiskError::ReadOnly
            | DiskError::Memory(MemoryError::Outside { .. }) => Self::Guest(Violation::Disk(error)),
            DiskError::InUse(_)
            | DiskError::Header(_)
            | DiskError::TooLarge(_)
            | DiskError::TooDeep(_)
            | DiskError::Memory(_)
            | DiskError::Io(_) => Self::Host(error),
        }
    }
}

/// Whether the next request is one that waits for a device. The guest may change its mind after this look, at its own cost.
fn next_is_slow(ring: &ServerRing) -> Result<bool, RingError> {
    Ok(ring.peek_request::<1>(0)?.is_some_and(|[op]| request::is_slow(op)))
}

fn nodes(values: &[(&str, u64)]) -> Nodes {
    values.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect()
}

/// Bytes of sectors; what does not fit in 64 bits is past the end of any disk all the same.
fn bytes_of(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR_BYTES)
}

#[cfg(test)]
mod tests;
