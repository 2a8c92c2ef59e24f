//! What a guest may have written to its trace: records are parsed, joined and printed without a panic, and what servers tell each other is read.
#![no_main]

use introspect::session::privsep::Stream;
use introspect::trace::pairing::Pairing;
use introspect::trace::record::{self, HEAD_BYTES};
use introspect::trace::strace;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut pairing = Pairing::default();
    let mut stream = Stream::default();
    let mut rest = bytes;
    while rest.len() >= HEAD_BYTES {
        // A length that fits, for no chance would find one: what is behind the head is the input's own.
        let length = HEAD_BYTES + usize::from(rest[0]) % 64 * 8;
        let Some((one, after)) = rest.split_at_checked(length) else { break };
        let mut one = one.to_vec();
        one[..4].copy_from_slice(&(length as u32).to_le_bytes());
        one[4] = 1 + (one[4] & 1);
        if let Ok(record) = record::parse(&one) {
            for chunk in &record.chunks {
                stream.take(&chunk.bytes);
            }
            if let Some(call) = pairing.take(record) {
                let _ = (strace::line(&call), strace::json(&call));
            }
        }
        rest = after;
    }
    let _ = record::parse(bytes);
});
