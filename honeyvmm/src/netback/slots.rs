//! Entries of the two network rings (Xen's io/netif.h). Pure: bytes in, values out.
//!
//! A packet to be sent is a chain: a first request with the length of the whole, perhaps extra information, then a request
//! for each further piece.

use thiserror::Error;
use vifport::GsoType;

use crate::memory::{GrantRef, PAGE_SIZE};

/// Bytes of a transmit request.
pub const TX_REQUEST_BYTES: usize = 12;
/// Bytes of a receive request, and of a receive response.
pub const RX_BYTES: usize = 8;
/// Pieces of one packet (XEN_NETIF_NR_SLOTS_MIN): what every backend takes, and every frontend.
pub const PIECES_MAX: usize = 18;

/// A frontend with longer chains is hostile; between the two lie old ones that miscounted (Linux' fatal_skb_slots).
const CHAIN_PIECES_MAX: usize = 20;
/// Extra slots of one packet: one for each type that there is.
const EXTRAS_MAX: usize = 4;
const ETHERNET_HEADER_BYTES: u16 = 14;

const TXF_CSUM_BLANK: u16 = 1;
const TXF_DATA_VALIDATED: u16 = 2;
const TXF_MORE_DATA: u16 = 4;
const TXF_EXTRA_INFO: u16 = 8;

const EXTRA_TYPE_GSO: u8 = 1;
const EXTRA_FLAG_MORE: u8 = 1;
const GSO_TYPE_TCPV4: u8 = 1;
const GSO_TYPE_TCPV6: u8 = 2;

const RSP_OKAY: i16 = 0;
const RSP_ERROR: i16 = -1;
const RSP_NULL: i16 = 1;

/// The packet has been checked, or comes from a domain of this host.
pub const RXF_DATA_VALIDATED: u16 = 1;
/// Its checksum is not filled in. The frontend drops anything but TCP and UDP that has this.
pub const RXF_CSUM_BLANK: u16 = 2;
/// It goes on in the next slot.
pub const RXF_MORE_DATA: u16 = 4;
/// The next slot is extra information.
pub const RXF_EXTRA_INFO: u16 = 8;

/// What no honest frontend puts on its ring. The ring is not served any more.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum ChainError {
    /// The packet goes on where no request is.
    #[error("packet of {0} slots is cut off")]
    Truncated(usize),
    /// More pieces than even a frontend that miscounts has.
    #[error("packet of more than {CHAIN_PIECES_MAX} pieces")]
    TooLong,
    /// A piece that does not lie in its page.
    #[error("piece of {bytes} bytes at {offset} leaves its page")]
    CrossesPage {
        /// Where in the page.
        offset: u16,
        /// How long.
        bytes: u16,
    },
    /// Extra information that was not offered, or too much of it.
    #[error("extra information of type {0} was not offered")]
    Extra(u8),
    /// A segmentation type that there is not, or segments of no bytes.
    #[error("segmentation of type {kind} into {size} bytes")]
    Gso {
        /// The type.
        kind: u8,
        /// Bytes of a segment.
        size: u16,
    },
}

/// A piece of a packet in a granted page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The page.
    pub page: GrantRef,
    /// The first byte in it.
    pub offset: u16,
    /// How many; within the page.
    pub bytes: u16,
}

/// One slot of a chain, for the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Piece { id: u16 },
    Extra,
}

/// How a packet ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxStatus {
    /// Taken.
    Okay,
    /// Thrown away.
    Error,
}

/// A packet that the frontend sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Where its bytes are, in order.
    pub pieces: Vec<Piece>,
    /// All its bytes.
    pub bytes: u16,
    /// The transport checksum is not filled in.
    pub csum_blank: bool,
    /// The checksum has been checked.
    pub data_validated: bool,
    /// To be cut into segments of so many bytes.
    pub gso: Option<(GsoType, u16)>,
    /// False for one that is only to be answered with an error: lengths that do not add up, too many pieces.
    pub sound: bool,
    slots: Vec<Slot>,
}

struct TxRequest {
    page: GrantRef,
    offset: u16,
    flags: u16,
    id: u16,
    size: u16,
}

impl Packet {
    /// Reads the chain that begins at the ring's next request; `slot(n)` gives the `n`-th waiting one. `None` if none waits.
    ///
    /// # Errors
    /// [`ChainError`], and what `slot` fails with.
    pub fn parse<E: From<ChainError>>(
        mut slot: impl FnMut(u32) -> Result<Option<[u8; TX_REQUEST_BYTES]>, E>,
    ) -> Result<Option<Self>, E> {
        let Some(first) = slot(0)? else { return Ok(None) };
        let first = TxRequest::decode(first);
        let mut packet = Self {
            pieces: vec![first.piece()],
            bytes: first.size,
            csum_blank: first.flags & TXF_CSUM_BLANK != 0,
            data_validated: first.flags & TXF_DATA_VALIDATED != 0,
            gso: None,
            sound: true,
            slots: vec![Slot::Piece { id: first.id }],
        };
        let mut next =
            |taken: usize| -> Result<_, E> { Ok(slot(taken as u32)?.ok_or(ChainError::Truncated(taken))?) };
        let mut extras = first.flags & TXF_EXTRA_INFO != 0;
        while extras {
            extras = packet.extra(next(packet.slots.len())?)?;
        }
        let mut more = first.flags & TXF_MORE_DATA != 0;
        while more {
            more = packet.further(&TxRequest::decode(next(packet.slots.len())?))?;
        }
        packet.finish()?;
        Ok(Some(packet))
    }

