//! One type's record: `struct btf_type` and what its kind lets follow it.

use super::{Btf, BtfError, Kind, TYPES_MAX, TypeId, VOID};

/// Words of `struct btf_type`: `name_off`, `info`, and `size` or `type`.
const RECORD_WORDS: usize = 3;

// `BTF_KIND_*` of include/uapi/linux/btf.h.
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const FLOAT: u32 = 16;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// A type, unpacked.
#[derive(Debug, Clone, Copy)]
pub enum Type<'a> {
    /// `void`, which has the number 0 and no record.
    Void,
    /// An integer.
    Int {
        /// Its C name.
        name: &'a str,
        /// Size in bytes.
        bytes: u64,
        /// Bits that count; fewer than the size has only in a bitfield of old form.
        bits: u8,
        /// `BTF_INT_SIGNED`, `_CHAR` and `_BOOL` as bits 0, 1 and 2.
        encoding: u8,
    },
    /// A floating-point number.
    Float {
        /// Its C name.
        name: &'a str,
        /// Size in bytes.
        bytes: u64,
    },
    /// A pointer.
    Pointer(TypeId),
    /// An array.
    Array {
        /// What it is made of.
        element: TypeId,
        /// How many; 0 for `[]`.
        count: u32,
    },
    /// A struct or union.
    Composite {
        /// [`Kind::Struct`] or [`Kind::Union`].
        kind: Kind,
        /// Its tag; empty if anonymous.
        name: &'a str,
        /// Size in bytes.
        bytes: u64,
        /// What it has.
        members: Members<'a>,
    },
    /// An enumeration.
    Enum {
        /// Its tag; empty if anonymous.
        name: &'a str,
        /// Size in bytes.
        bytes: u64,
        /// Its constants.
        values: Enumerators<'a>,
    },
    /// A struct or union that is declared only.
    Forward {
        /// [`Kind::Struct`] or [`Kind::Union`].
        kind: Kind,
        /// Its tag.
        name: &'a str,
    },
    /// A typedef.
    Typedef {
        /// The new name.
        name: &'a str,
        /// The old type.
        target: TypeId,
    },
    /// `const`, `volatile`, `restrict`, or a type tag, which means nothing for a layout.
    Qualified(TypeId),
    /// A function or its prototype.
    Function,
    /// A variable.
    Variable {
        /// Its name.
        name: &'a str,
        /// Its type.
        target: TypeId,
    },
    /// A section of variables, or a tag on a declaration.
    Annotation,
}

impl<'a> Type<'a> {
    /// What it can be found by.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Int { .. } | Self::Float { .. } => Some(Kind::Base),
            Self::Composite { kind, .. } => Some(*kind),
            Self::Enum { .. } => Some(Kind::Enum),
            Self::Typedef { .. } => Some(Kind::Typedef),
            Self::Variable { .. } => Some(Kind::Variable),
            Self::Void
            | Self::Pointer(_)
            | Self::Array { .. }
            | Self::Forward { .. }
            | Self::Qualified(_)
            | Self::Function
            | Self::Annotation => None,
        }
    }

    /// Its name, where its kind has one; empty if anonymous.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        match self {
            Self::Int { name, .. }
            | Self::Float { name, .. }
            | Self::Composite { name, .. }
            | Self::Enum { name, .. }
            | Self::Forward { name, .. }
            | Self::Typedef { name, .. }
            | Self::Variable { name, .. } => Some(name),
            Self::Void
            | Self::Pointer(_)
            | Self::Array { .. }
            | Self::Qualified(_)
            | Self::Function
            | Self::Annotation => None,
        }
    }
}

/// Members of a struct or union.
#[derive(Debug, Clone, Copy)]
pub struct Members<'a> {
    btf: &'a Btf,
    words: &'a [u32],
    /// `kind_flag`: the upper eight bits of an offset are a bitfield's width.
    with_width: bool,
}

/// A member as BTF writes it.
#[derive(Debug, Clone, Copy)]
pub struct RawMember<'a> {
    /// Its name; empty if anonymous.
    pub name: &'a str,
    /// Its type.
    pub target: TypeId,
    /// Bits from the struct's start.
    pub bit_offset: u32,
    /// Width, if it is a bitfield.
    pub bit_width: Option<u8>,
}

impl<'a> Members<'a> {
    /// All members, in order.
    pub fn iter(self) -> impl Iterator<Item = RawMember<'a>> {
        self.words.chunks_exact(3).map(move |member| {
            let (bit_offset, width) = match self.with_width {
                true => (member[2] & 0x00ff_ffff, (member[2] >> 24) as u8),
                false => (member[2], 0),
            };
            let bit_width = (width != 0).then_some(width);
            RawMember { name: self.btf.text(member[0]), target: TypeId(member[1]), bit_offset, bit_width }
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        self.words.len() / 3
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.words.is_empty()
    }
}

/// Constants of an enumeration.
#[derive(Debug, Clone, Copy)]
pub struct Enumerators<'a> {
    btf: &'a Btf,
    at: u32,
    words: &'a [u32],
    signed: bool,
    wide: bool,
}

