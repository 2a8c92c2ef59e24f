//! `netstat`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use introspect::walk::sockets::{self, Endpoint, Socket, Sockets};
use introspect::walk::tasks::{STEPS_MAX, Tasks, Threads};
use std::net::IpAddr;

use super::guest::{Guest, guest};

fn list(guest: &Guest) -> Vec<Socket> {
    let tasks = Tasks::of(&guest.symbols).unwrap().list(&guest.view.look(STEPS_MAX), Threads::First);
    let sockets = Sockets::of(&guest.symbols).unwrap();
    let listing = sockets.list(&guest.view.look(sockets::STEPS_MAX), &tasks.items);
    assert_eq!(listing.incomplete, None);
    listing.items
}

/// As `/proc/net/tcp` and its like write an end: words of the address in the machine's order, the port as a number.
fn as_proc(end: Option<Endpoint>) -> String {
    let end = end.unwrap();
    let bytes = match end.address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = bytes.chunks(4).map(|word| format!("{:08X}", u32::from_le_bytes(word.try_into().unwrap())));
    format!("{}:{:04X}", words.collect::<String>(), end.port)
}

const STATES: [&str; 12] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
];

/// Ends, state, queues and inode of each line.
fn said(guest: &mut Guest, protocol: &str) -> BTreeSet<String> {
    let text = guest.run(&format!("cat /proc/net/{protocol}"));
    let lines = text.lines().skip(1).map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let state = STATES[usize::from_str_radix(words[3], 16).unwrap()];
        let state = if state == "CLOSE" { "" } else { state };
        format!("{} {} {state} {} {}", words[1], words[2], words[4], words[9])
    });
    lines.collect()
}

fn seen(guest: &Guest, protocol: &str) -> BTreeSet<String> {
    let sockets = list(guest).into_iter().filter(|socket| socket.protocol == protocol);
    let lines = sockets.map(|socket| {
        let ends = format!("{} {}", as_proc(socket.local), as_proc(socket.remote));
        format!(
            "{ends} {} {:08X}:{:08X} {}",
            socket.state, socket.send_queue, socket.receive_queue, socket.inode
        )
    });
    lines.collect()
}

/// Waits until a listing has it.
#[track_caller]
fn wait_for(guest: &Guest, wanted: impl Fn(&Socket) -> bool) -> Socket {
    let begun = Instant::now();
    loop {
        let sockets = list(guest);
        match sockets.iter().find(|socket| wanted(socket)) {
            Some(socket) => return socket.clone(),
            None => assert!(begun.elapsed() < Duration::from_secs(20), "{sockets:#?}"),
        }
        std::thread::yield_now();
    }
}

#[test]
fn connections_are_those_of_proc() {
    let mut guest = guest();
    guest.run("ifconfig lo 127.0.0.1 up; ip route add 192.0.2.0/24 dev lo; mkfifo /tmp/hold");
    let port = |port| move |socket: &Socket| socket.local.is_some_and(|end| end.port == port);
    let server: u32 = guest.run("nc -l -p 4001 <>/tmp/hold >/dev/null & echo $!").parse().unwrap();
    let listening = wait_for(&guest, port(4001));
    assert_eq!((listening.owners[0].pid, listening.owners[0].comm.as_str()), (server, "nc"));
    assert_eq!((listening.protocol, listening.state), ("tcp6", "LISTEN"));
    guest.run("nc 127.0.0.1 4001 <>/tmp/hold >/dev/null &");
    guest.run("httpd -p 127.0.0.1:4002; ping 127.0.0.1 >/dev/null & tftp -g -r name 192.0.2.1 2>/dev/null &");
    wait_for(&guest, port(4002));
    wait_for(&guest, |socket| socket.protocol == "raw");
    wait_for(&guest, |socket| socket.protocol == "udp");
    wait_for(&guest, |socket| socket.state == "ESTABLISHED" && port(4001)(socket) && socket.inode != 0);
    for protocol in ["tcp", "tcp6", "udp", "udp6", "raw"] {
        // A client may give up between the two looks.
        let begun = Instant::now();
        loop {
            let (said, seen) = (said(&mut guest, protocol), seen(&guest, protocol));
            if said == seen {
                println!("{protocol}: {said:?}");
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "{protocol}: {seen:?} is not {said:?}");
        }
    }
    guest.run("killall nc httpd ping tftp");
}

#[test]
fn a_connection_that_only_waits_has_no_owner() {
    let mut guest = guest();
    guest.run("ifconfig lo 127.0.0.1 up");
    guest.run("nc -l -p 4011 -e /bin/true & echo");
    wait_for(&guest, |socket| socket.local.is_some_and(|end| end.port == 4011));
    guest.run("nc 127.0.0.1 4011 </dev/null");
    let waiting = wait_for(&guest, |socket| socket.state == "TIME_WAIT");
    assert_eq!((waiting.inode, waiting.owners.len()), (0, 0));
    assert!(waiting.protocol.starts_with("tcp"));
}

#[test]
fn unix_sockets_are_those_of_proc() {
    let mut guest = guest();
    guest.run("syslogd -n -O /tmp/messages & echo");
    wait_for(&guest, |socket| socket.path.as_deref() == Some("/dev/log"));
    let text = guest.run("cat /proc/net/unix");
    // Those of the kernel's own threads are in no task's files: their inode is 0, or no process has it.
    let said: BTreeSet<String> = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().skip(6).collect::<Vec<_>>().join(" "))
        .collect();
    let seen: BTreeSet<String> = list(&guest)
        .into_iter()
        .filter(|socket| socket.protocol == "unix")
        .map(|socket| format!("{} {}", socket.inode, socket.path.unwrap_or_default()).trim().to_owned())
        .collect();
    assert_eq!(seen, said);
    guest.run("killall syslogd");
}
