#![no_main]
//! Arbitrary frames and arbitrary TCP of one IPv4 host, one after the other, through an inspector with rules of every kind.

use std::cell::RefCell;
use std::path::Path;

use netwatch::inspector::{Inspector, RuleSet, Variables};
use netwatch::packet::{Direction, Packet};

const RULES: &str = r#"
alert tcp any any -> any any (flow:established; content:"GET"; http_method; uricontent:"/a"; pcre:"/b+/U"; sid:1;)
alert tcp any any -> any any (content:"ab"; byte_test:2,>,1,0,relative; byte_jump:1,0,relative,align; isdataat:1,relative; sid:2;)
alert udp any any -> any any (content:!"x"; offset:1; depth:3; byte_jump:4,0,string,dec; sid:3;)
alert ip any any -> any any (ipopts:any; ttl:<5; sid:4;)
alert icmp any any -> any any (itype:8; icode:0; icmp_id:>1; threshold:type both, track by_src, count 2, seconds 1; sid:5;)
alert tcp any any -> any any (flags:S+; seq:!0; window:>1; detection_filter:track by_dst, count 1, seconds 1; sid:6;)
"#;

/// Ethernet and IPv4 in front of TCP; the length is filled in.
const HEADERS: [u8; 34] = [
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, // Ethernet
    0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 77, 0, 11, // IPv4
];

thread_local! {
    // Parsing the rules takes a hundred times as long as an input. Flows do not outlive one; the counts of thresholds do.
    static INSPECTOR: RefCell<Inspector> = {
        let (set, _) = RuleSet::parse(Path::new("fuzz.rules"), RULES, &Variables::default());
        RefCell::new(Inspector::new(set))
    };
}

fn frame(is_tcp: bool, bytes: Vec<u8>) -> Vec<u8> {
    if !is_tcp {
        return bytes;
    }
    let mut frame = [&HEADERS[..], &bytes].concat();
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    frame
}

libfuzzer_sys::fuzz_target!(|frames: Vec<(bool, Vec<u8>)>| {
    INSPECTOR.with_borrow_mut(|inspector| {
        for (index, (is_tcp, bytes)) in (0_u64..).zip(frames) {
            let frame = frame(is_tcp, bytes);
            inspector.inspect(&Packet::decode(&frame, index * 1_000_000), Direction::ToDecoy);
        }
        inspector.expire(u64::MAX);
    });
});
