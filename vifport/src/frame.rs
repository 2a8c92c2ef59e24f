//! What is known of a frame beside its bytes: the offload fields of a virtio-net header and their rules.

use thiserror::Error;

use crate::layout::DESCRIPTOR_BYTES;

/// The transport checksum holds only the pseudo header's sum; the rest is summed from `csum_start` on.
pub const FLAG_NEEDS_CSUM: u16 = 1;
/// The transport checksum is known to be right and need not be looked at.
pub const FLAG_DATA_VALID: u16 = 2;

const FLAGS_KNOWN: u16 = FLAG_NEEDS_CSUM | FLAG_DATA_VALID;
const CSUM_BYTES: u32 = 2;

/// How a frame larger than the MTU is to be cut. The numbers are virtio-net's `VIRTIO_NET_HDR_GSO_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u16)]
pub enum GsoType {
    /// The frame goes out as it is.
    #[default]
    None = 0,
    /// TCP over IPv4, cut into segments of `gso_size` bytes of payload.
    TcpV4 = 1,
    /// TCP over IPv6, likewise.
    TcpV6 = 4,
}

/// The offload fields of one frame. All offsets and sizes in bytes, offsets from the frame's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameMeta {
    /// `FLAG_NEEDS_CSUM`, `FLAG_DATA_VALID`.
    pub flags: u16,
    /// How to cut the frame.
    pub gso_type: GsoType,
    /// Payload of each segment; 0 where `gso_type` is `None`.
    pub gso_size: u16,
    /// Length of all headers; a hint, 0 where it is not known.
    pub hdr_len: u16,
    /// Where summing starts (with `FLAG_NEEDS_CSUM`).
    pub csum_start: u16,
    /// Where the sum goes, counted from `csum_start`.
    pub csum_offset: u16,
}

/// Offload fields that contradict each other or the frame's length.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum MetaError {
    /// Flags that this version does not define.
    #[error("unknown frame flags {0:#x}")]
    Flags(u16),
    /// A segmentation type that this version does not define.
    #[error("unknown gso type {0}")]
    GsoType(u16),
    /// Segmentation wanted into pieces of no bytes.
    #[error("gso type {0:?} with a segment size of 0")]
    GsoSize(GsoType),
    /// The checksum field does not lie in the frame.
    #[error("checksum field at {start} + {offset} is outside a frame of {len} bytes")]
    Csum {
        /// Where summing starts.
        start: u16,
        /// Where the sum goes, from there.
        offset: u16,
        /// Bytes of the frame.
        len: u32,
    },
    /// Headers longer than the frame.
    #[error("headers of {hdr_len} bytes in a frame of {len} bytes")]
    HdrLen {
        /// The header length that was claimed.
        hdr_len: u16,
        /// Bytes of the frame.
        len: u32,
    },
}

impl FrameMeta {
    /// True where the transport checksum is still to be filled in.
    pub fn needs_csum(&self) -> bool {
        self.flags & FLAG_NEEDS_CSUM != 0
    }

    /// Checks the fields against each other and against a frame of `len` bytes.
    pub fn check(&self, len: u32) -> Result<(), MetaError> {
        if self.flags & !FLAGS_KNOWN != 0 {
            return Err(MetaError::Flags(self.flags));
        }
        if self.gso_type != GsoType::None && self.gso_size == 0 {
            return Err(MetaError::GsoSize(self.gso_type));
        }
        if u32::from(self.hdr_len) > len {
            return Err(MetaError::HdrLen { hdr_len: self.hdr_len, len });
        }
        let csum_end = u32::from(self.csum_start) + u32::from(self.csum_offset) + CSUM_BYTES;
        if self.needs_csum() && csum_end > len {
            return Err(MetaError::Csum { start: self.csum_start, offset: self.csum_offset, len });
        }
        Ok(())
    }
}

/// One entry of a descriptor ring: where a frame lies in the data area, and its offload fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub offset: u32,
    pub len: u32,
    pub meta: FrameMeta,
}

impl Descriptor {
    /// The 32 bytes in shared memory: offset, len (u32), six u16, then zeros; little endian.
    pub fn encode(&self) -> [u8; DESCRIPTOR_BYTES] {
        let mut bytes = [0; DESCRIPTOR_BYTES];
        bytes[0..4].copy_from_slice(&self.offset.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.len.to_le_bytes());
        let m = &self.meta;
        let fields = [m.flags, m.gso_type as u16, m.gso_size, m.hdr_len, m.csum_start, m.csum_offset];
        for (field, place) in fields.iter().zip(bytes[8..].chunks_exact_mut(2)) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Reads the fields; only the gso type can be wrong at this point, see `FrameMeta::check` for the rest.
    pub fn decode(bytes: &[u8; DESCRIPTOR_BYTES]) -> Result<Self, MetaError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let gso_type = match half(10) {
            0 => GsoType::None,
            1 => GsoType::TcpV4,
            4 => GsoType::TcpV6,
            other => return Err(MetaError::GsoType(other)),
        };
        let meta = FrameMeta {
            flags: half(8),
            gso_type,
            gso_size: half(12),
            hdr_len: half(14),
            csum_start: half(16),
            csum_offset: half(18),
        };
        Ok(Self { offset: word(0), len: word(4), meta })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_survives_the_way_through_memory() {
        let meta = FrameMeta {
            flags: FLAG_NEEDS_CSUM,
            gso_type: GsoType::TcpV6,
            gso_size: 1440,
            hdr_len: 74,
            csum_start: 54,
            csum_offset: 16,
        };
        let descriptor = Descriptor { offset: 0x1234_5678, len: 60_000, meta };
        assert_eq!(Descriptor::decode(&descriptor.encode()), Ok(descriptor));
    }

    #[test]
    fn contradictory_fields_are_refused() {
        let csum =
            FrameMeta { flags: FLAG_NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..Default::default() };
        let table = [
            (FrameMeta { flags: 4, ..Default::default() }, 60, Err(MetaError::Flags(4))),
            (
                FrameMeta { gso_type: GsoType::TcpV4, ..Default::default() },
                60,
                Err(MetaError::GsoSize(GsoType::TcpV4)),
            ),
            (
                FrameMeta { hdr_len: 61, ..Default::default() },
                60,
                Err(MetaError::HdrLen { hdr_len: 61, len: 60 }),
            ),
            (csum, 51, Err(MetaError::Csum { start: 34, offset: 16, len: 51 })),
            (csum, 52, Ok(())),
        ];
        for (meta, len, expected) in table {
            assert_eq!(meta.check(len), expected, "{meta:?}");
        }
    }
}
