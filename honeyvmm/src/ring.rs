//! The server side of a shared ring: requests taken from, and responses put on, one page that the frontend granted.
//!
//! Layout and hold-off rules are those of Xen's `io/ring.h`: four 32-bit indices (`req_prod`, `req_event`, `rsp_prod`,
//! `rsp_event`), 48 bytes of padding, then a power of two of entries that requests and responses share.
//! The frontend is hostile: each index is read once, an entry is copied out before it is looked at, and our own indices are
//! kept here, never read back. Rings of more than one page are not supported. What an entry means is the backend's business.

pub mod bytes;

use std::sync::atomic::{Ordering, fence};

use crate::memory::{Access, Gpa, GuestMemory, MemoryError, PAGE_SIZE};

/// Offset of `req_prod`: how many requests the frontend has put, ever.
const REQ_PROD: u64 = 0;
/// Offset of `req_event`: the frontend notifies when `req_prod` passes this.
const REQ_EVENT: u64 = 4;
/// Offset of `rsp_prod`: how many responses we have put, ever.
const RSP_PROD: u64 = 8;
/// Offset of `rsp_event`: we notify when `rsp_prod` passes this.
const RSP_EVENT: u64 = 12;
/// Offset of the first entry.
const ENTRIES: u64 = 64;

/// How many entries of which size a ring page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingLayout {
    entries: u32,
    entry_bytes: u32,
}

/// `struct blkif_sring` (io/blkif.h), 64-bit: 32 entries of 112 bytes.
pub const BLKIF: RingLayout = RingLayout { entries: 32, entry_bytes: 112 };
/// `struct netif_tx_sring` (io/netif.h): 256 entries of 12 bytes.
pub const NETIF_TX: RingLayout = RingLayout { entries: 256, entry_bytes: 12 };
/// `struct netif_rx_sring` (io/netif.h): 256 entries of 8 bytes.
pub const NETIF_RX: RingLayout = RingLayout { entries: 256, entry_bytes: 8 };

/// What makes a ring unusable; the backend stops serving it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// More requests are outstanding than the ring has entries: the frontend's index is a lie.
    #[error("request producer {req_prod} is over {entries} entries ahead of response {rsp_prod}")]
    RequestOverflow {
        /// What the frontend wrote.
        req_prod: u32,
        /// Responses that we have put.
        rsp_prod: u32,
        /// Entries in the ring.
        entries: u32,
    },
    /// A response without a request that it could answer, or of more bytes than an entry: a bug of the backend.
    #[error("response of {bytes} bytes has no entry to go to")]
    NoEntry {
        /// Length of the response.
        bytes: usize,
    },
    /// The ring's page is not whole, or outside guest memory.
    #[error("ring page at {0} is not in guest memory")]
    BadPage(Gpa),
    /// An access failed.
    #[error("cannot reach the ring page")]
    Memory(#[from] MemoryError),
}

/// Whether the frontend waits for an event after what was just published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Notify {
    /// Send the event.
    Needed,
    /// The frontend is looking anyway.
    HeldOff,
}

/// One ring, seen by the backend. Not shared between threads: the thread that serves the ring owns it.
#[derive(Debug)]
pub struct ServerRing {
    memory: GuestMemory,
    page: Gpa,
    layout: RingLayout,
    /// Requests taken so far.
    req_cons: u32,
    /// Responses put so far, published or not.
    rsp_prod: u32,
    /// Responses that the frontend has been shown.
    rsp_published: u32,
}

impl ServerRing {
    /// Takes up a ring where its responses stand, which is at 0 unless an earlier backend has served it.
    ///
    /// # Errors
    /// [`RingError::BadPage`]; [`RingError::RequestOverflow`] where the indices do not fit together.
    pub fn attach(memory: GuestMemory, page: Gpa, layout: RingLayout) -> Result<Self, RingError> {
        if page.page_offset() != 0 || memory.slice(page, PAGE_SIZE).is_err() {
            return Err(RingError::BadPage(page));
        }
        let rsp_prod = memory.load_u32(page.offset(RSP_PROD), Ordering::Acquire)?;
        let ring = Self { memory, page, layout, req_cons: rsp_prod, rsp_prod, rsp_published: rsp_prod };
        ring.pending_requests()?;
        Ok(ring)
    }

    /// Entries in the ring.
    #[must_use]
    pub fn entries(&self) -> u32 {
        self.layout.entries
    }

    /// Requests taken that have no response yet.
    #[must_use]
    pub fn unanswered(&self) -> u32 {
        self.req_cons.wrapping_sub(self.rsp_prod)
    }

