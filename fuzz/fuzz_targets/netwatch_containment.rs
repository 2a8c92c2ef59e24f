#![no_main]
//! Whatever a decoy sends is judged without panic, and what passes carries its own MAC.

use netwatch::containment::{Identity, check_source};
use netwatch::packet::Layers;

libfuzzer_sys::fuzz_target!(|frame: &[u8]| {
    let mac = [0, 0x16, 0x3e, 0, 0, 1];
    let addresses = vec![[10, 77, 0, 11].into()];
    let identity = Identity { domain: "web".into(), domid: 1, mac, addresses };
    if check_source(&identity, frame, &Layers::decode(frame)).is_ok() {
        assert_eq!(frame.get(6..12), Some(mac.as_slice()));
    }
});
