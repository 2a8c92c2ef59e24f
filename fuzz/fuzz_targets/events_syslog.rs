//! Any bytes are some syslog message, and none stops us.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let message = events::syslog::parse(bytes, 2026);
    assert!(message.msg.len() <= 3 * bytes.len());
    let _ = events::wire::parse(bytes);
    let _ = events::wire::parse_ack(bytes);
});
