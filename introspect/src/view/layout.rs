//! Which members of a kernel's struct are looked at, and a copy of them: read once, so that what is taken from it is of one moment.

use std::ops::Range;

use honeyvmm::memory::Gva;
use thiserror::Error;

use super::{Look, ViewError};
use crate::symbols::Symbols;

/// A kernel that lays out its data in a way that is not known here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("kernel has no {kind} {name}")]
pub struct Unknown {
    /// `member`, `symbol`, `type`.
    pub kind: &'static str,
    /// `task_struct.tasks`; where it has had several names, all of them.
    pub name: &'static str,
}

/// A member's place in its struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the struct's start.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
}

impl Field {
    /// Where it is in the struct at this address.
    #[must_use]
    pub fn of(self, at: Gva) -> Gva {
        Gva(at.0.wrapping_add(self.offset))
    }

    /// The struct whose member is at this address: C's `container_of`.
    #[must_use]
    pub fn container(self, at: Gva) -> Gva {
        Gva(at.0.wrapping_sub(self.offset))
    }

    /// The first of these names, parted by `|`, that the type has.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn find(
        symbols: &Symbols,
        type_name: &str,
        paths: &str,
        shown: &'static str,
    ) -> Result<Self, Unknown> {
        let member = paths.split('|').find_map(|path| symbols.member(type_name, path.trim()));
        let member = member.ok_or(Unknown { kind: "member", name: shown })?;
        Ok(Self { offset: member.offset, bytes: member.bytes })
    }
}

/// The address of a symbol that a walk begins at.
///
/// # Errors
/// [`Unknown`].
pub fn symbol(symbols: &Symbols, name: &'static str) -> Result<Gva, Unknown> {
    symbols.address(name).ok_or(Unknown { kind: "symbol", name })
}

/// Size of a type.
///
/// # Errors
/// [`Unknown`].
pub fn size_of(symbols: &Symbols, name: &'static str) -> Result<u64, Unknown> {
    symbols.size_of(name).ok_or(Unknown { kind: "type", name })
}

/// The members of one struct, as they were at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where the struct is.
    pub at: Gva,
    first: u64,
    bytes: Vec<u8>,
}

impl Snapshot {
    /// Copies this span of the struct.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn read(look: &Look<'_>, at: Gva, span: &Range<u64>) -> Result<Self, ViewError> {
        let start = Gva(at.0.wrapping_add(span.start));
        Ok(Self { at, first: span.start, bytes: look.bytes(start, span.end - span.start)? })
    }

    /// A member's bytes.
    ///
    /// # Panics
    /// For a member of another layout than the one that this was read with.
    #[must_use]
    pub fn bytes(&self, field: Field) -> &[u8] {
        let start = (field.offset - self.first) as usize;
        &self.bytes[start..start + field.bytes as usize]
    }

    /// An integer of up to eight bytes.
    #[must_use]
    pub fn u64(&self, field: Field) -> u64 {
        let mut word = [0; 8];
        let bytes = self.bytes(field);
        let count = bytes.len().min(8);
        word[..count].copy_from_slice(&bytes[..count]);
        u64::from_le_bytes(word)
    }

    /// The same, of which only 32 bits are wanted.
    #[must_use]
    pub fn u32(&self, field: Field) -> u32 {
        self.u64(field) as u32
    }

    /// An `int`.
    #[must_use]
    pub fn i32(&self, field: Field) -> i32 {
        self.u32(field) as i32
    }

    /// A pointer.
    #[must_use]
    pub fn pointer(&self, field: Field) -> Gva {
        Gva(self.u64(field))
    }

    /// A pointer that is not NULL.
    #[must_use]
    pub fn target(&self, field: Field) -> Option<Gva> {
        Some(self.pointer(field)).filter(|at| at.0 != 0)
    }

    /// A text in an array, up to its NUL if there is one.
    #[must_use]
    pub fn text(&self, field: Field) -> String {
        let bytes = self.bytes(field);
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

/// Declares the members of a struct that a walk reads: their places, found by name, and the span that holds them all.
macro_rules! layout {
    ($(#[$doc:meta])* $name:ident = $type:literal { $($field:ident: $paths:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub(super) struct $name {
            $(pub(super) $field: $crate::view::layout::Field,)*
            span: std::ops::Range<u64>,
        }

        impl $name {
            pub(super) fn of(symbols: &$crate::symbols::Symbols) -> Result<Self, $crate::view::layout::Unknown> {
                use $crate::view::layout::Field;
                $(let $field = Field::find(symbols, $type, $paths, concat!($type, ".", $paths))?;)*
                let fields = [$($field,)*];
                let start = fields.iter().map(|field| field.offset).min().unwrap_or(0);
                let end = fields.iter().map(|field| field.offset + field.bytes).max().unwrap_or(0);
                Ok(Self { $($field,)* span: start..end })
            }

            /// Copies the struct at this address.
            #[allow(dead_code, reason = "some layouts are only offsets")]
            pub(super) fn read(
                &self,
                look: &$crate::view::Look<'_>,
                at: honeyvmm::memory::Gva,
            ) -> Result<$crate::view::layout::Snapshot, $crate::view::ViewError> {
                $crate::view::layout::Snapshot::read(look, at, &self.span)
            }
        }
    };
}

pub(crate) use layout;
