//! A pool under the load of many attackers, while its processes are killed: each attacker has a machine of his own, and in the end nothing is left.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use honeyvmm::disk::LayerReader;
use serde_json::Value;

use crate::dice::Dice;
use crate::util::guest::{give_images, recipes_folder};
use crate::util::{Honeynet, wait_for};

const POOL: &str = "10.77.0.20";
/// Attackers that log in at the same time.
const AT_ONCE: usize = 3;
/// All of them live at the same time, if they are no more than this.
const CLONES_MAX: u32 = 400;
/// Each logs in so often, and tries so often where something that he needs is killed.
const LOGINS: u32 = 2;
const TRIES_MAX: u32 = 60;

/// What a honeynet has of the host.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    processes: usize,
    namespaces: usize,
    devices: usize,
    groups: usize,
    shared_mib: u64,
}

impl Taken {
    fn now(honeynet: &Honeynet) -> Taken {
        let state = honeynet.path("state").canonicalize().unwrap();
        // Each has its log, or the supervisor's, as its standard error.
        let is_ours = |pid: &str| {
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let log = std::fs::read_link(format!("/proc/{pid}/fd/2")).unwrap_or_default();
            exe.ends_with("honeynet") && log.starts_with(&state)
        };
        let names = |folder: &str| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
        let shared = memory.lines().find_map(|line| line.strip_prefix("Shmem:")).unwrap();
        let shared: u64 = shared.trim().trim_end_matches(" kB").parse().unwrap();
        Taken {
            processes: names("/proc").iter().filter(|pid| is_ours(pid)).count(),
            namespaces: names("/run/netns").iter().filter(|name| **name == honeynet.namespace).count(),
            devices: names("/sys/class/net").len(),
            groups: ["/sys/fs/cgroup/memory/honeynet", "/sys/fs/cgroup/honeynet"]
                .into_iter()
                .flat_map(names)
                .filter(|name| name.contains("-farm-"))
                .count(),
            shared_mib: shared >> 10,
        }
    }
}

fn farm(clones: u32) -> Honeynet {
    let honeynet = Honeynet::new("subnet = \"10.77.0.0/16\"\n");
    let text = std::fs::read_to_string(honeynet.path("honeynet.toml")).unwrap();
    let pool = format!(
        "[[decoy]]\nname = \"farm\"\nrecipe = \"ssh-server\"\naddress = \"{POOL}\"\n\
         [decoy.pool]\nclones = {clones}\nparked = 1\nper_minute = 6000\nidle = \"1h\"\n"
    );
    honeynet.write("honeynet.toml", format!("recipes = {:?}\n{text}{pool}", recipes_folder()));
    give_images(&honeynet, &["ssh-server"]);
    honeynet
}

fn attacker(number: u32) -> String {
    format!("10.77.{}.{}", 1 + number / 200, 1 + number % 200)
}

fn within(honeynet: &Honeynet, words: &[&str]) -> Output {
    Command::new("ip").args(["netns", "exec", &honeynet.namespace]).args(words).output().unwrap()
}

