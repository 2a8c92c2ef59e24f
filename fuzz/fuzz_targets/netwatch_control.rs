#![no_main]
//! Any line is a request or a sentence on why it is none.

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    let _ = netwatch::control::parse(line);
});
