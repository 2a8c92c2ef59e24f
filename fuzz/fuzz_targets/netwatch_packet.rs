#![no_main]
//! Any frame decodes without panic, and its payload lies inside the frame.

use netwatch::packet::Packet;

libfuzzer_sys::fuzz_target!(|frame: &[u8]| {
    let packet = Packet::decode(frame, 0);
    assert!(packet.layers.payload.end <= frame.len());
    assert!(packet.payload().len() <= frame.len());
});
