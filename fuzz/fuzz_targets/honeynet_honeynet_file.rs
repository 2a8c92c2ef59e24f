//! honeynet.toml: any text is read or refused, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = honeynet::honeynet_file::parse(text);
});
