#![no_main]
//! Any bytes as a LiME header at any offset.

libfuzzer_sys::fuzz_target!(|input: ([u8; 32], u64)| {
    let _ = forensics::lime::parse_header(&input.0, input.1);
});
