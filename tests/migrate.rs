//! Live migration between two honeynets on two hosts: what moves, what lives on, and that exactly one of both runs (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use util::guest::Guest;
use util::hosts::Hosts;
use util::{Honeynet, kill, row_when, told, wait_for};

const DECOY: &str = "10.77.0.10";
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Memory and files that are written all the time, each with its sum beside it.
const BUSY: &str = "mkdir -p /m /d; mount -t tmpfs none /m; mke2fs -q /dev/xvda 2>/dev/null || mkfs.ext2 /dev/xvda >/dev/null; mount /dev/xvda /d; \
 dd if=/dev/urandom of=/m/pattern bs=1M count=16 2>/dev/null; sha256sum /m/pattern > /m/sum; \
 (i=0; while [ ! -e /m/stop ]; do i=$((i+1)); for d in /m /d; do head -c 100000 /dev/urandom > $d/f.new; \
  sha256sum < $d/f.new > $d/s.new; mv $d/f.new $d/f.$((i%8)); mv $d/s.new $d/s.$((i%8)); done; echo $i > /m/count; done) >/dev/null 2>&1 &";
/// Stops that between two files, and says how many are not as their sums say.
const CHECK: &str = "touch /m/stop; wait; sha256sum -c /m/sum; bad=0; for d in /m /d; do for i in 0 1 2 3 4 5 6 7; do \
 [ \"$(sha256sum < $d/f.$i)\" = \"$(cat $d/s.$i)\" ] || bad=$((bad+1)); done; done; echo bad $bad count $(cat /m/count); sync; umount /d; echo unmounted";

/// A domain with a disk and a network, whose server on port 7777 counts, line by line, without being asked.
fn counting(honeynet: &Honeynet) -> Guest {
    honeynet.write("d.img", vec![0; 32 << 20]);
    let mut guest =
        Guest::create(honeynet, "d", &format!("disk=['d.img,,xvda,w']\nhn_layer=1\nvif=['ip={DECOY}']"));
    guest.run(&format!("ip addr add {DECOY}/24 dev eth0; ip link set eth0 up; ip link set lo up"));
    guest.run(
        "(i=0; while true; do i=$((i+1)); echo $i; usleep 20000; done | nc -l -p 7777) >/dev/null 2>&1 &",
    );
    guest
}

/// A client of that server; it hears the first line before this answers.
fn client(hosts: &Hosts) -> BufReader<TcpStream> {
    let connect = || TcpStream::connect((DECOY, 7777)).ok();
    let stream = hosts.attack(|| wait_for("a connection", connect));
    stream.set_read_timeout(Some(SILENCE_MAX)).unwrap();
    let mut reader = BufReader::new(stream);
    next(&mut reader);
    reader
}

#[track_caller]
fn next(reader: &mut BufReader<TcpStream>) -> u64 {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim().parse().unwrap_or_else(|_| panic!("{line:?}"))
}

/// So many lines come, none twice and none missing.
#[track_caller]
fn counts_on(reader: &mut BufReader<TcpStream>, lines: u64) {
    let first = next(reader);
    for number in 1..lines {
        assert_eq!(next(reader), first + number);
    }
}

fn state_of(honeynet: &Honeynet, name: &str) -> Option<String> {
    let rows = honeynet.run(&["list", "--json"]).good().json();
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name)?.clone();
    Some(row["state"].as_str().unwrap().to_owned())
}

#[track_caller]
fn whole(guest: &mut Guest) {
    let said = guest.run(CHECK);
    assert!(
        said.contains("/m/pattern: OK") && said.contains("bad 0 ") && said.contains("unmounted"),
        "{said}"
    );
}

#[test]
fn a_domain_moves_there_and_back_and_its_connections_live_on() {
    let hosts = Hosts::new();
    let honeynets = hosts.honeynets();
    let [a, b] = &honeynets;
    let mut guest = counting(a);
    guest.run(BUSY);
    b.start_supervisor();
    let mut reader = client(&hosts);
    let mut uptime = 0.0;
    for (from, to, name) in [(a, b, "b"), (b, a, "a")] {
        let moved = from.run(&["migrate", "d", name, "--json"]).good().json();
        println!("{moved}");
        counts_on(&mut reader, 50);
        assert_eq!(state_of(from, "d"), None);
        guest = guest.go_on(to, "d");
        let now: f64 = guest.run("cut -d' ' -f1 /proc/uptime").trim().parse().unwrap();
        assert!(now > uptime && now < uptime + 300.0, "{uptime} then {now}");
        uptime = now;
        assert!(told(from, "domain.migrated", name) && told(to, "domain.migrated", "d"));
        assert!(!to.path("state/incoming").read_dir().is_ok_and(|mut left| left.next().is_some()));
        let anew = from.run(&["create", "d.cfg"]);
        assert!(anew.code != 0, "{anew:?}");
    }
    whole(&mut guest);
}
