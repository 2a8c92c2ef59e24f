//! A name for each struct, union and enumeration, since ISF refers to them by name alone.

use std::collections::{HashMap, HashSet};

use crate::symbols::btf::{Btf, Kind, Type, TypeId};

/// Names by type, each borne once.
#[derive(Debug)]
pub(super) struct Tags {
    names: HashMap<TypeId, String>,
}

/// The keyword of a kind.
pub(super) fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Union => "union",
        Kind::Enum => "enum",
        Kind::Struct | Kind::Typedef | Kind::Base | Kind::Variable => "struct",
    }
}

impl Tags {
    /// Its own tag, where no type before has it; else that of a typedef of it; else a number.
    pub fn of(btf: &Btf) -> Self {
        let mut names = HashMap::new();
        let mut taken = HashSet::new();
        // Structs before unions, and tags before typedefs: what C code means by a name comes first.
        for wanted in [Kind::Struct, Kind::Union, Kind::Enum] {
            for (id, name) in btf.types().filter_map(|(id, found)| Some((id, tag(&found, wanted)?))) {
                if !name.is_empty() && taken.insert((wanted == Kind::Enum, name)) {
                    names.insert(id, name.to_owned());
                }
            }
        }
        for (_, found) in btf.types() {
            let Type::Typedef { name, target } = found else { continue };
            let is_enum = match btf.get(target) {
                Some(Type::Composite { name: "", .. }) => false,
                Some(Type::Enum { name: "", .. }) => true,
                _ => continue,
            };
            if !names.contains_key(&target) && taken.insert((is_enum, name)) {
                names.insert(target, name.to_owned());
            }
        }
        for (id, found) in btf.types() {
            let (Type::Composite { name, .. } | Type::Enum { name, .. }) = found else { continue };
            let numbered =
                || if name.is_empty() { format!("unnamed_{}", id.0) } else { format!("{name}__{}", id.0) };
            names.entry(id).or_insert_with(numbered);
        }
        Self { names }
    }

    /// The name of a struct, union or enumeration.
    pub fn get(&self, id: TypeId) -> &str {
        self.names.get(&id).map_or("void", String::as_str)
    }
}

fn tag<'a>(found: &Type<'a>, wanted: Kind) -> Option<&'a str> {
    match found {
        Type::Composite { kind, name, .. } if *kind == wanted => Some(name),
        Type::Enum { name, .. } if wanted == Kind::Enum => Some(name),
        _ => None,
    }
}