impl<'a> Enumerators<'a> {
    fn words_each(self) -> usize {
        2 + usize::from(self.wide)
    }

    /// Names and values, in order; an unsigned value of 2^63 and more shows as a negative one.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, i64)> {
        self.words.chunks_exact(self.words_each()).map(move |constant| {
            let low = constant[1];
            let value = match constant.get(2) {
                Some(high) => (u64::from(*high) << 32 | u64::from(low)).cast_signed(),
                None if self.signed => i64::from(low.cast_signed()),
                None => i64::from(low),
            };
            (self.btf.text(constant[0]), value)
        })
    }

    /// The word at which each constant starts in the type section.
    pub(super) fn words(self) -> impl Iterator<Item = u32> + use<> {
        let each = self.words_each() as u32;
        (0..self.words.len() as u32 / each).map(move |index| self.at + index * each)
    }

    /// The value of the constant that starts at a word.
    pub(super) fn value_at(self, word: u32) -> Option<i64> {
        let index = word.checked_sub(self.at)? as usize / self.words_each();
        self.iter().nth(index).map(|(_, value)| value)
    }
}

/// Words that follow a record of a kind with `vlen` elements; `None` for an unknown kind.
fn following(kind: u32, vlen: usize) -> Option<usize> {
    Some(match kind {
        PTR | FWD | TYPEDEF | VOLATILE | CONST | RESTRICT | FUNC | FLOAT | TYPE_TAG => 0,
        INT | VAR | DECL_TAG => 1,
        ARRAY => 3,
        STRUCT | UNION | DATASEC | ENUM64 => 3 * vlen,
        ENUM | FUNC_PROTO => 2 * vlen,
        // 0 is void, which has no record; above 19 nothing is defined.
        _ => return None,
    })
}

fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x1f
}

fn vlen_of(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// The word at which each record starts. All of them lie inside.
pub(super) fn starts(words: &[u32]) -> Result<Vec<u32>, BtfError> {
    let mut starts = Vec::with_capacity(words.len() / 8);
    let mut at = 0;
    while at < words.len() {
        if starts.len() == TYPES_MAX {
            return Err(BtfError::TooMany { what: "types", count: starts.len() + 1, max: TYPES_MAX });
        }
        let id = starts.len() as u32 + 1;
        let info = words.get(at + 1).copied().unwrap_or(0);
        let known = following(kind_of(info), vlen_of(info));
        let end = at + RECORD_WORDS + known.ok_or(BtfError::UnknownKind { id, kind: kind_of(info) })?;
        if end > words.len() {
            let (end, bytes) = (4 * end as u64, 4 * words.len() as u64);
            return Err(BtfError::Truncated { what: "the last type", end, bytes });
        }
        starts.push(at as u32);
        at = end;
    }
    Ok(starts)
}

impl Btf {
    /// The type of a number; `None` if there is none.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Option<Type<'_>> {
        if id == VOID {
            return Some(Type::Void);
        }
        let at = *self.starts.get(id.0 as usize - 1)? as usize;
        let [name, info, size] = *self.words.get(at..)?.first_chunk()?;
        let more = at + RECORD_WORDS;
        let more = self.words.get(more..more + following(kind_of(info), vlen_of(info))?)?;
        let name = self.text(name);
        let flag = info >> 31 != 0;
        let (target, bytes) = (TypeId(size), u64::from(size));
        Some(match kind_of(info) {
            // The word's bits 16 to 23 are an offset that compilers leave at 0.
            INT => Type::Int { name, bytes, bits: more[0] as u8, encoding: (more[0] >> 24 & 0xf) as u8 },
            FLOAT => Type::Float { name, bytes },
            PTR => Type::Pointer(target),
            ARRAY => Type::Array { element: TypeId(more[0]), count: more[2] },
            kind @ (STRUCT | UNION) => {
                let kind = if kind == STRUCT { Kind::Struct } else { Kind::Union };
                let members = Members { btf: self, words: more, with_width: flag };
                Type::Composite { kind, name, bytes, members }
            }
            kind @ (ENUM | ENUM64) => {
                let at = (at + RECORD_WORDS) as u32;
                let values = Enumerators { btf: self, at, words: more, signed: flag, wide: kind == ENUM64 };
                Type::Enum { name, bytes, values }
            }
            FWD => Type::Forward { kind: if flag { Kind::Union } else { Kind::Struct }, name },
            TYPEDEF => Type::Typedef { name, target },
            VOLATILE | CONST | RESTRICT | TYPE_TAG => Type::Qualified(target),
            FUNC | FUNC_PROTO => Type::Function,
            VAR => Type::Variable { name, target },
            DATASEC | DECL_TAG => Type::Annotation,
            // `starts` refused all others.
            _ => return None,
        })
    }
}
