//! Frames of a migration: sixteen bytes of head, and what it announces. Little endian. Pure.
//!
//! ```text
//! 0  kind      u8
//! 1  disk      u8     of clusters: which of the domain's written disks
//! 2  reserved  u16    0
//! 4  bytes     u32    of what follows the head
//! 8  at        u64    of pages and clusters: the first one's number; of shim: the byte
//! ```

use honeyvmm::disk::CLUSTER_BYTES;

/// Bytes of a head.
pub const HEAD_BYTES: usize = 16;
/// Pages, clusters or shim bytes of one frame.
pub const BULK_BYTES_MAX: u32 = 1 << 20;
/// An offer, an answer or the rest: mostly xenstore and registers of eight vcpus, and tens of thousands of flows.
pub const JSON_BYTES_MAX: u32 = 32 << 20;
const PAGE_BYTES: u32 = 4096;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A domain is offered (JSON).
    Offer,
    /// What the other side says to the last word (JSON).
    Answer,
    /// Whole pages of RAM.
    Pages,
    /// Whole clusters of a disk's layer.
    Clusters,
    /// Bytes of the shim's memory.
    Shim,
    /// What else there is (JSON).
    Rest,
    /// The domain is to run.
    Go,
    /// What became of an earlier migration is asked (JSON).
    Ask,
}

const KINDS: [(u8, Kind); 8] = [
    (1, Kind::Offer),
    (2, Kind::Answer),
    (3, Kind::Pages),
    (4, Kind::Clusters),
    (5, Kind::Shim),
    (6, Kind::Rest),
    (7, Kind::Go),
    (8, Kind::Ask),
];

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// Which disk.
    pub disk: u8,
    /// Bytes that follow.
    pub bytes: u32,
    /// Where they belong.
    pub at: u64,
}

/// Why a frame is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A kind that there is not.
    #[error("a frame of kind {0} is none of a migration")]
    Kind(u8),
    /// Something where nothing may be.
    #[error("a frame's reserved field is {0}")]
    Reserved(u16),
    /// A length that cannot be.
    #[error("a frame {kind:?} of {bytes} bytes is too long, or no whole number of pages")]
    Length {
        /// Its kind.
        kind: Kind,
        /// Its length.
        bytes: u32,
    },
    /// Past the end of everything.
    #[error("a frame {kind:?} begins at {at}, where nothing is")]
    Place {
        /// Its kind.
        kind: Kind,
        /// Where.
        at: u64,
    },
}

impl Head {
    /// A head without a place.
    pub fn plain(kind: Kind, bytes: u32) -> Head {
        Head { kind, disk: 0, bytes, at: 0 }
    }

    /// As it is sent.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[0] = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or(0, |(number, _)| *number);
        out[1] = self.disk;
        out[4..8].copy_from_slice(&self.bytes.to_le_bytes());
        out[8..].copy_from_slice(&self.at.to_le_bytes());
        out
    }

    /// As it came.
    ///
    /// # Errors
    /// [`WireError`]: the connection is of no use any more.
    pub fn decode(head: &[u8; HEAD_BYTES]) -> Result<Head, WireError> {
        let [number, disk, r0, r1, b0, b1, b2, b3, at @ ..] = *head;
        let kind = KINDS.iter().find(|(known, _)| *known == number).map(|(_, kind)| *kind);
        let kind = kind.ok_or(WireError::Kind(number))?;
        let reserved = u16::from_le_bytes([r0, r1]);
        if reserved != 0 {
            return Err(WireError::Reserved(reserved));
        }
        let head =
            Head { kind, disk, bytes: u32::from_le_bytes([b0, b1, b2, b3]), at: u64::from_le_bytes(at) };
        head.check()?;
        Ok(head)
    }

    fn check(&self) -> Result<(), WireError> {
        let (kind, bytes, at) = (self.kind, self.bytes, self.at);
        let fits = match kind {
            Kind::Offer | Kind::Answer | Kind::Rest | Kind::Ask => bytes <= JSON_BYTES_MAX,
            Kind::Pages => bytes <= BULK_BYTES_MAX && bytes % PAGE_BYTES == 0 && bytes > 0,
            Kind::Clusters => bytes <= BULK_BYTES_MAX && u64::from(bytes) % CLUSTER_BYTES == 0 && bytes > 0,
            Kind::Shim => bytes <= BULK_BYTES_MAX,
            Kind::Go => bytes == 0,
        };
        if !fits {
            return Err(WireError::Length { kind, bytes });
        }
        // So that no sum with it goes over; what is there at all is looked at by who has it.
        if at > u64::MAX >> 16 {
            return Err(WireError::Place { kind, at });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_as_it_was_sent() {
        for (_, kind) in KINDS {
            let bytes = if kind == Kind::Go { 0 } else { 4096 };
            let head = Head { kind, disk: 3, bytes, at: 77 };
            assert_eq!(Head::decode(&head.encode()), Ok(head));
        }
    }

    #[test]
    fn heads_that_are_none_are_refused() {
        let head = |kind, bytes, at| Head { kind, disk: 0, bytes, at }.encode();
        let mut unknown = head(Kind::Go, 0, 0);
        unknown[0] = 9;
        let mut reserved = head(Kind::Go, 0, 0);
        reserved[3] = 1;
        let length = |kind, bytes| Err(WireError::Length { kind, bytes });
        for (bytes, wanted) in [
            (unknown, Err(WireError::Kind(9))),
            ([0; HEAD_BYTES], Err(WireError::Kind(0))),
            (reserved, Err(WireError::Reserved(256))),
            (head(Kind::Pages, 4095, 0), length(Kind::Pages, 4095)),
            (head(Kind::Pages, 0, 0), length(Kind::Pages, 0)),
            (head(Kind::Clusters, BULK_BYTES_MAX + 4096, 0), length(Kind::Clusters, BULK_BYTES_MAX + 4096)),
            (head(Kind::Shim, u32::MAX, 0), length(Kind::Shim, u32::MAX)),
            (head(Kind::Rest, JSON_BYTES_MAX + 1, 0), length(Kind::Rest, JSON_BYTES_MAX + 1)),
            (head(Kind::Go, 1, 0), length(Kind::Go, 1)),
            (head(Kind::Pages, 4096, u64::MAX), Err(WireError::Place { kind: Kind::Pages, at: u64::MAX })),
        ] {
            assert_eq!(Head::decode(&bytes), wanted);
        }
    }
}
