//! The page in which guest and store talk: `struct xenstore_domain_interface` of Xen's `io/xs_wire.h`.

use std::sync::atomic::Ordering;

use crate::memory::{Access, Gpa, GuestMemory};
use crate::ring::bytes::{ByteReader, ByteRingError, ByteRingLayout, ByteWriter};

use super::store::Store;
use super::wire::{BODY_BYTES_MAX, BodyTooLong, HEADER_BYTES, Message};

/// Requests that one call serves; then others get their turn.
pub const REQUESTS_PER_TURN_MAX: usize = 64;

const REQUESTS: ByteRingLayout = ByteRingLayout { data: 0, bytes: 1024, consumer: 2048, producer: 2052 };
const ANSWERS: ByteRingLayout = ByteRingLayout { data: 1024, bytes: 1024, consumer: 2056, producer: 2060 };
const SERVER_FEATURES: u64 = 2064;
const CONNECTION: u64 = 2068;
const ERROR: u64 = 2072;

/// XENSTORE_SERVER_FEATURE_RECONNECTION and _ERROR.
const FEATURES: u32 = 3;
const CONNECTED: u32 = 0;
const RECONNECT: u32 = 1;
const ERROR_NONE: u32 = 0;
const ERROR_RINGIDX: u32 = 2;
const ERROR_PROTO: u32 = 3;

/// Why the connection is broken; the guest finds the reason in the page and may reconnect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// An index is a lie.
    #[error("xenstore ring is unusable")]
    Ring(#[from] ByteRingError),
    /// A message is longer than the protocol allows.
    #[error("xenstore request breaks the protocol")]
    Protocol(#[from] BodyTooLong),
}

/// What one turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Bytes moved in either direction: the guest is to be notified.
    pub moved: bool,
    /// Requests may wait still.
    pub more: bool,
}

#[derive(Debug)]
pub(super) struct Connection {
    memory: GuestMemory,
    page: Gpa,
    requests: ByteReader,
    answers: ByteWriter,
    /// The beginning of a request whose rest is to come.
    partial: Vec<u8>,
    broken: bool,
}

impl Connection {
    pub fn attach(memory: GuestMemory, page: Gpa) -> Result<Self, ByteRingError> {
        let requests = ByteReader::attach(memory.clone(), page, REQUESTS)?;
        let answers = ByteWriter::attach(memory.clone(), page, ANSWERS)?;
        memory.write_u32(page.offset(SERVER_FEATURES), FEATURES)?;
        Ok(Self { memory, page, requests, answers, partial: Vec::new(), broken: false })
    }

    /// Serves requests and sends what waits, as far as the rings let it.
    pub fn turn(&mut self, store: &mut Store) -> Result<Turn, ConnectionError> {
        let mut turn = Turn { moved: false, more: false };
        if self.wants_reconnect() {
            self.reconnect(store)?;
            turn.moved = true;
        }
        if self.broken {
            return Ok(turn);
        }
        let served = self.serve(store, &mut turn);
        self.note_broken(served)?;
        Ok(turn)
    }

    /// Sends what waits, and takes up no request: for changes by the host.
    pub fn send_only(&mut self, store: &mut Store) -> Result<Turn, ConnectionError> {
        if self.broken {
            return Ok(Turn { moved: false, more: false });
        }
        let sent = self.send(store);
        let moved = self.note_broken(sent)?;
        Ok(Turn { moved, more: false })
    }

    fn note_broken<T>(&mut self, outcome: Result<T, ConnectionError>) -> Result<T, ConnectionError> {
        if let Err(error) = &outcome {
            self.broken = true;
            let code = match error {
                ConnectionError::Ring(_) => ERROR_RINGIDX,
                ConnectionError::Protocol(_) => ERROR_PROTO,
            };
            // The page was reachable when it was attached; if it is not, there is nobody to tell.
            let _ = self.memory.store_u32(self.page.offset(ERROR), code, Ordering::Release);
        }
        outcome
    }

    fn serve(&mut self, store: &mut Store, turn: &mut Turn) -> Result<(), ConnectionError> {
        for _ in 0..REQUESTS_PER_TURN_MAX {
            turn.moved |= self.send(store)?;
            if store.outbox.is_backlogged() {
                // The guest's event after it has read answers brings us back.
                return Ok(());
            }
            let Some(request) = self.next_request(turn)? else { return Ok(()) };
            store.serve(&request);
        }
        turn.moved |= self.send(store)?;
        turn.more = true;
        Ok(())
    }

    fn next_request(&mut self, turn: &mut Turn) -> Result<Option<Message>, ConnectionError> {
        loop {
            if let Some((request, bytes)) = Message::parse(&self.partial)? {
                self.partial.drain(..bytes);
                return Ok(Some(request));
            }
            let room = HEADER_BYTES + BODY_BYTES_MAX - self.partial.len();
            if self.requests.take(&mut self.partial, room)? == 0 {
                return Ok(None);
            }
            turn.moved = true;
        }
    }

    fn send(&mut self, store: &mut Store) -> Result<bool, ConnectionError> {
        let mut moved = false;
        loop {
            let count = self.answers.put(store.outbox.next_bytes())?;
            if count == 0 {
                return Ok(moved);
            }
            store.outbox.sent(count);
            moved = true;
        }
    }

    /// The half of a request that came, and whether the guest broke the protocol.
    pub fn save(&self) -> (Vec<u8>, bool) {
        (self.partial.clone(), self.broken)
    }

    /// Goes on there.
    pub fn restore(&mut self, partial: Vec<u8>, broken: bool) {
        (self.partial, self.broken) = (partial, broken);
    }

    fn wants_reconnect(&self) -> bool {
        self.memory
            .load_u32(self.page.offset(CONNECTION), Ordering::Acquire)
            .is_ok_and(|state| state == RECONNECT)
    }

    fn reconnect(&mut self, store: &mut Store) -> Result<(), ByteRingError> {
        store.reconnect();
        for index in [REQUESTS.consumer, REQUESTS.producer, ANSWERS.consumer, ANSWERS.producer] {
            self.memory.store_u32(self.page.offset(index), 0, Ordering::Release)?;
        }
        let (memory, page) = (self.memory.clone(), self.page);
        *self = Self::attach(memory, page)?;
        self.memory.store_u32(page.offset(ERROR), ERROR_NONE, Ordering::Release)?;
        self.memory.store_u32(page.offset(CONNECTION), CONNECTED, Ordering::Release)?;
        Ok(())
    }
}