/// Logs in and does something that only his own machine remembers; none where the machine was killed meanwhile.
fn log_in(honeynet: &Honeynet, from: &str) -> Option<String> {
    let target = format!("admin@{POOL}");
    let command = format!(
        "cat /tmp/mark 2>/dev/null; echo {from} > /tmp/mark; head -c 300000 /dev/urandom | sha256sum > /dev/null"
    );
    let mut words = vec!["timeout", "20", "sshpass", "-p", "admin123", "ssh", "-b", from];
    words.extend([
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=ERROR",
    ]);
    words.extend(["-o", "ConnectTimeout=8", &target, &command]);
    let output = within(honeynet, &words);
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

fn pid_of(rows: &Value, name: impl Fn(&str) -> bool) -> Option<i64> {
    let row = rows.as_array()?.iter().find(|row| row["name"].as_str().is_some_and(&name))?;
    row["pid"].as_i64()
}

fn kill(pid: i64) {
    // It may have gone by itself.
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return };
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Brings it up, also after its supervisor was killed; attackers have their addresses again.
fn up(honeynet: &Honeynet, attackers: u32) {
    honeynet.run(&["up"]).good();
    for number in 0..attackers {
        let address = format!("{}/32", attacker(number));
        let added = within(honeynet, &["ip", "address", "replace", &address, "dev", "hn-tap"]);
        assert!(added.status.success(), "{added:?}");
    }
    wait_for("a parked clone", || {
        let pools = honeynet.run(&["pools", "--json"]).good().json();
        pools[0]["parked"].as_u64().filter(|parked| *parked > 0)
    });
}

/// One process of the honeynet, each kind in its turn.
fn kill_something(honeynet: &Honeynet, turn: u32, dice: &mut Dice, attackers: u32) {
    let rows = honeynet.run(&["list", "--json"]);
    if rows.code != 0 {
        return;
    }
    match turn % 8 {
        3 => {
            let info = honeynet.run(&["info", "--json"]).good().json();
            println!("the supervisor is killed");
            kill(info["pid"].as_i64().unwrap());
            wait_for("its end", || (honeynet.run(&["list"]).code != 0).then_some(()));
            up(honeynet, attackers);
        }
        1 => {
            println!("netwatch is killed");
            let before = honeynet.service_pid("netwatch", None);
            kill(before);
            honeynet.service_pid("netwatch", Some(before));
        }
        2 => {
            println!("a clone is killed while a snapshot is taken of it");
            let rows = rows.json();
            let is_clone = |name: &str| name.starts_with("farm-") && name != "farm-golden";
            let Some(pid) = pid_of(&rows, is_clone) else { return };
            let row = rows.as_array().unwrap().iter().find(|row| row["pid"] == pid).unwrap();
            let name = row["name"].as_str().unwrap().to_owned();
            let delay = dice.milliseconds(60);
            std::thread::scope(|scope| {
                scope.spawn(|| honeynet.run(&["snapshot", &name]));
                std::thread::sleep(delay);
                kill(pid);
            });
        }
        _ => {
            println!("a clone is killed");
            if let Some(pid) = pid_of(&rows.json(), |name| name.starts_with("farm-") && name != "farm-golden")
            {
                kill(pid);
            }
        }
    }
}

#[test]
fn nothing_is_left_and_nobody_meets_another() {
    let _alone = crate::alone();
    let (mut dice, attackers) = (Dice::new(), crate::rounds(4));
    let honeynet = farm(attackers.clamp(2, CLONES_MAX));
    let before = Taken::now(&honeynet);
    up(&honeynet, attackers);
    let (next, came, failed) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let done = AtomicBool::new(false);
    let (met, shut_out) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let attack = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= attackers {
                    return;
                }
                let from = attacker(number);
                let mut logins = 0;
                for _ in 0..TRIES_MAX {
                    match log_in(&honeynet, &from) {
                        // Nobody was there before, or he himself.
                        Some(mark) if mark.is_empty() || mark == from => {
                            came.fetch_add(1, Ordering::Relaxed);
                            logins += 1;
                        }
                        Some(mark) => met.lock().unwrap().push((from.clone(), mark)),
                        None => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(Duration::from_millis(500));
                        }
                    }
                    if logins == LOGINS {
                        break;
                    }
                }
                if logins < LOGINS {
                    shut_out.lock().unwrap().push(from);
                }
            }
        };
        let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(attack)).collect();
        scope.spawn(|| {
            let (mut seen, mut turn) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(dice.milliseconds(900));
                // Not before somebody has got in since the last time.
                if came.load(Ordering::Relaxed) > seen {
                    seen = came.load(Ordering::Relaxed);
                    kill_something(&honeynet, turn, &mut dice, attackers);
                    turn += 1;
                }
            }
        });
        for thread in all {
            thread.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let failed = failed.into_inner();
    println!("{attackers} attackers, {} logins, {failed} tries were broken off", came.into_inner());
    assert!(met.into_inner().unwrap().is_empty(), "two met in one machine");
    assert_eq!(shut_out.into_inner().unwrap(), [] as [String; 0], "who did not come in in the end");
    for row in honeynet.run(&["snapshots", "--json"]).good().json().as_array().unwrap() {
        let id = format!("{}/{}", row["domain"].as_str().unwrap(), row["id"].as_str().unwrap());
        honeynet.run(&["snapshot-verify", &id]).good();
    }
    let pools = honeynet.run(&["pools", "--json"]).good().json();
    println!("{} clones are taken at the end", pools[0]["taken"]);
    honeynet.run(&["down"]).good();
    let after = wait_for("the end of all of it", || {
        let after = Taken::now(&honeynet);
        (after.processes == before.processes).then_some(after)
    });
    println!("before {before:?}\nafter  {after:?}");
    // Other programs of this host share memory too; a domain that was forgotten would have 256 MiB.
    let near = after.shared_mib.abs_diff(before.shared_mib) < 100;
    assert!(near && after == Taken { shared_mib: after.shared_mib, ..before }, "{after:?}");
    // A clone whose process was killed is gone; the disk that somebody wrote to is evidence, and nothing else stays.
    for name in names_of(&honeynet.path("state/domains")).iter().filter(|name| *name != "farm-golden") {
        let layer = File::open(honeynet.path(&format!("state/domains/{name}/xvda.layer"))).unwrap();
        assert!(!LayerReader::open(layer).unwrap().held().unwrap().is_clear(), "{name} has nothing to keep");
    }
    let run = names_of(&honeynet.path("state/run"));
    assert!(run.iter().all(|name| !name.ends_with(".new")), "{run:?}");
    for domain in names_of(&honeynet.path("state/snapshots")) {
        let unfinished = names_of(&honeynet.path("state/snapshots").join(&domain));
        assert!(unfinished.iter().all(|name| !name.ends_with(".new")), "{domain}: {unfinished:?}");
    }
}

fn names_of(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
