//! Where things lie in the port's memory. Fixed for a version: a port of other sizes is another version.

/// Descriptors of one ring; a power of two, so that free-running indices wrap cleanly.
pub const DESCRIPTORS: u32 = 1024;
/// Data area of one ring. 1 MiB takes sixteen GSO frames and stays in a core's second-level cache.
pub const DATA_BYTES: u32 = 1 << 20;
/// The longest frame: an IP packet of 65,535 bytes behind an Ethernet header, rounded up.
pub const FRAME_BYTES_MAX: u32 = 65_550;
/// Bytes of the whole port.
pub const PORT_BYTES: usize = PAGE + 2 * RING_BYTES;

pub(crate) const MAGIC: u32 = u32::from_le_bytes(*b"vifp");
pub(crate) const VERSION: u32 = 1;
pub(crate) const DESCRIPTOR_BYTES: usize = 32;

const PAGE: usize = 4096;
const RING_BYTES: usize = PAGE + DESCRIPTORS as usize * DESCRIPTOR_BYTES + DATA_BYTES as usize;

/// The header's words, in order from offset 0: magic, version, descriptors, data bytes.
pub(crate) const HEADER: [u32; 4] = [MAGIC, VERSION, DESCRIPTORS, DATA_BYTES];

/// Where one ring's parts lie, as offsets into the port. The four words have a cache line each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingLayout {
    base: usize,
}

impl RingLayout {
    pub const TO_SWITCH: Self = Self { base: PAGE };
    pub const FROM_SWITCH: Self = Self { base: PAGE + RING_BYTES };

    /// Index of the next descriptor that the producer fills.
    pub const fn produced(self) -> usize {
        self.base
    }

    /// Index of the next descriptor that the consumer takes.
    pub const fn consumed(self) -> usize {
        self.base + 64
    }

    /// Not 0 while the consumer sleeps and wants to be woken by a frame.
    pub const fn frame_wanted(self) -> usize {
        self.base + 128
    }

    /// Not 0 while the producer sleeps and wants to be woken by room.
    pub const fn room_wanted(self) -> usize {
        self.base + 192
    }

    /// The descriptor that a free-running index stands for.
    pub const fn descriptor(self, index: u32) -> usize {
        self.base + PAGE + (index % DESCRIPTORS) as usize * DESCRIPTOR_BYTES
    }

    /// The byte of the data area at `offset`, which is below `DATA_BYTES`.
    pub const fn data(self, offset: u32) -> usize {
        self.base + PAGE + DESCRIPTORS as usize * DESCRIPTOR_BYTES + offset as usize
    }
}
