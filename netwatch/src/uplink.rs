//! Uplinks: where the switch meets the kernel's network. A TAP inside the honeynet's namespace, or a raw socket on an
//! interface that the operator named.
//!
//! Both carry a virtio-net header (OASIS virtio 1.2, 5.1.6) before each frame, so that checksums and segmentation may
//! stay undone and one system call moves up to 64 KiB.

mod open;

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, readv, writev};
use vifport::{FLAG_DATA_VALID, FLAG_NEEDS_CSUM, FRAME_BYTES_MAX, FrameMeta, GsoType};

pub use open::{InterfaceSpec, UplinkError, open_interface, open_tap, remove_interface};

/// Bytes of a virtio-net header without the count of merged buffers.
pub const VNET_HEADER_BYTES: usize = 10;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// Set beside a TCP type where the first segment carries CWR; netfront has no word for it, and cutting is right without.
const GSO_ECN: u8 = 0x80;

/// An open uplink. Reading and writing never block.
#[derive(Debug)]
pub struct Uplink {
    fd: OwnedFd,
}

/// What came of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A frame, with its offload fields.
    Frame(FrameMeta),
    /// A frame whose offload fields cannot be carried on; it is dropped.
    Unusable,
    /// Nothing more now.
    Empty,
}

impl Uplink {
    /// Takes a descriptor that `open_tap` or `open_interface` made.
    pub fn new(fd: OwnedFd) -> Uplink {
        Uplink { fd }
    }

    /// Reads one frame into `frame`, which it replaces.
    pub fn recv(&self, frame: &mut Vec<u8>) -> io::Result<Received> {
        let mut header = [0; VNET_HEADER_BYTES];
        frame.resize(FRAME_BYTES_MAX as usize, 0);
        let read =
            match readv(&self.fd, &mut [IoSliceMut::new(&mut header), IoSliceMut::new(frame.as_mut_slice())])
            {
                Ok(read) => read,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Empty),
                // The interface went down; it may come up again.
                Err(Errno::NETDOWN) => return Ok(Received::Empty),
                Err(error) => return Err(error.into()),
            };
        let Some(len) = read.checked_sub(VNET_HEADER_BYTES) else { return Ok(Received::Unusable) };
        frame.truncate(len);
        let meta = decode_header(&header).filter(|meta| len > 0 && meta.check(len as u32).is_ok());
        Ok(meta.map_or(Received::Unusable, Received::Frame))
    }

    /// Writes one frame; false where the kernel has no room or refuses it, and then it is lost, as on a wire.
    pub fn send(&self, meta: &FrameMeta, frame: &[u8]) -> bool {
        let header = encode_header(meta);
        writev(&self.fd, &[IoSlice::new(&header), IoSlice::new(frame)]).is_ok()
    }
}

impl AsFd for Uplink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The ten bytes, in the byte order of x86 (the legacy header's order is the host's).
fn encode_header(meta: &FrameMeta) -> [u8; VNET_HEADER_BYTES] {
    let gso = match meta.gso_type {
        GsoType::None => GSO_NONE,
        GsoType::TcpV4 => GSO_TCPV4,
        GsoType::TcpV6 => GSO_TCPV6,
    };
    let flags = (meta.flags & (FLAG_NEEDS_CSUM | FLAG_DATA_VALID)) as u8;
    let mut header = [flags, gso, 0, 0, 0, 0, 0, 0, 0, 0];
    let words = [meta.hdr_len, meta.gso_size, meta.csum_start, meta.csum_offset];
    for (word, place) in words.iter().zip(header[2..].chunks_exact_mut(2)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    header
}

/// `None` for a segmentation that the ports do not know (UDP).
fn decode_header(header: &[u8; VNET_HEADER_BYTES]) -> Option<FrameMeta> {
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let gso_type = match header[1] & !GSO_ECN {
        GSO_NONE => GsoType::None,
        GSO_TCPV4 => GsoType::TcpV4,
        GSO_TCPV6 => GsoType::TcpV6,
        _ => return None,
    };
    Some(FrameMeta {
        flags: u16::from(header[0]) & (FLAG_NEEDS_CSUM | FLAG_DATA_VALID),
        gso_type,
        hdr_len: word(2),
        gso_size: word(4),
        csum_start: word(6),
        csum_offset: word(8),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_both_ways() {
        let meta = FrameMeta {
            flags: FLAG_NEEDS_CSUM,
            gso_type: GsoType::TcpV4,
            gso_size: 1448,
            hdr_len: 66,
            csum_start: 34,
            csum_offset: 16,
        };
        assert_eq!(decode_header(&encode_header(&meta)), Some(meta));
    }

    #[test]
    fn udp_segmentation_is_refused_and_ecn_is_dropped() {
        let mut header = encode_header(&FrameMeta::default());
        header[1] = 5;
        assert_eq!(decode_header(&header), None);
        header[1] = GSO_TCPV4 | GSO_ECN;
        assert_eq!(decode_header(&header).unwrap().gso_type, GsoType::TcpV4);
    }
}
