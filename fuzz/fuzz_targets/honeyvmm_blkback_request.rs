//! A block ring entry of any bytes is a request with an id, never a panic.
#![no_main]

use honeyvmm::blkback::{REQUEST_BYTES, Request};

libfuzzer_sys::fuzz_target!(|entry: [u8; REQUEST_BYTES]| {
    let request = Request::parse(&entry);
    assert_eq!(request.id.to_le_bytes(), entry[8..16]);
});
