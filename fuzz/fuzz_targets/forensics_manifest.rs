#![no_main]
//! Any bytes as a manifest, and as a custody log: what is accepted is written back byte for byte.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = forensics::Manifest::parse(bytes) {
        assert_eq!(manifest.to_bytes(), bytes);
    }
    let _ = forensics::custody::parse(bytes);
});
