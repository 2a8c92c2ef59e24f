//! From the switch to the guest.

use vifport::{FLAG_DATA_VALID, FrameMeta, GsoType};

use crate::grant::GrantAccess;
use crate::memory::{Access, PAGE_SIZE};
use crate::ring::RingError;

use super::offload::{Network, Transport, complete_checksum};
use super::slots::{
    PIECES_MAX, RX_BYTES, RXF_CSUM_BLANK, RXF_DATA_VALIDATED, RXF_EXTRA_INFO, RXF_MORE_DATA, RxRequest,
    gso_slot,
};
use super::{Abilities, Connection, FRAMES_PER_CALL_MAX, Failure, Netback, Progress, Serviced, Violation};

const PAGE_BYTES: usize = PAGE_SIZE as usize;

impl Netback {
    /// Gives the guest what the switch has sent, as far as it has given pages.
    pub(super) fn receive(
        &mut self,
        connection: &mut Connection,
        serviced: &mut Serviced,
    ) -> Result<Progress, Failure> {
        for _ in 0..FRAMES_PER_CALL_MAX {
            if self.held.is_none() {
                let Some(meta) = self.port.recv(&mut self.held_frame).map_err(Failure::Port)? else {
                    let empty = self.port.prepare_wait().map_err(Failure::Port)?;
                    return Ok(if empty { Progress::Waits } else { Progress::More });
                };
                self.held = fit(&mut self.held_frame, &meta, connection.can);
            }
            let Some(held) = self.held else {
                self.counters.received_dropped += 1;
                continue;
            };
            let slots = self.held_frame.len().div_ceil(PAGE_BYTES) + usize::from(held.extra.is_some());
            if !connection.rx.ring.await_requests(slots as u32)? {
                // The frame is held; the frontend sends an event when it has given enough pages.
                return Ok(Progress::Waits);
            }
            self.held = None;
            match deliver(connection, &self.held_frame, held)? {
                None => {
                    self.counters.received_frames += 1;
                    self.counters.received_bytes += self.held_frame.len() as u64;
                }
                Some(violation) => {
                    self.counters.received_dropped += 1;
                    serviced.note(violation);
                }
            }
        }
        Ok(Progress::More)
    }
}

/// What goes with a frame on the receive ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    flags: u16,
    extra: Option<[u8; RX_BYTES]>,
}

/// Makes a frame one that the frontend can take; `None` if that cannot be done.
fn fit(frame: &mut [u8], meta: &FrameMeta, can: Abilities) -> Option<Held> {
    let takes_gso = match meta.gso_type {
        GsoType::None => true,
        GsoType::TcpV4 => can.gso_v4,
        GsoType::TcpV6 => can.gso_v6,
    };
    let pieces = frame.len().div_ceil(PAGE_BYTES);
    if !takes_gso || pieces > PIECES_MAX || (pieces > 1 && !can.sg) {
        return None;
    }
    let extra = gso_slot(meta.gso_type, meta.gso_size);
    if !meta.needs_csum() {
        let valid = meta.flags & FLAG_DATA_VALID != 0;
        return Some(Held { flags: if valid { RXF_DATA_VALIDATED } else { 0 }, extra });
    }
    let may_stay_blank = Transport::find(frame).is_some_and(|transport| {
        let able = match transport.network {
            Network::V4 => can.csum_v4,
            Network::V6 => can.csum_v6,
        };
        able && (transport.start, transport.checksum) == (meta.csum_start, meta.csum_offset)
    });
    if may_stay_blank {
        return Some(Held { flags: RXF_CSUM_BLANK | RXF_DATA_VALIDATED, extra });
    }
    if extra.is_some() {
        return None;
    }
    complete_checksum(frame, meta);
    Some(Held { flags: RXF_DATA_VALIDATED, extra })
}

/// Puts a frame into the guest's pages, for which there are enough. A bad page spoils the frame, but all its slots are
/// answered: the answer is what was wrong.
fn deliver(connection: &mut Connection, frame: &[u8], held: Held) -> Result<Option<Violation>, RingError> {
    let mut violation = None;
    let last = frame.chunks(PAGE_BYTES).len() - 1;
    for (index, chunk) in frame.chunks(PAGE_BYTES).enumerate() {
        let Some(request) = connection.rx.ring.take_request::<RX_BYTES>()? else { break };
        let request = RxRequest::decode(request);
        let mut slot_flags = if index < last { RXF_MORE_DATA } else { 0 };
        let extra = held.extra.filter(|_| index == 0);
        if index == 0 {
            slot_flags |= held.flags | if extra.is_some() { RXF_EXTRA_INFO } else { 0 };
        }
        let filled = match fill(connection, &request, chunk) {
            Ok(()) => Some(chunk.len() as u16),
            Err(error) => {
                violation.get_or_insert(error);
                None
            }
        };
        connection.rx.ring.push_response(&request.response(slot_flags, filled))?;
        if let Some(extra) = extra {
            // It takes the place of a request, whose page stays unused.
            connection.rx.ring.take_request::<RX_BYTES>()?;
            connection.rx.ring.push_response(&extra)?;
        }
    }
    Ok(violation)
}

/// Copies a piece into one page. The grant is given back on return, before the frontend sees the response.
fn fill(connection: &Connection, request: &RxRequest, chunk: &[u8]) -> Result<(), Violation> {
    let page = connection.grants.resolve(request.page, GrantAccess::Write)?;
    connection.memory.write(page.gpa(), chunk).map_err(RingError::from)?;
    Ok(())
}
