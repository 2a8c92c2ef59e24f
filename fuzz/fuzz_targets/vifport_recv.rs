//! A port whose memory the other side has filled with anything: receiving and sending end in a value, never a panic.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use vifport::{Endpoint, FrameMeta, Port, Side};

const FRAMES_MAX: usize = 2048;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let fds = Port::create().expect("a port");
    let memory = File::from(fds.memory.try_clone().expect("a descriptor"));
    let mut switch = Endpoint::attach(fds, Side::Switch).expect("a fresh port");
    // The second page is the ring's words, descriptors follow: the input lies over both.
    memory.write_all_at(&data[..data.len().min(vifport::PORT_BYTES - 4096)], 4096).expect("in the port");
    let mut frame = Vec::new();
    for _ in 0..FRAMES_MAX {
        match switch.recv(&mut frame) {
            Ok(Some(meta)) => assert!(meta.check(frame.len() as u32).is_ok()),
            Ok(None) | Err(_) => break,
        }
    }
    let _ = switch.send(&FrameMeta::default(), &[&frame]);
});
