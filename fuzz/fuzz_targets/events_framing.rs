//! A stream gives the same messages however it is cut.
#![no_main]

use events::framing::{Deframer, Framing};

fn split(bytes: &[u8], framing: Framing, chunk: usize) -> (Vec<Vec<u8>>, bool) {
    let mut deframer = Deframer::new(framing, 64);
    let mut messages = Vec::new();
    for part in bytes.chunks(chunk) {
        deframer.push(part);
        loop {
            match deframer.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
    }
    messages.extend(deframer.finish());
    (messages, false)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for framing in [Framing::Either, Framing::OctetCounting] {
        assert_eq!(split(bytes, framing, 1), split(bytes, framing, 4096));
    }
});
