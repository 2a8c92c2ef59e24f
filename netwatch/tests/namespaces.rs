//! Real Linux stacks talk through the switch: an attacker in a network namespace of its own, joined by a veth pair, and a
//! decoy in another, whose TAP is bridged to a vif port. Needs root and iproute2. Everything is removed at the end, also
//! after a failure.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panic; clippy knows only #[test] functions as tests"
)]

mod house;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use house::{DECOY, GATEWAY, House, INTRUDER};
use netwatch::netns;

const PATIENCE: Duration = Duration::from_secs(10);

fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    netns::within(name, work).unwrap()
}

/// A service in the decoy that sends back what it gets, on a thread.
fn echo_service(house: &House, port: u16) {
    let listener = within(&house.decoy_netns, || TcpListener::bind((DECOY, port)).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut bytes = vec![0; 65536];
                while let Ok(len @ 1..) = client.read(&mut bytes) {
                    if client.write_all(&bytes[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

fn connect(netns: &str, to: (&str, u16)) -> std::io::Result<TcpStream> {
    let address = format!("{}:{}", to.0, to.1).parse().unwrap();
    within(netns, || TcpStream::connect_timeout(&address, PATIENCE))
}

/// Sends `len` bytes and reads them back; true if they are the same.
fn round_trip(stream: &TcpStream, len: usize) -> bool {
    let sent: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| (&*stream).write_all(&sent).unwrap());
        let mut got = vec![0; len];
        (&*stream).read_exact(&mut got).is_ok() && got == sent
    })
}

#[test]
fn an_intruder_reaches_the_decoy_and_megabytes_come_back_whole() {
    let house = House::build("a");
    echo_service(&house, 22);
    let stream = connect(&house.intruder_netns, (DECOY, 22)).unwrap();
    assert!(round_trip(&stream, 8 << 20));
    assert_eq!(stream.peer_addr().unwrap().to_string(), format!("{DECOY}:22"));
    drop(stream);
    let captured = house.captured_packets();
    assert!(captured.iter().any(|frame| frame.len() > 10_000), "no offload frame came through whole");
}

#[test]
fn the_relay_joins_the_hosts_loopback_with_the_decoy() {
    let house = House::build("b");
    echo_service(&house, 22);
    let stream = TcpStream::connect(house.published).unwrap();
    assert!(round_trip(&stream, 1 << 20));
    let event = house.wait_for_event("relay.accepted", |_| true);
    assert_eq!(event["relay"]["client_port"], stream.local_addr().unwrap().port());
    assert_eq!(event["src_ip"], GATEWAY);
    assert_eq!(event["dest_ip"], DECOY);
}

#[test]
fn what_the_decoy_begins_is_refused_and_its_syslog_arrives() {
    let house = House::build("c");
    let loghost = within(&house.netns, || TcpListener::bind((GATEWAY, 601)).unwrap());
    let secret = within(&house.netns, || TcpListener::bind((GATEWAY, 80)).unwrap());
    let outside = within(&house.intruder_netns, || UdpSocket::bind((INTRUDER, 53)).unwrap());
    outside.set_nonblocking(true).unwrap();

    within(&house.decoy_netns, || {
        let socket = UdpSocket::bind((DECOY, 0)).unwrap();
        socket.send_to(b"exfiltrated", (INTRUDER, 53)).unwrap();
    });
    // The decoy's stack also talks to groups that nobody asked it to; those refusals are not what is looked for.
    let event = house.wait_for_event("containment.verdict", |event| event["dest_ip"] == INTRUDER);
    assert_eq!(event["containment"]["reason"], "not-a-reply");
    assert_eq!(event["dest_port"], 53);
    assert_eq!(event["domain"], "web");

    let refused = format!("{GATEWAY}:80").parse().unwrap();
    let attempt =
        within(&house.decoy_netns, || TcpStream::connect_timeout(&refused, Duration::from_millis(1500)));
    assert!(attempt.is_err());
    secret.set_nonblocking(true).unwrap();
    assert!(secret.accept().is_err());

    let mut log = connect(&house.decoy_netns, (GATEWAY, 601)).unwrap();
    log.write_all(b"<13>1 - - - - - - hello\n").unwrap();
    drop(log);
    let mut line = String::new();
    loghost.accept().unwrap().0.read_to_string(&mut line).unwrap();
    assert!(line.contains("hello"));
    // The log came after the datagram, by the same way: had that been let go, it would be here.
    assert!(outside.recv_from(&mut [0; 64]).is_err());
}

#[test]
fn a_rule_that_matches_is_an_alert_with_the_intruders_address() {
    let house = House::build("g");
    echo_service(&house, 22);
    let mut stream = connect(&house.intruder_netns, (DECOY, 22)).unwrap();
    stream.write_all(b"a marker-7731 in the stream").unwrap();
    let event = house.wait_for_event("alert.rule", |_| true);
    assert_eq!(event["alert"]["signature_id"], 1_000_001);
    assert_eq!((event["src_ip"].as_str(), event["dest_ip"].as_str()), (Some(INTRUDER), Some(DECOY)));
    assert!(event["community_id"].as_str().unwrap().starts_with("1:"));
}

#[test]
fn ping_is_answered() {
    let house = House::build("d");
    // An unprivileged ICMP socket of the kernel's own: no ping program needed.
    let answered = within(&house.intruder_netns, || house::ping(DECOY));
    assert!(answered);
}

#[test]
fn a_removed_port_is_silent_and_a_new_one_takes_its_place() {
    let mut house = House::build("e");
    echo_service(&house, 22);
    assert!(round_trip(&connect(&house.intruder_netns, (DECOY, 22)).unwrap(), 1000));
    let answer = house.ask(r#"{"op":"remove-port","domid":3}"#);
    assert_eq!(answer["ok"]["removed"], 1);
    let address = format!("{DECOY}:22").parse().unwrap();
    let attempt =
        within(&house.intruder_netns, || TcpStream::connect_timeout(&address, Duration::from_millis(300)));
    assert!(attempt.is_err());
    house.plug_decoy_in();
    assert!(round_trip(&connect(&house.intruder_netns, (DECOY, 22)).unwrap(), 1000));
    let stats = house.ask(r#"{"op":"stats"}"#);
    let ports = stats["ok"]["ports"].as_array().unwrap();
    assert_eq!(ports.iter().filter(|port| port["kind"] == "vif").count(), 1);
}

#[test]
fn a_lying_port_is_thrown_out_and_the_rest_goes_on() {
    let mut house = House::build("f");
    echo_service(&house, 22);
    house.plug_liar_in();
    let event = house.wait_for_event("domain.violation", |_| true);
    assert_eq!(event["domid"], 4);
    assert!(round_trip(&connect(&house.intruder_netns, (DECOY, 22)).unwrap(), 1000));
    let started = Instant::now();
    let stats = house.ask(r#"{"op":"stats"}"#);
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(stats["ok"]["ports"].as_array().unwrap().len(), 3);
}
