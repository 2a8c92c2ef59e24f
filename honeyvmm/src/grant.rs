//! Grant table, version 1: which of its pages a domain lets the backends use, and how.
//!
//! Xen's `grant_table.h`, `struct grant_entry_v1`: 16 bits of flags, the domain that is granted, a frame. The guest writes
//! entries while we read them, so an entry is taken as Xen takes it: flags and domain in one word, the mark that it is in
//! use set by compare-exchange, the frame read only then. Mapping for other domains, transfers, sub-page and version 2
//! grants are not offered.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::{Access, Gfn, Gpa, GrantRef, GuestMemory, MemoryError, PAGE_SIZE};

/// Bytes of one entry.
const ENTRY_BYTES: u64 = 8;
/// Entries in one frame of the table.
pub const ENTRIES_PER_FRAME: u32 = (PAGE_SIZE / ENTRY_BYTES) as u32;
/// Offset of the frame number in an entry.
const FRAME: u64 = 4;
/// The domain that backends act for.
const BACKEND_DOMID: u32 = 0;
/// Tries to mark an entry that changes under our hands, as in Xen ("shared grant entry is unstable").
const MARK_TRIES_MAX: u32 = 5;

const GTF_PERMIT_ACCESS: u32 = 1;
const GTF_TYPE_MASK: u32 = 3;
const GTF_READONLY: u32 = 1 << 2;
const GTF_READING: u32 = 1 << 3;
const GTF_WRITING: u32 = 1 << 4;
const GTF_SUB_PAGE: u32 = 1 << 8;

/// What the backend wants to do with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantAccess {
    /// Only read it (a disk write, a frame that is sent).
    Read,
    /// Write it too.
    Write,
}

/// Why a grant does not give access.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The reference is past the end of the table.
    #[error("{reference} is past the table of {entries} entries")]
    PastTable {
        /// What the guest named.
        reference: GrantRef,
        /// Entries in the table.
        entries: u32,
    },
    /// The entry grants nothing, something else, or to another domain.
    #[error("{reference} does not permit access: flags {flags:#x}, domid {domid}")]
    NotPermitted {
        /// What the guest named.
        reference: GrantRef,
        /// The entry's flags.
        flags: u32,
        /// The entry's domain.
        domid: u32,
    },
    /// Write access to a read-only grant.
    #[error("{0} is read-only")]
    ReadOnly(GrantRef),
    /// The guest kept changing the entry.
    #[error("{0} is unstable")]
    Unstable(GrantRef),
    /// The frame is not RAM of the domain.
    #[error("{reference} names {gfn}, which is not in RAM")]
    NotRam {
        /// What the guest named.
        reference: GrantRef,
        /// The entry's frame.
        gfn: Gfn,
    },
    /// The same page is in use too often at once.
    #[error("{0} is in use too often")]
    TooManyUses(GrantRef),
    /// The table itself cannot be reached.
    #[error("cannot reach the grant table")]
    Memory(#[from] MemoryError),
}

/// A domain's grant table. Clones are the same table.
#[derive(Clone)]
pub struct GrantTable {
    shared: Arc<Shared>,
}

struct Shared {
    memory: GuestMemory,
    table: Gpa,
    /// How often each entry is in use. Innermost lock: nothing else is taken while it is held.
    uses: Mutex<Vec<Uses>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Uses {
    reads: u16,
    writes: u16,
}

/// A page that is in use through a grant. Dropping it ends the use.
#[must_use]
pub struct GrantedPage {
    shared: Arc<Shared>,
    reference: GrantRef,
    access: GrantAccess,
    gpa: Gpa,
}

impl GrantTable {
    /// The table of `frames` frames at `table`, usually in the shim's region.
    #[must_use]
    pub fn new(memory: GuestMemory, table: Gpa, frames: u32) -> Self {
        let entries = frames.saturating_mul(ENTRIES_PER_FRAME) as usize;
        let uses = Mutex::new(vec![Uses::default(); entries]);
        Self { shared: Arc::new(Shared { memory, table, uses }) }
    }

