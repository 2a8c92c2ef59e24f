#![no_main]
//! Any bytes as a baseline, with a seal that holds so that the lines behind it are reached.

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let mut sealed = body.to_vec();
    sealed.push(b'\n');
    let seal = blake3::hash(&sealed);
    sealed.extend(format!("{{\"seal\":\"{seal}\"}}\n").bytes());
    if let Ok(baseline) = fim::Baseline::parse(&sealed) {
        let again =
            fim::Baseline::parse(&baseline.to_bytes()).expect("what was parsed can be written and read");
        assert_eq!(baseline, again);
    }
});
