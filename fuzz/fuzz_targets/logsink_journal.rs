//! Any bytes are read as a segment without a panic, and what is read is chained to what was before.
#![no_main]

use logsink::journal::record::SegmentReader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mut reader) = SegmentReader::new(bytes) else { return };
    while let Ok(Some(record)) = reader.next_record() {
        assert!(record.index >= reader.header().first_index);
        assert!(reader.offset() <= bytes.len() as u64);
    }
});
