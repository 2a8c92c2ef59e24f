#![no_main]
//! Any text as a policy: what is accepted can be asked about any path.

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    if let Ok(policy) = fim::Policy::parse("fuzz", input.0) {
        let _ = policy.attributes(input.1);
    }
});
