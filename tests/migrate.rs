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

use util::busy;
use util::guest::Guest;
use util::hosts::Hosts;
use util::{Honeynet, kill, told, wait_for};

const DECOY: &str = "10.77.0.10";
const SILENCE_MAX: Duration = Duration::from_secs(20);
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

#[test]
fn a_domain_moves_there_and_back_and_its_connections_live_on() {
    let hosts = Hosts::new();
    let honeynets = hosts.honeynets();
    let [a, b] = &honeynets;
    let mut guest = counting(a);
    busy::start(&mut guest, 16);
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
    busy::stop_and_check(&mut guest);
}

/// Which of the two has the domain, once one of them alone has it and lets it run.
#[track_caller]
fn where_it_runs(honeynets: &[Honeynet; 2]) -> usize {
    wait_for("the one place where it runs", || {
        let states = honeynets.each_ref().map(|honeynet| state_of(honeynet, "d"));
        let runs = |state: &Option<String>| state.as_ref().is_some_and(|state| !state.contains(['p', 'd']));
        assert!(!(runs(&states[0]) && runs(&states[1])), "it runs twice: {states:?}");
        match states {
            [Some(_), None] if runs(&states[0]) => Some(0),
            [None, Some(_)] if runs(&states[1]) => Some(1),
            _ => None,
        }
    })
}

/// How a migration is disturbed.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// Whoever asked for it goes.
    Asker,
    /// The carrier of this honeynet is killed.
    Carrier(usize),
    /// The hosts do not reach each other for a while.
    Wire,
}

/// Processes of this role below a honeynet's supervisor.
fn children(honeynet: &Honeynet, role: &str) -> Vec<i64> {
    let supervisor = honeynet.run(&["info", "--json"]).good().json()["pid"].as_i64().unwrap();
    let tasks = std::fs::read_dir(format!("/proc/{supervisor}/task")).unwrap().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i64> = children
        .flat_map(|text| text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    let is = |pid: &i64| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(role))
    };
    pids.into_iter().filter(is).collect()
}

fn disturb(hosts: &Hosts, honeynets: &[Honeynet; 2], trouble: Trouble, asker: &mut Child) {
    match trouble {
        Trouble::Asker => asker.kill().unwrap(),
        Trouble::Carrier(index) => {
            for pid in children(&honeynets[index], "carrier") {
                // It may have ended by itself.
                let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        Trouble::Wire => {
            hosts.cut(true);
            std::thread::sleep(Duration::from_secs(1));
            hosts.cut(false);
        }
    }
}

/// Moments of each kind of trouble.
const ROUNDS: u64 = 3;

#[test]
fn exactly_one_runs_whatever_breaks_and_whenever() {
    let hosts = Hosts::new();
    let honeynets = hosts.honeynets();
    let mut guest = counting(&honeynets[0]);
    busy::start(&mut guest, 16);
    honeynets[1].start_supervisor();
    let (mut at, mut moved) = (0, 0);
    for round in 0..ROUNDS {
        for (kind, trouble) in
            (0..).zip([Trouble::Asker, Trouble::Carrier(0), Trouble::Carrier(1), Trouble::Wire])
        {
            // Within the time that it takes, and a little beyond; never at the same moment twice.
            let moment = Duration::from_millis(20 + (round * 4 * 97 + kind * 31) % 700);
            let (from, to) = (&honeynets[at], ["a", "b"][1 - at]);
            let mut asker = from.command();
            asker.current_dir(from.path(".")).args(["--state", "state", "migrate", "d", to]);
            let mut asker = asker.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(moment);
            disturb(&hosts, &honeynets, trouble, &mut asker);
            let status = asker.wait().unwrap();
            let now = where_it_runs(&honeynets);
            println!(
                "{trouble:?} after {moment:?}: {} ({status})",
                if now == at { "stayed" } else { "moved" }
            );
            assert!(!status.success() || now != at, "it was said to have moved");
            if now != at {
                moved += 1;
                guest = guest.go_on(&honeynets[now], "d");
            }
            at = now;
        }
    }
    println!("moved {moved} times");
    guest.run("true");
    busy::stop_and_check(&mut guest);
}

#[test]
fn a_peer_that_dies_takes_nothing_with_it() {
    let hosts = Hosts::new();
    let honeynets = hosts.honeynets();
    let [a, b] = &honeynets;
    let mut guest = counting(a);
    busy::start(&mut guest, 16);
    for moment in [60, 250] {
        b.start_supervisor();
        let supervisor = b.run(&["info", "--json"]).good().json()["pid"].as_i64().unwrap();
        let mut asker = a.command();
        asker.current_dir(a.path(".")).args(["--state", "state", "migrate", "d", "b"]);
        let asker = asker.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment));
        kill(supervisor);
        let output = asker.wait_with_output().unwrap();
        if output.status.success() {
            // It had moved, and was killed with the host that it was on; the first host does not begin it again.
            assert_eq!(state_of(a, "d"), None);
            a.run(&["create", "d.cfg"]).fails_with("has moved to honeynet b");
            return;
        }
        b.start_supervisor();
        assert_eq!(where_it_runs(&honeynets), 0, "{output:?}");
    }
    busy::stop_and_check(&mut guest);
}

