//! Types of a kernel are read without a panic or an endless walk, and so is every question to them.
#![no_main]

use introspect::symbols::btf::{Btf, Type};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(btf) = Btf::decode(bytes) else { return };
    for (id, found) in btf.types().take(4096) {
        let _ = (btf.bytes_of(id), btf.resolve(id), found.name());
        let _ = btf.member(id, "a.b.c");
        match found {
            Type::Composite { members, .. } => members.iter().for_each(|member| drop(btf.place(&member))),
            Type::Enum { values, .. } => values.iter().for_each(|(name, _)| drop(btf.enumerator(name))),
            _ => {}
        }
    }
});
