//! Where a kernel keeps the state of its random number generator (drivers/char/random.c since 5.18), for who clones a running machine: two
//! clones must not give the same random bytes.
//!
//! What user space keeps is not known here: libraries that seed a generator of their own go on with it until they ask the kernel again.

use std::ops::Range;

use honeyvmm::memory::Gva;

use super::Symbols;
use super::btf::{Btf, Kind, Type, TypeId};

/// Why the state cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RandomStateError {
    /// A symbol is missing, as before 5.18.
    #[error("the kernel has no symbol {0}, so its random state is not known")]
    Symbol(&'static str),
    /// No type of the kernel has the members that the variable must have.
    #[error("the kernel's random state {0} is not laid out as in linux 5.18 to 6.12")]
    Layout(&'static str),
}

/// Variable, members that only its type has, and those of them that are to be renewed. The key gives all that comes next; another generation has each
/// processor take a new key at its next use, and throw away what it had drawn ahead; the pool's hash is what later keys are made of.
const STATES: [(&str, &[&str], &[&str]); 2] = [
    ("base_crng", &["key", "birth", "generation", "lock"], &["key", "generation"]),
    ("input_pool", &["hash", "lock", "init_bits"], &["hash.h"]),
];

impl Symbols {
    /// The bytes that make up what the kernel will give as random, by kernel address. Random bytes over them are as good as any.
    ///
    /// # Errors
    /// [`RandomStateError`], also for a kernel without types.
    pub fn random_state(&self) -> Result<Vec<Range<Gva>>, RandomStateError> {
        let mut ranges = Vec::new();
        for (variable, members, renewed) in STATES {
            let at = self.address(variable).ok_or(RandomStateError::Symbol(variable))?;
            let wrong = RandomStateError::Layout(variable);
            let btf = self.layouts().map_err(|_| wrong)?;
            let found = anonymous_struct(btf, members).ok_or(wrong)?;
            for path in renewed {
                let member = btf.member(found, path).filter(|member| member.bytes > 0).ok_or(wrong)?;
                let start = at.0 + member.offset;
                ranges.push(Gva(start)..Gva(start + member.bytes));
            }
        }
        Ok(ranges)
    }
}

/// The anonymous struct with exactly these members: types of variables have no name to be found by.
fn anonymous_struct(btf: &Btf, members: &[&str]) -> Option<TypeId> {
    let is_it = |found: &Type<'_>| match found {
        Type::Composite { kind: Kind::Struct, name: "", members: has, .. } => {
            has.iter().map(|member| member.name).eq(members.iter().copied())
        }
        _ => false,
    };
    btf.types().find(|(_, found)| is_it(found)).map(|(id, _)| id)
}
