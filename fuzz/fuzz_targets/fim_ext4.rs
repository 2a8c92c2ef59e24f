#![no_main]
//! Any bytes as a disk: an error or a scan, never a panic, never without end.

use std::io::Cursor;

libfuzzer_sys::fuzz_target!(|disk: &[u8]| {
    let policy = fim::Policy::parse("all", "/ R+diff").expect("a policy of one rule");
    let limits = fim::Limits { files_max: 10_000, total_bytes_max: 1 << 20, ..fim::Limits::default() };
    let _ = fim::scan(&policy, Cursor::new(disk), &limits, &mut |_| {});
});
