#![no_main]
//! Arbitrary frames, one after the other, through an inspector with rules of every kind.

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

libfuzzer_sys::fuzz_target!(|frames: Vec<Vec<u8>>| {
    let (set, _) = RuleSet::parse(Path::new("fuzz.rules"), RULES, &Variables::default());
    let mut inspector = Inspector::new(set);
    for (index, frame) in (0_u64..).zip(&frames) {
        inspector.inspect(&Packet::decode(frame, index * 1_000_000), Direction::ToDecoy);
    }
    inspector.expire(u64::MAX);
});
