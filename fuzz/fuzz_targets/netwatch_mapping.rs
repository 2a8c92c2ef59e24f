#![no_main]
//! Any frame with any offload fields is rewritten without panic, there and back, and says the same but for addresses and
//! checksums.

use netwatch::mapping::{Mapping, Station};
use netwatch::packet::Layers;
use vifport::FrameMeta;

const MAPPING: Mapping = Mapping {
    inner: Station { mac: [0, 0x16, 0x3e, 0, 0, 1], address: std::net::Ipv4Addr::new(10, 77, 0, 20) },
    outer: Station { mac: [0, 0x16, 0x3e, 0, 0, 2], address: std::net::Ipv4Addr::new(10, 77, 0, 121) },
};

libfuzzer_sys::fuzz_target!(|input: (u16, u16, u16, Vec<u8>)| {
    let (flags, csum_start, csum_offset, mut frame) = input;
    let meta = FrameMeta { flags, csum_start, csum_offset, ..FrameMeta::default() };
    let said = |frame: &[u8]| {
        let layers = Layers::decode(frame);
        // An unfinished checksum may be anywhere, also where it changes what is read; those frames are only not to panic.
        (frame.len(), (flags & 1 == 0).then(|| (layers.ether_type, layers.ports(), layers.payload, layers.malformed)))
    };
    let before = said(&frame);
    MAPPING.outward(&mut frame, &meta);
    assert_eq!(said(&frame), before);
    MAPPING.inward(&mut frame, &meta);
    assert_eq!(said(&frame), before);
});