    /// Slots that the packet takes on the ring.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The responses to all its slots, in order.
    pub fn responses(&self, status: TxStatus) -> impl Iterator<Item = [u8; 4]> {
        let status = match status {
            TxStatus::Okay => RSP_OKAY,
            TxStatus::Error => RSP_ERROR,
        };
        self.slots.iter().map(move |slot| {
            let (id, status) = match slot {
                Slot::Piece { id } => (*id, status),
                Slot::Extra => (0, RSP_NULL),
            };
            let ([a, b], [c, d]) = (id.to_le_bytes(), status.to_le_bytes());
            [a, b, c, d]
        })
    }

    /// Takes one slot of extra information; true if another follows.
    fn extra(&mut self, slot: [u8; TX_REQUEST_BYTES]) -> Result<bool, ChainError> {
        let [kind, flags, size_low, size_high, gso_type, ..] = slot;
        if kind != EXTRA_TYPE_GSO || self.slots.len() > EXTRAS_MAX {
            return Err(ChainError::Extra(kind));
        }
        let size = u16::from_le_bytes([size_low, size_high]);
        let gso = match gso_type {
            GSO_TYPE_TCPV4 if size > 0 => GsoType::TcpV4,
            GSO_TYPE_TCPV6 if size > 0 => GsoType::TcpV6,
            kind => return Err(ChainError::Gso { kind, size }),
        };
        self.gso = Some((gso, size));
        self.slots.push(Slot::Extra);
        Ok(flags & EXTRA_FLAG_MORE != 0)
    }

    /// Takes one further piece; true if another follows.
    fn further(&mut self, request: &TxRequest) -> Result<bool, ChainError> {
        if self.pieces.len() == CHAIN_PIECES_MAX {
            return Err(ChainError::TooLong);
        }
        request.check()?;
        // The first piece is what the others leave of the whole.
        match self.pieces[0].bytes.checked_sub(request.size) {
            Some(rest) => self.pieces[0].bytes = rest,
            // A frontend that sends 64 KiB or more overflows the first length: no attack, but no packet either.
            None => self.sound = false,
        }
        self.pieces.push(request.piece());
        self.slots.push(Slot::Piece { id: request.id });
        Ok(request.flags & TXF_MORE_DATA != 0)
    }

    fn finish(&mut self) -> Result<(), ChainError> {
        self.sound &= self.bytes >= ETHERNET_HEADER_BYTES && self.pieces.len() <= PIECES_MAX;
        let Piece { offset, bytes, .. } = self.pieces[0];
        if self.sound && u64::from(offset) + u64::from(bytes) > PAGE_SIZE {
            return Err(ChainError::CrossesPage { offset, bytes });
        }
        Ok(())
    }
}

impl TxRequest {
    fn decode(bytes: [u8; TX_REQUEST_BYTES]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            page: GrantRef(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            offset: half(4),
            flags: half(6),
            id: half(8),
            size: half(10),
        }
    }

    fn check(&self) -> Result<(), ChainError> {
        if u64::from(self.offset) + u64::from(self.size) > PAGE_SIZE {
            return Err(ChainError::CrossesPage { offset: self.offset, bytes: self.size });
        }
        Ok(())
    }

    fn piece(&self) -> Piece {
        Piece { page: self.page, offset: self.offset, bytes: self.size }
    }
}

/// A page that the frontend gives for receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RxRequest {
    /// To be echoed.
    pub id: u16,
    /// The page.
    pub page: GrantRef,
}

impl RxRequest {
    /// Reads one entry of the receive ring.
    pub fn decode(bytes: [u8; RX_BYTES]) -> Self {
        Self {
            id: u16::from_le_bytes([bytes[0], bytes[1]]),
            page: GrantRef(u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])),
        }
    }

    /// The response for `bytes` bytes that lie at the page's beginning; `None` for a page that could not be used.
    pub fn response(&self, flags: u16, bytes: Option<u16>) -> [u8; RX_BYTES] {
        let ([a, b], [c, d]) = (self.id.to_le_bytes(), flags.to_le_bytes());
        // A page has 4,096 bytes.
        let status = bytes.map_or(RSP_ERROR, |bytes| bytes as i16);
        let [e, f] = status.to_le_bytes();
        [a, b, 0, 0, c, d, e, f]
    }
}

/// The slot of extra information that says how to cut a received packet.
pub fn gso_slot(kind: GsoType, size: u16) -> Option<[u8; RX_BYTES]> {
    let kind = match kind {
        GsoType::None => return None,
        GsoType::TcpV4 => GSO_TYPE_TCPV4,
        GsoType::TcpV6 => GSO_TYPE_TCPV6,
    };
    let [low, high] = size.to_le_bytes();
    Some([EXTRA_TYPE_GSO, 0, low, high, kind, 0, 0, 0])
}
