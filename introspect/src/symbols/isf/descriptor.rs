//! ISF's type descriptors: what a member or a symbol is.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::tags::{self, Tags};
use crate::symbols::btf::{Btf, Members, Type, TypeId};

/// The deepest nesting of pointers and arrays; what is below is written as `void`. The kernel has `char ***`.
const NESTING_MAX: usize = 16;

/// A type, written as a nested descriptor down to the first name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor<'a> {
    btf: &'a Btf,
    tags: &'a Tags,
    id: TypeId,
    nesting: usize,
}

impl<'a> Descriptor<'a> {
    pub fn new(btf: &'a Btf, tags: &'a Tags, id: TypeId) -> Self {
        Self { btf, tags, id, nesting: NESTING_MAX }
    }

    fn below(&self, id: TypeId) -> Self {
        Self { id, nesting: self.nesting.saturating_sub(1), ..*self }
    }
}

impl Serialize for Descriptor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let resolved = self.btf.resolve(self.id).filter(|_| self.nesting > 0);
        let (id, found) = resolved.unwrap_or((self.id, Type::Void));
        let mut map = serializer.serialize_map(None)?;
        let mut named = |kind: &str, name: &str| {
            map.serialize_entry("kind", kind)?;
            map.serialize_entry("name", name)
        };
        match found {
            Type::Int { name, .. } | Type::Float { name, .. } => named("base", name)?,
            Type::Composite { kind, .. } => named(tags::word(kind), self.tags.get(id))?,
            Type::Enum { .. } => named("enum", self.tags.get(id))?,
            // Declared here, defined in another place of the kernel, or nowhere.
            Type::Forward { kind, name } => match self.btf.find(kind, name) {
                Some(id) => named(tags::word(kind), self.tags.get(id))?,
                None => named("base", "void")?,
            },
            Type::Pointer(target) => {
                map.serialize_entry("kind", "pointer")?;
                map.serialize_entry("subtype", &self.below(target))?;
            }
            Type::Array { element, count } => {
                map.serialize_entry("kind", "array")?;
                map.serialize_entry("count", &count)?;
                map.serialize_entry("subtype", &self.below(element))?;
            }
            Type::Function => map.serialize_entry("kind", "function")?,
            Type::Void
            | Type::Typedef { .. }
            | Type::Qualified(_)
            | Type::Variable { .. }
            | Type::Annotation => named("base", "void")?,
        }
        map.end()
    }
}

/// Members as ISF's fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    btf: &'a Btf,
    tags: &'a Tags,
    members: Members<'a>,
}

impl<'a> Fields<'a> {
    pub fn new(btf: &'a Btf, tags: &'a Tags, members: Members<'a>) -> Self {
        Self { btf, tags, members }
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Field<T> {
            #[serde(rename = "type")]
            target: T,
            offset: u64,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            anonymous: bool,
        }
        #[derive(serde::Serialize)]
        struct Bitfield<'a> {
            kind: &'static str,
            bit_position: u32,
            bit_length: u32,
            #[serde(rename = "type")]
            target: Descriptor<'a>,
        }
        let mut map = serializer.serialize_map(None)?;
        for (number, member) in self.members.iter().enumerate() {
            let anonymous = member.name.is_empty();
            let composite = matches!(self.btf.resolve(member.target), Some((_, Type::Composite { .. })));
            // A bitfield without a name only fills.
            if anonymous && !composite {
                continue;
            }
            let target = Descriptor::new(self.btf, self.tags, member.target);
            let numbered = format!("unnamed_field_{number}");
            let name = if anonymous { &numbered } else { member.name };
            match self.btf.place(&member) {
                Some(place) if place.bits.is_some() => {
                    let bits = place.bits.map_or((0, 0), |bits| (bits.shift, bits.count));
                    let target =
                        Bitfield { kind: "bitfield", bit_position: bits.0, bit_length: bits.1, target };
                    map.serialize_entry(name, &Field { target, offset: place.offset, anonymous })?;
                }
                _ => {
                    let offset = u64::from(member.bit_offset / 8);
                    map.serialize_entry(name, &Field { target, offset, anonymous })?;
                }
            }
        }
        map.end()
    }
}