    /// Requests that wait to be taken: at most as many as the ring has entries.
    ///
    /// # Errors
    /// [`RingError::RequestOverflow`].
    pub fn pending_requests(&self) -> Result<u32, RingError> {
        // The guest may rewrite the index while we look, so it is read once. Acquire: entries are read after it.
        let req_prod = self.memory.load_u32(self.page.offset(REQ_PROD), Ordering::Acquire)?;
        let (entries, rsp_prod) = (self.layout.entries, self.rsp_prod);
        // Counted from the responses, an honest producer is between req_cons and one ring ahead; a step back is as much a lie.
        let outstanding = req_prod.wrapping_sub(rsp_prod);
        if outstanding > entries || outstanding < self.unanswered() {
            return Err(RingError::RequestOverflow { req_prod, rsp_prod, entries });
        }
        Ok(outstanding - self.unanswered())
    }

    /// Copies the `ahead`-th waiting request (0 is the next) and leaves it there; `None` when not so many wait.
    /// `N` is the request's size, at most the entry's.
    ///
    /// # Errors
    /// [`RingError::RequestOverflow`].
    pub fn peek_request<const N: usize>(&self, ahead: u32) -> Result<Option<[u8; N]>, RingError> {
        const { assert!(N <= BLKIF.entry_bytes as usize) };
        if ahead >= self.pending_requests()? {
            return Ok(None);
        }
        let at = self.entry(self.req_cons.wrapping_add(ahead));
        Ok(Some(self.memory.read_array(at)?))
    }

    /// Takes the next request, copied out; `None` when none waits.
    ///
    /// # Errors
    /// [`RingError::RequestOverflow`].
    pub fn take_request<const N: usize>(&mut self) -> Result<Option<[u8; N]>, RingError> {
        let request = self.peek_request(0)?;
        if request.is_some() {
            self.req_cons = self.req_cons.wrapping_add(1);
        }
        Ok(request)
    }

    /// Puts a response into the next entry. The frontend sees it after [`ServerRing::publish`].
    ///
    /// # Errors
    /// [`RingError::NoEntry`] when every request taken is answered already.
    pub fn push_response(&mut self, response: &[u8]) -> Result<(), RingError> {
        let bytes = response.len();
        if self.unanswered() == 0 || bytes > self.layout.entry_bytes as usize {
            return Err(RingError::NoEntry { bytes });
        }
        self.memory.write(self.entry(self.rsp_prod), response)?;
        self.rsp_prod = self.rsp_prod.wrapping_add(1);
        Ok(())
    }

    /// Shows all responses to the frontend, and says whether it wants an event for them.
    ///
    /// # Errors
    /// The page is gone.
    pub fn publish(&mut self) -> Result<Notify, RingError> {
        let (old, new) = (self.rsp_published, self.rsp_prod);
        self.memory.store_u32(self.page.offset(RSP_PROD), new, Ordering::Release)?;
        self.rsp_published = new;
        // The frontend must see the responses before we look whether it went to sleep; it does the reverse.
        fence(Ordering::SeqCst);
        let rsp_event = self.memory.load_u32(self.page.offset(RSP_EVENT), Ordering::Acquire)?;
        let passed = new.wrapping_sub(rsp_event) < new.wrapping_sub(old);
        Ok(if passed { Notify::Needed } else { Notify::HeldOff })
    }

    /// Before going to sleep: asks for an event at the next request. `true` if requests wait already, and sleep would lose them.
    ///
    /// # Errors
    /// [`RingError::RequestOverflow`].
    pub fn final_check(&mut self) -> Result<bool, RingError> {
        self.await_requests(1)
    }

    /// As [`ServerRing::final_check`], but the event is asked for when `count` requests wait (a receive ring that needs several).
    ///
    /// # Errors
    /// [`RingError::RequestOverflow`].
    pub fn await_requests(&mut self, count: u32) -> Result<bool, RingError> {
        let count = count.clamp(1, self.layout.entries);
        if self.pending_requests()? >= count {
            return Ok(true);
        }
        let event = self.req_cons.wrapping_add(count);
        self.memory.store_u32(self.page.offset(REQ_EVENT), event, Ordering::Release)?;
        fence(Ordering::SeqCst);
        Ok(self.pending_requests()? >= count)
    }

    fn entry(&self, index: u32) -> Gpa {
        let slot = index & (self.layout.entries - 1);
        self.page.offset(ENTRIES + u64::from(slot) * u64::from(self.layout.entry_bytes))
    }
}

#[cfg(test)]
mod tests;
