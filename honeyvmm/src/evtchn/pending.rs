//! The words of the 2-level ABI in guest memory, changed in Xen's order (`evtchn_2l_set_pending`, `evtchn_2l_unmask`).
//!
//! The addresses are checked when they are set, so an access cannot fail later; if one did, the event would be lost and
//! nothing else.

use std::sync::atomic::Ordering::SeqCst;

use crate::memory::{Access, EvtchnPort, Gpa, GuestMemory};

use super::VCPU_INFO_BYTES;

/// `shared_info.evtchn_pending`: after 32 `vcpu_info` of 64 bytes.
const PENDING: u64 = 32 * VCPU_INFO_BYTES;
/// `shared_info.evtchn_mask`: after 64 words of pending bits.
const MASK: u64 = PENDING + 64 * 8;
/// `vcpu_info.evtchn_upcall_pending`, a byte.
const UPCALL_PENDING: u64 = 0;
/// `vcpu_info.evtchn_upcall_mask`, a byte.
const UPCALL_MASK: u64 = 1;
/// `vcpu_info.evtchn_pending_sel`, a word.
const PENDING_SELECTOR: u64 = 8;

pub(super) struct PendingWords {
    memory: GuestMemory,
    shared_info: Gpa,
}

/// What setting a port pending brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Raised {
    /// The bit was clear before.
    pub newly_pending: bool,
    /// The vcpu has an upcall that it had not before.
    pub upcall: bool,
}

impl PendingWords {
    pub fn new(memory: GuestMemory, shared_info: Gpa) -> Self {
        Self { memory, shared_info }
    }

    pub fn in_ram(&self, place: Gpa, bytes: u64) -> bool {
        self.memory.ram().contains(place, bytes)
    }

    pub fn set_pending(&self, port: EvtchnPort, vcpu_info: Gpa) -> Raised {
        if self.set(self.word(PENDING, port), bit(port)) {
            return Raised::default();
        }
        let upcall = !self.test(self.word(MASK, port), bit(port)) && self.select(port, vcpu_info);
        Raised { newly_pending: true, upcall }
    }

    /// Clears the mask bit; `true` if that made an upcall pending.
    pub fn unmask(&self, port: EvtchnPort, vcpu_info: Gpa) -> bool {
        self.clear_bits(self.word(MASK, port), bit(port))
            && self.test(self.word(PENDING, port), bit(port))
            && self.select(port, vcpu_info)
    }

    pub fn clear(&self, port: EvtchnPort) {
        self.clear_bits(self.word(PENDING, port), bit(port));
    }

    pub fn is_pending(&self, port: EvtchnPort) -> bool {
        port.0 < super::PORTS_MAX && self.test(self.word(PENDING, port), bit(port))
    }

    pub fn upcall_pending(&self, vcpu_info: Gpa) -> bool {
        self.memory.load_u8(vcpu_info.offset(UPCALL_PENDING), SeqCst).is_ok_and(|pending| pending != 0)
    }

    pub fn upcall_masked(&self, vcpu_info: Gpa) -> bool {
        self.memory.load_u8(vcpu_info.offset(UPCALL_MASK), SeqCst).is_ok_and(|mask| mask != 0)
    }

    /// Copies one `vcpu_info` to its new place and marks everything there as pending.
    pub fn move_vcpu_info(&self, from: Gpa, to: Gpa) {
        if let Ok(info) = self.memory.read_array::<{ VCPU_INFO_BYTES as usize }>(from) {
            let _ = self.memory.write(to, &info);
        }
        let _ = self.memory.fetch_or_u64(to.offset(PENDING_SELECTOR), u64::MAX, SeqCst);
        let _ = self.memory.store_u8(to.offset(UPCALL_PENDING), 1, SeqCst);
    }

    /// Selector bit, then upcall flag; `true` if the flag was clear. The guest clears them in the reverse order.
    fn select(&self, port: EvtchnPort, vcpu_info: Gpa) -> bool {
        let selector = vcpu_info.offset(PENDING_SELECTOR);
        !self.set(selector, 1 << (port.0 / 64))
            && self.memory.swap_u8(vcpu_info.offset(UPCALL_PENDING), 1, SeqCst).is_ok_and(|old| old == 0)
    }

    fn word(&self, array: u64, port: EvtchnPort) -> Gpa {
        self.shared_info.offset(array + u64::from(port.0 / 64) * 8)
    }

    /// Sets bits; whether they were set before.
    fn set(&self, word: Gpa, bits: u64) -> bool {
        self.memory.fetch_or_u64(word, bits, SeqCst).is_ok_and(|old| old & bits != 0)
    }

    /// Clears bits; whether they were set before.
    fn clear_bits(&self, word: Gpa, bits: u64) -> bool {
        self.memory.fetch_and_u64(word, !bits, SeqCst).is_ok_and(|old| old & bits != 0)
    }

    fn test(&self, word: Gpa, bits: u64) -> bool {
        self.memory.load_u64(word, SeqCst).is_ok_and(|value| value & bits != 0)
    }
}

fn bit(port: EvtchnPort) -> u64 {
    1 << (port.0 % 64)
}