#[test]
fn what_cannot_move_is_refused_in_one_sentence_and_runs_on() {
    let hosts = Hosts::new();
    let [a, b] = hosts.honeynets();
    let mut guest = counting(&a);
    let refused = |words: &[&str], part: &str| {
        a.run(words).fails_with(part);
        assert!(state_of(&a, "d").is_some_and(|state| !state.contains('p')), "{words:?}");
    };
    refused(&["migrate", "d", "nobody"], "there is no [[migration.peer]] named nobody in the honeynet file");
    refused(&["migrate", "d", "b"], "honeynet b cannot be reached at 192.0.2.2:8002");
    a.run(&["migrate", "ghost", "b"]).fails(3, "there is no domain ghost");
    let other = Guest::create(&b, "d", &format!("vif=['ip={DECOY}']"));
    refused(&["migrate", "d", "b"], "honeynet b refuses: its name d is taken");
    drop(other);
    b.run(&["destroy", "d"]).good();
    drop(Guest::create(&b, "e", &format!("vif=['ip={DECOY}']")));
    refused(&["migrate", "d", "b"], &format!("its address {DECOY} is taken"));
    // A peer that the other one does not know.
    b.run(&["down"]).good();
    let text = std::fs::read_to_string(b.path("honeynet.toml")).unwrap();
    let at = text.find("fingerprint = ").unwrap();
    b.write("honeynet.toml", format!("{}fingerprint = \"{}\"\n", &text[..at], "0".repeat(64)));
    b.start_supervisor();
    refused(&["migrate", "d", "b"], "honeynet b");
    assert_eq!(guest.run("echo here"), "here");
    assert!(told(&a, "migration.failed", "refuses"));
}

/// The attacker's host reaches this address.
fn answers(hosts: &Hosts, address: &str) {
    let ping =
        || Command::new("ping").args(["-c", "1", "-W", "1", address]).output().unwrap().status.success();
    hosts.attack(|| wait_for("an answer", || ping().then_some(())));
}

#[test]
fn a_paused_domain_stays_paused_and_a_clone_keeps_its_address() {
    let hosts = Hosts::new();
    let [a, b] = hosts.honeynets();
    let mut guest = counting(&a);
    guest.run("echo held > /held; echo disk | dd of=/dev/xvda bs=512 conv=sync,fsync 2>/dev/null");
    let commands = guest.commands();
    let taken = a.run(&["snapshot", "d", "--json"]).good().json();
    let clones = a.run(&["clone", taken["id"].as_str().unwrap(), "--name", "c", "--json"]).good().json();
    let address = clones[0]["address"].as_str().unwrap().to_owned();
    answers(&hosts, &address);
    b.start_supervisor();
    a.run(&["migrate", "c", "b"]).good();
    assert!(!a.path("state/domains/c").exists(), "a clone leaves nothing");
    let row = b.run(&["list", "c", "--json"]).good().json()[0].clone();
    assert_eq!(row["address"], address.as_str(), "{row}");
    // Its layer and the frozen ones below it are one now.
    let mut clone = Guest::take_up(&b, "c", commands);
    assert_eq!(clone.run("cat /held; head -c 4 /dev/xvda"), "held\ndisk");
    answers(&hosts, &address);
    a.run(&["pause", "d"]).good();
    a.run(&["migrate", "d", "b"]).good();
    assert_eq!(state_of(&b, "d").as_deref(), Some("--p---"));
    b.run(&["unpause", "d"]).good();
    let mut guest = guest.go_on(&b, "d");
    assert_eq!(guest.run("cat /held"), "held");
}
