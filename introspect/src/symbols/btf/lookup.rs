//! Questions to the types: by name, by path, how large.

use super::record::RawMember;
use super::{Btf, Kind, Type, TypeId};

/// The most typedefs, qualifiers and array dimensions that are followed from a type to what it is.
const CHAIN_MAX: usize = 32;
/// The deepest nesting of anonymous structs and unions that is searched. Linux has up to four.
const NESTING_MAX: usize = 16;
/// The most members, all anonymous ones together, that are looked at for one name. `task_struct` has 260.
const MEMBERS_MAX: usize = 1 << 16;
/// The largest storage unit of a bitfield, in bytes: `__int128`.
const UNIT_BYTES_MAX: u64 = 16;
/// The most parts of a dotted path.
const PATH_PARTS_MAX: usize = 16;
/// Bytes of a pointer.
const POINTER_BYTES: u64 = 8;

/// Bits of a bitfield inside its storage unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits {
    /// Bits above the unit's lowest one.
    pub shift: u32,
    /// How many.
    pub count: u32,
}

/// A member that a path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Bytes from the outer struct's start; of a bitfield, to its storage unit.
    pub offset: u64,
    /// Size in bytes; of a bitfield, of its storage unit. 0 for `[]`.
    pub bytes: u64,
    /// Where it is a bitfield.
    pub bits: Option<Bits>,
    /// Its type.
    pub target: TypeId,
}

impl Btf {
    /// The type of a name and kind; the first one, where there are more.
    #[must_use]
    pub fn find(&self, kind: Kind, name: &str) -> Option<TypeId> {
        let name_of = |id| self.get(TypeId(id)).and_then(|found| found.name());
        let mut alike = self.by_name.find(name, name_of).map(TypeId);
        alike.find(|id| self.get(*id).and_then(|found| found.kind()) == Some(kind))
    }

    /// The type that C code means by a name: a struct, else a union, a typedef, an enum, a base type.
    #[must_use]
    pub fn find_type(&self, name: &str) -> Option<TypeId> {
        let kinds = [Kind::Struct, Kind::Union, Kind::Typedef, Kind::Enum, Kind::Base];
        kinds.into_iter().find_map(|kind| self.find(kind, name))
    }

    /// What is behind typedefs, qualifiers and variables.
    #[must_use]
    pub fn resolve(&self, mut id: TypeId) -> Option<(TypeId, Type<'_>)> {
        for _ in 0..CHAIN_MAX {
            match self.get(id)? {
                Type::Typedef { target, .. } | Type::Qualified(target) | Type::Variable { target, .. } => {
                    id = target;
                }
                found => return Some((id, found)),
            }
        }
        None
    }

    /// Size of a type in bytes; `None` for functions, `void` and what is only declared.
    #[must_use]
    pub fn bytes_of(&self, mut id: TypeId) -> Option<u64> {
        let mut count = 1_u64;
        for _ in 0..CHAIN_MAX {
            let bytes = match self.resolve(id)?.1 {
                Type::Array { element, count: elements } => {
                    count = count.checked_mul(u64::from(elements))?;
                    id = element;
                    continue;
                }
                Type::Int { bytes, .. }
                | Type::Float { bytes, .. }
                | Type::Composite { bytes, .. }
                | Type::Enum { bytes, .. } => bytes,
                Type::Pointer(_) => POINTER_BYTES,
                Type::Void
                | Type::Forward { .. }
                | Type::Typedef { .. }
                | Type::Qualified(_)
                | Type::Function
                | Type::Variable { .. }
                | Type::Annotation => return None,
            };
            return bytes.checked_mul(count);
        }
        None
    }

    /// The member that a dotted path leads to, through structs that are embedded, never through a pointer. Members of anonymous
    /// structs and unions are found as if they were the outer one's, as in C.
    #[must_use]
    pub fn member(&self, outer: TypeId, path: &str) -> Option<Found> {
        let mut found: Option<Found> = None;
        for (part, name) in path.split('.').enumerate() {
            if part == PATH_PARTS_MAX {
                return None;
            }
            if name.is_empty() {
                return None;
            }
            let outer = found.map_or(outer, |found| found.target);
            let inner = self.named_member(outer, name, NESTING_MAX, &mut { MEMBERS_MAX })?;
            let offset = found.map_or(0, |found| found.offset).checked_add(inner.offset)?;
            found = Some(Found { offset, ..inner });
        }
        found
    }

    fn named_member(&self, outer: TypeId, name: &str, nesting: usize, budget: &mut usize) -> Option<Found> {
        let (_, Type::Composite { members, .. }) = self.resolve(outer)? else { return None };
        *budget = budget.checked_sub(members.len())?;
        if let Some(member) = members.iter().find(|member| member.name == name) {
            return self.place(&member);
        }
        let nesting = nesting.checked_sub(1)?;
        members.iter().filter(|member| member.name.is_empty()).find_map(|member| {
            let inner = self.named_member(member.target, name, nesting, budget)?;
            Some(Found { offset: inner.offset.checked_add(u64::from(member.bit_offset / 8))?, ..inner })
        })
    }

    /// Where a member lies.
    #[must_use]
    pub fn place(&self, member: &RawMember<'_>) -> Option<Found> {
        let bytes = self.bytes_of(member.target)?;
        let start = u64::from(member.bit_offset);
        let Some(count) = self.width(member) else {
            return Some(Found { offset: start / 8, bytes, bits: None, target: member.target });
        };
        // The unit is the aligned one of the declared type, as compilers access it; packed structs may cross it, and start at a byte.
        if !(1..=UNIT_BYTES_MAX).contains(&bytes) {
            return None;
        }
        let aligned = start / 8 / bytes * bytes;
        let crosses = start + u64::from(count) > (aligned + bytes) * 8;
        let offset = if crosses { start / 8 } else { aligned };
        let bits = Bits { shift: (start - offset * 8) as u32, count: u32::from(count) };
        Some(Found { offset, bytes, bits: Some(bits), target: member.target })
    }

    /// Width of a bitfield: written beside its offset, or, before kind_flag, an integer's own.
    fn width(&self, member: &RawMember<'_>) -> Option<u8> {
        match self.resolve(member.target)?.1 {
            Type::Int { bits, bytes, .. } if member.bit_width.is_none() => {
                (u64::from(bits) < bytes * 8 || !member.bit_offset.is_multiple_of(8)).then_some(bits)
            }
            _ => member.bit_width,
        }
    }

    /// The value of an enumeration's constant; of the first one, where there are more.
    #[must_use]
    pub fn enumerator(&self, name: &str) -> Option<i64> {
        let name_of = |number: u32| {
            let (word, _) = self.enumerators.get(number as usize)?;
            Some(self.text(*self.words.get(*word as usize)?))
        };
        let number = self.by_enumerator.find(name, name_of).next()?;
        let (word, id) = self.enumerators.get(number as usize)?;
        match self.get(*id)? {
            Type::Enum { values, .. } => values.value_at(*word),
            _ => None,
        }
    }
}
