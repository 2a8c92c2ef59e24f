//! The numbers by which a domain names memory, grants and event channels: one type each, so that none is taken for another.
//!
//! `mfn == pfn == gfn` here (identity p2m), so a machine frame that a guest names is a [`Gfn`].

use std::fmt;

/// Bytes in a page; log2 is [`PAGE_SHIFT`].
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// A guest-physical address, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(pub u64);

/// A guest frame number: [`Gpa`] in pages.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Gfn(pub u64);

/// A guest-virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gva(pub u64);

/// An index into a domain's grant table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GrantRef(pub u32);

/// A domain's number for one of its event channels; 0 is never a valid one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EvtchnPort(pub u32);

impl Gpa {
    /// The address `bytes` further on; `None` past the end of the address space.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// The address `bytes` further on, wrapping; for offsets that are known to be small. Every access checks the result anyway.
    #[must_use]
    pub fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// The frame that holds this address.
    #[must_use]
    pub fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }

    /// The offset in its page.
    #[must_use]
    pub fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Gfn {
    /// The first address of the frame; `None` for a frame that no 64-bit address reaches.
    #[must_use]
    pub fn gpa(self) -> Option<Gpa> {
        self.0.checked_mul(PAGE_SIZE).map(Gpa)
    }
}

impl Gva {
    /// The address `bytes` further on; `None` past the end of the address space.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

macro_rules! shown_as {
    ($type:ty, $format:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

shown_as!(Gpa, "gpa {:#x}");
shown_as!(Gfn, "gfn {:#x}");
shown_as!(Gva, "gva {:#x}");
shown_as!(GrantRef, "grant {}");
shown_as!(EvtchnPort, "port {}");
