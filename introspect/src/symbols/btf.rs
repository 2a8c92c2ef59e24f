//! BTF, the kernel's own type information: Linux' Documentation/bpf/btf.rst, as it lies in `.BTF` of the image.
//!
//! All kinds are read. The types stay packed as they are, and one is unpacked when it is asked for. BTF of modules (which is written
//! on top of the kernel's) and `.BTF.ext` are not read.

mod lookup;
mod record;

use thiserror::Error;

use super::names::NameIndex;
pub use lookup::{Bits, Found};
pub use record::{Enumerators, Members, Type};

/// The most types that are read. Debian's 6.12 has 107,332.
pub const TYPES_MAX: usize = 1 << 20;
/// The most bytes of types or of names. Debian's 6.12 has 4 MB of both together.
pub const SECTION_BYTES_MAX: usize = 64 << 20;

/// `BTF_MAGIC`, little-endian.
const MAGIC: u16 = 0xeb9f;
/// `sizeof(struct btf_header)`; a longer one is fine.
const HEADER_BYTES: usize = 24;

/// Why a kernel's types cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// Not BTF, or of another version or byte order.
    #[error("BTF starts with {0:02x?}, not with 9f eb 01")]
    NotBtf([u8; 3]),
    /// The header promises more than there is.
    #[error("BTF is truncated: {what} ends at byte {end}, there are {bytes}")]
    Truncated {
        /// What is not whole.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// Length of it all.
        bytes: u64,
    },
    /// More types, or more bytes of them, than the limit.
    #[error("BTF has {count} {what}, more than {max}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A kind whose length is not known, so that nothing behind it can be read.
    #[error("BTF type {id} is of the unknown kind {kind}")]
    UnknownKind {
        /// The type's number.
        id: u32,
        /// Its kind.
        kind: u32,
    },
    /// Names that are not text.
    #[error("BTF has names that are not UTF-8")]
    BadNames,
}

/// A type's number; 0 is `void`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId(pub u32);

/// `void`, which has no record.
pub const VOID: TypeId = TypeId(0);

/// What a name may stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `struct`.
    Struct,
    /// `union`.
    Union,
    /// `enum`, also of 64 bits.
    Enum,
    /// `typedef`.
    Typedef,
    /// Integer or float.
    Base,
    /// A variable: per-cpu ones only.
    Variable,
}

/// All types of a kernel.
#[derive(Debug, Clone)]
pub struct Btf {
    /// The type section, in 32-bit words.
    words: Vec<u32>,
    /// Word at which each type starts, from type 1 on.
    starts: Vec<u32>,
    /// The string section.
    names: String,
    by_name: NameIndex,
    /// Of enumerators, numbered by `enumerators`.
    by_enumerator: NameIndex,
    /// Word of each named enumerator, and of the type that it belongs to.
    enumerators: Vec<(u32, TypeId)>,
}

impl Btf {
    /// Reads a whole `.BTF` section.
    ///
    /// # Errors
    /// [`BtfError`]: what is not whole or not known.
    pub fn decode(bytes: &[u8]) -> Result<Self, BtfError> {
        let (types, strings) = sections(bytes)?;
        let names = std::str::from_utf8(strings).map_err(|_| BtfError::BadNames)?.to_owned();
        let words =
            types.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let words: Vec<u32> = words.collect();
        let starts = record::starts(&words)?;
        let mut btf = Self {
            words,
            starts,
            names,
            by_name: NameIndex::default(),
            by_enumerator: NameIndex::default(),
            enumerators: Vec::new(),
        };
        btf.index();
        Ok(btf)
    }

    fn index(&mut self) {
        let named = self.types().filter(|(_, found)| found.kind().is_some());
        let named =
            named.filter_map(|(id, found)| Some((found.name().filter(|name| !name.is_empty())?, id.0)));
        let by_name = NameIndex::new(named);
        let enumerators: Vec<(u32, TypeId)> = self
            .types()
            .filter_map(|(id, found)| match found {
                Type::Enum { values, .. } => Some((id, values)),
                _ => None,
            })
            .flat_map(|(id, values)| values.words().map(move |word| (word, id)))
            .collect();
        let names = enumerators.iter().map(|(word, _)| self.text(self.words[*word as usize]));
        let by_enumerator = NameIndex::new(names.zip(0_u32..));
        (self.by_name, self.by_enumerator, self.enumerators) = (by_name, by_enumerator, enumerators);
    }

    /// How many types there are, `void` not counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no type at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// All types, by number.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, Type<'_>)> {
        (1..=self.starts.len() as u32).filter_map(|id| Some((TypeId(id), self.get(TypeId(id))?)))
    }

    /// The string at an offset; empty where there is none.
    fn text(&self, offset: u32) -> &str {
        let from = self.names.get(offset as usize..).unwrap_or_default();
        let end = memchr::memchr(0, from.as_bytes()).unwrap_or(from.len());
        &from[..end]
    }
}

/// The type section and the string section.
fn sections(bytes: &[u8]) -> Result<(&[u8], &[u8]), BtfError> {
    let whole = |what, end: u64| match end <= bytes.len() as u64 {
        true => Ok(()),
        false => Err(BtfError::Truncated { what, end, bytes: bytes.len() as u64 }),
    };
    whole("the header", HEADER_BYTES as u64)?;
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if u16::from_le_bytes([bytes[0], bytes[1]]) != MAGIC || bytes[2] != 1 {
        return Err(BtfError::NotBtf([bytes[0], bytes[1], bytes[2]]));
    }
    // hdr_len, then type_off, type_len, str_off, str_len; both offsets count from the header's end.
    let header = u64::from(word(4));
    let section = |what, offset: u32, length: u32| {
        let start = header + u64::from(offset);
        let end = start + u64::from(length);
        whole(what, end)?;
        if length as usize > SECTION_BYTES_MAX {
            return Err(BtfError::TooMany { what, count: length as usize, max: SECTION_BYTES_MAX });
        }
        Ok(&bytes[start as usize..end as usize])
    };
    Ok((section("bytes of types", word(8), word(12))?, section("bytes of names", word(16), word(20))?))
}

#[cfg(test)]
mod tests;
