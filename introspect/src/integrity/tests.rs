//! Memory that a hostile guest has prepared, and the kernel's real layouts: every check ends, with findings or with error values.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use decoys::progress::Silent;
use honeyvmm::kernel_image::KernelImage;
use honeyvmm::shim::Entries;

use super::finding::FINDINGS_MAX;
use super::{Inputs, Integrity};
use crate::symbols::Symbols;
use crate::view::tests::{Memory, linear};

/// Takes the reference and checks twice, all of it in memory made of such words.
fn check_all(mut word: impl FnMut(u64) -> u64) {
    let home = std::env::var_os("HOME").unwrap();
    let kernel = decoys::kernel::fetch(&Path::new(&home).join(".cache/honeynet"), &Silent).unwrap();
    let vmlinux = std::fs::read(kernel.vmlinux).unwrap();
    let image = KernelImage::parse(&vmlinux).unwrap();
    let symbols = Arc::new(Symbols::of_kernel(&image).unwrap());
    let memory = Memory::of_words(&symbols, &mut word);
    let mut integrity = Integrity::new(symbols, &image).unwrap();
    let (callers, explained) = (HashSet::new(), HashSet::new());
    let entries = [Entries::default()];
    let inputs = Inputs { entries: &entries, vcpus: 1, callers: &callers, explained: &explained };
    let taken = integrity.reference(&memory.view, &inputs);
    assert!(!taken.findings.is_empty() && taken.findings.len() <= FINDINGS_MAX);
    for _ in 0..2 {
        let checked = integrity.check(&memory.view, &inputs);
        assert!(!checked.findings.is_empty() && checked.findings.len() <= FINDINGS_MAX);
        assert!(!checked.incomplete.is_empty());
    }
}

#[test]
fn memory_of_one_byte_is_checked_to_an_end() {
    for byte in [0x41u8, 0xcc, 0xff] {
        check_all(|_| u64::from_ne_bytes([byte; 8]));
    }
}

#[test]
fn memory_full_of_pointers_into_itself_is_checked_to_an_end() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    check_all(|ram_bytes| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        linear((state % ram_bytes) & !0xff)
    });
}
