//! Any bytes as the map of a diff: refused, or the same bytes again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(held) = honeyvmm::page_map::decode(bytes) {
        let again = honeyvmm::page_map::decode(&honeyvmm::page_map::encode(&held));
        assert_eq!(again.as_ref(), Ok(&held));
        let run_pages: usize = honeyvmm::dirty::runs(&held, 256).map(|run| run.len()).sum();
        assert_eq!(run_pages, held.count_ones(..));
    }
});
