//! From the guest to the switch.

use vifport::{FLAG_DATA_VALID, FLAG_NEEDS_CSUM, FrameMeta, SendError};

use crate::grant::GrantAccess;
use crate::memory::Access;
use crate::ring::RingError;

use super::offload::Transport;
use super::slots::{Packet, TX_REQUEST_BYTES, TxStatus};
use super::{Connection, FRAMES_PER_CALL_MAX, Failure, Netback, Progress, Serviced, Violation};

impl Netback {
    /// Sends what waits on the transmit ring, as far as the port has room.
    pub(super) fn transmit(
        &mut self,
        connection: &mut Connection,
        serviced: &mut Serviced,
    ) -> Result<Progress, Failure> {
        for _ in 0..FRAMES_PER_CALL_MAX {
            let ring = &connection.tx.ring;
            let Some(packet) = Packet::parse::<Violation>(|ahead| Ok(ring.peek_request(ahead)?))? else {
                let more = connection.tx.ring.final_check()?;
                return Ok(if more { Progress::More } else { Progress::Waits });
            };
            if !self.port.room_or_wait(packet.bytes.into()).map_err(Failure::Port)? {
                // The packet stays on the ring; the switch signals when it has taken something.
                return Ok(Progress::Waits);
            }
            let status = self.send(connection, &packet, serviced)?;
            answer(connection, &packet, status)?;
        }
        Ok(Progress::More)
    }

    fn send(
        &mut self,
        connection: &Connection,
        packet: &Packet,
        serviced: &mut Serviced,
    ) -> Result<TxStatus, Failure> {
        if !packet.sound {
            self.counters.sent_dropped += 1;
            return Ok(TxStatus::Error);
        }
        if let Err(violation) = gather(connection, packet, &mut self.frame) {
            serviced.note(violation);
            self.counters.sent_dropped += 1;
            return Ok(TxStatus::Error);
        }
        let Some(meta) = meta(packet, &self.frame) else {
            self.counters.sent_dropped += 1;
            return Ok(TxStatus::Error);
        };
        match self.port.send(&meta, &[&self.frame]) {
            Ok(()) => {
                self.counters.sent_frames += 1;
                self.counters.sent_bytes += u64::from(packet.bytes);
                Ok(TxStatus::Okay)
            }
            Err(SendError::Broken(violation)) => Err(Failure::Port(violation)),
            // Room was there; the rest is the guest's nonsense.
            Err(SendError::Full | SendError::Length(_) | SendError::Meta(_)) => {
                self.counters.sent_dropped += 1;
                Ok(TxStatus::Error)
            }
        }
    }
}

/// Copies the packet out of the guest's pages.
fn gather(connection: &Connection, packet: &Packet, frame: &mut Vec<u8>) -> Result<(), Violation> {
    frame.resize(packet.bytes.into(), 0);
    let mut rest = frame.as_mut_slice();
    for piece in &packet.pieces {
        let page = connection.grants.resolve(piece.page, GrantAccess::Read)?;
        // The parser has seen to it that the pieces add up to the whole.
        let (part, after) = rest.split_at_mut(usize::from(piece.bytes).min(rest.len()));
        connection.memory.read(page.gpa().offset(piece.offset.into()), part).map_err(RingError::from)?;
        rest = after;
    }
    Ok(())
}

/// The offload fields; `None` for a frame that claims what it is not: it would confuse whoever handles it next.
fn meta(packet: &Packet, frame: &[u8]) -> Option<FrameMeta> {
    let mut meta = FrameMeta::default();
    if packet.data_validated {
        meta.flags |= FLAG_DATA_VALID;
    }
    if packet.csum_blank {
        let transport = Transport::find(frame)?;
        meta.flags |= FLAG_NEEDS_CSUM;
        meta.csum_start = transport.start;
        meta.csum_offset = transport.checksum;
        meta.hdr_len = transport.headers;
        if let Some((kind, size)) = packet.gso {
            if kind != transport.gso {
                return None;
            }
            meta.gso_type = kind;
            meta.gso_size = size;
        }
    } else if packet.gso.is_some() {
        // Segments need their own checksums, so a frame to be cut cannot have one already.
        return None;
    }
    Some(meta)
}

/// Takes the packet's requests off the ring and answers them.
fn answer(connection: &mut Connection, packet: &Packet, status: TxStatus) -> Result<(), RingError> {
    let ring = &mut connection.tx.ring;
    for _ in 0..packet.slots() {
        ring.take_request::<TX_REQUEST_BYTES>()?;
    }
    packet.responses(status).try_for_each(|response| ring.push_response(&response))
}
