//! The xenstore protocol's parser: any bytes, in any pieces.
#![no_main]

use honeyvmm::xenstore::wire::Message;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((message, taken))) = Message::parse(rest) {
        assert_eq!(message.encode(), rest[..taken]);
        let _ = message.strings();
        let _ = message.string_and_rest();
        rest = &rest[taken..];
    }
});