    /// The page behind a grant, marked as in use until the answer is dropped.
    ///
    /// # Errors
    /// Everything that the guest may get wrong, see [`GrantError`]; nothing is marked then.
    pub fn resolve(&self, reference: GrantRef, access: GrantAccess) -> Result<GrantedPage, GrantError> {
        let shared = &self.shared;
        let mut uses = shared.uses();
        let entries = uses.len() as u32;
        let Some(entry_uses) = uses.get_mut(reference.0 as usize) else {
            return Err(GrantError::PastTable { reference, entries });
        };
        let more = entry_uses.and_one_more(access).ok_or(GrantError::TooManyUses(reference))?;
        shared.mark(reference, access)?;
        match shared.frame(reference) {
            Ok(gpa) => {
                *entry_uses = more;
                Ok(GrantedPage { shared: shared.clone(), reference, access, gpa })
            }
            Err(error) => {
                shared.unmark(reference, *entry_uses);
                Err(error)
            }
        }
    }
}

impl GrantedPage {
    /// The page's first address.
    #[must_use]
    pub fn gpa(&self) -> Gpa {
        self.gpa
    }
}

impl Drop for GrantedPage {
    fn drop(&mut self) {
        let mut uses = self.shared.uses();
        if let Some(entry_uses) = uses.get_mut(self.reference.0 as usize) {
            *entry_uses = entry_uses.and_one_less(self.access);
            self.shared.unmark(self.reference, *entry_uses);
        }
    }
}

impl Uses {
    fn and_one_more(self, access: GrantAccess) -> Option<Self> {
        Some(match access {
            GrantAccess::Read => Self { reads: self.reads.checked_add(1)?, ..self },
            GrantAccess::Write => Self { writes: self.writes.checked_add(1)?, ..self },
        })
    }

    fn and_one_less(self, access: GrantAccess) -> Self {
        match access {
            GrantAccess::Read => Self { reads: self.reads.saturating_sub(1), ..self },
            GrantAccess::Write => Self { writes: self.writes.saturating_sub(1), ..self },
        }
    }
}

impl Shared {
    fn uses(&self) -> MutexGuard<'_, Vec<Uses>> {
        // Counters are valid after every step, so a panic elsewhere does not make them less so.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, reference: GrantRef) -> Gpa {
        self.table.offset(u64::from(reference.0) * ENTRY_BYTES)
    }

    /// Checks flags and domain, and marks the entry in one step with the check.
    fn mark(&self, reference: GrantRef, access: GrantAccess) -> Result<(), GrantError> {
        let at = self.entry(reference);
        let mut seen = self.memory.load_u32(at, Ordering::Acquire)?;
        for _ in 0..MARK_TRIES_MAX {
            let (flags, domid) = (seen & 0xffff, seen >> 16);
            if flags & (GTF_TYPE_MASK | GTF_SUB_PAGE) != GTF_PERMIT_ACCESS || domid != BACKEND_DOMID {
                return Err(GrantError::NotPermitted { reference, flags, domid });
            }
            if access == GrantAccess::Write && flags & GTF_READONLY != 0 {
                return Err(GrantError::ReadOnly(reference));
            }
            match self.memory.compare_exchange_u32(at, seen, seen | marks(access))? {
                Ok(_) => return Ok(()),
                Err(changed) => seen = changed,
            }
        }
        Err(GrantError::Unstable(reference))
    }

    /// Takes away the marks that no remaining use needs.
    fn unmark(&self, reference: GrantRef, remaining: Uses) {
        let mut needed = 0;
        if remaining.reads > 0 {
            needed |= marks(GrantAccess::Read);
        }
        if remaining.writes > 0 {
            needed |= marks(GrantAccess::Write);
        }
        let idle = (GTF_READING | GTF_WRITING) & !needed;
        // The entry was reachable when it was marked and regions never shrink, so this cannot fail.
        let _ = self.memory.fetch_and_u16(self.entry(reference), !(idle as u16), Ordering::AcqRel);
    }

    fn frame(&self, reference: GrantRef) -> Result<Gpa, GrantError> {
        let frame = self.memory.load_u32(self.entry(reference).offset(FRAME), Ordering::Acquire)?;
        let gfn = Gfn(u64::from(frame));
        gfn.gpa()
            .filter(|&gpa| self.memory.ram().contains(gpa, PAGE_SIZE))
            .ok_or(GrantError::NotRam { reference, gfn })
    }
}

fn marks(access: GrantAccess) -> u32 {
    match access {
        GrantAccess::Read => GTF_READING,
        GrantAccess::Write => GTF_READING | GTF_WRITING,
    }
}

impl fmt::Debug for GrantTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantTable").field("table", &self.shared.table).finish_non_exhaustive()
    }
}

impl fmt::Debug for GrantedPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantedPage")
            .field("reference", &self.reference)
            .field("access", &self.access)
            .field("gpa", &self.gpa)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
