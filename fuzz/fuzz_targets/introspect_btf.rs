//! Types of a kernel are read without a panic or an endless walk, and so is every question to them.
#![no_main]

use introspect::symbols::btf::{Btf, Type};

/// A header that fits, before what the input says: no chance would find all its lengths.
fn section(types: &[u8], names: &[u8]) -> Vec<u8> {
    let words = [0x0001_eb9f, 24, 0, types.len() as u32, types.len() as u32, names.len() as u32];
    let header = words.iter().flat_map(|word| word.to_le_bytes());
    header.chain(types.iter().chain(names).copied()).collect()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = Btf::decode(bytes);
    let Some((&[low, high], rest)) = bytes.split_first_chunk() else { return };
    let (types, names) = rest.split_at(rest.len().min(4 * usize::from(u16::from_le_bytes([low, high]))));
    let Ok(btf) = Btf::decode(&section(types, names)) else { return };
    for (id, found) in btf.types().take(256) {
        let _ = (btf.bytes_of(id), btf.resolve(id), found.name());
        let _ = btf.member(id, "a.b.c");
        match found {
            Type::Composite { members, .. } => {
                for member in members.iter().take(256) {
                    let _ = (btf.place(&member), btf.member(id, member.name));
                }
            }
            Type::Enum { values, .. } => {
                for (name, _) in values.iter().take(256) {
                    assert!(btf.enumerator(name).is_some());
                }
            }
            _ => {}
        }
    }
});
