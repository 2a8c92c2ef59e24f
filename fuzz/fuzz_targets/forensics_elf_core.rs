#![no_main]
//! Any bytes as a core's headers, and as its notes.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(core) = forensics::elf_core::parse(bytes, bytes.len() as u64) {
        assert!(
            core.segments.iter().all(|segment| segment.file_offset + segment.bytes <= bytes.len() as u64)
        );
    }
    let _ = forensics::elf_core::parse_notes(bytes);
    let _ = forensics::vmcoreinfo::parse(bytes);
});
