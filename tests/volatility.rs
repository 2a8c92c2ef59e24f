//! A case in the hands of a stranger: stock Volatility 3 opens a running domain's memory with nothing but what lies in the case.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use util::Honeynet;
use util::guest::Guest;

/// Stock Volatility, installed where it is missing.
fn vol() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/volatility");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// The rows of a plugin, run in the case's folder.
fn rows(case: &Path, arguments: &[&str], plugin: &str) -> Vec<Value> {
    let cache = tempfile::tempdir().unwrap();
    let mut command = Command::new(vol());
    command.current_dir(case).env("HOME", cache.path()).env("XDG_CACHE_HOME", cache.path());
    command.args(["--offline", "-q", "-r", "json"]).args(arguments).arg(plugin);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{command:?}: {why}: {error}"))
}

fn has(rows: &[Value], column: &str, value: &str) -> bool {
    rows.iter().any(|row| row[column] == value)
}

#[test]
fn volatility_shows_what_ran_in_a_case() {
    let honeynet = Honeynet::new("");
    let mut guest = Guest::create(&honeynet, "a", "");
    // The shell has forked before it says so; only then does the child become another program.
    guest.run("sleep 4321 & until grep sleep /proc/$!/comm; do :; done");
    let answer = honeynet.run(&["pull", "a", "--json"]).good().json();
    let case = PathBuf::from(answer["folder"].as_str().unwrap());
    honeynet.run(&["verify", case.to_str().unwrap()]).good();
    let manifest = forensics::case::read_manifest(&case).unwrap();
    let isf = manifest.items.iter().find(|item| item.name.starts_with("linux-")).unwrap();
    assert_eq!(manifest.notes, [] as [String; 0]);

    // Pinned by the case's configuration, and left to look by itself.
    let pinned = ["-c", "volatility.json"];
    let processes = rows(&case, &pinned, "linux.pslist.PsList");
    assert!(has(&processes, "COMM", "sleep") && has(&processes, "COMM", "kthreadd"), "{processes:?}");
    let symbols = tempfile::tempdir().unwrap();
    std::fs::copy(case.join(&isf.name), symbols.path().join(&isf.name)).unwrap();
    let searched = ["-s", symbols.path().to_str().unwrap(), "-f", "memory.lime"];
    assert_eq!(rows(&case, &searched, "linux.pslist.PsList"), processes);
    let modules = rows(&case, &pinned, "linux.lsmod.Lsmod");
    assert!(has(&modules, "Module Name", "xen_blkfront"), "{modules:?}");
    let calls = rows(&case, &pinned, "linux.malware.check_syscall.Check_syscall");
    assert!(has(&calls, "Handler Symbol", "__x64_sys_execve"), "{} calls", calls.len());
    a_snapshot_shows_the_same(&honeynet);
}

/// Of a snapshot Volatility lists the processes that we list of a domain that stands where it was taken.
fn a_snapshot_shows_the_same(honeynet: &Honeynet) {
    let taken = honeynet.run(&["snapshot", "a", "--json"]).good().json();
    let id = format!("a/{}", taken["id"].as_str().unwrap());
    let case = honeynet.run(&["pull", &id, "--json"]).good().json();
    let case = PathBuf::from(case["folder"].as_str().unwrap());
    honeynet.run(&["verify", case.to_str().unwrap()]).good();
    honeynet.run(&["restore", &id, "--name", "b", "-p"]).good();
    let pair = |row: &Value, pid: &str, comm: &str| {
        (row[pid].as_u64().unwrap(), row[comm].as_str().unwrap().to_owned())
    };
    let listed = honeynet.run(&["ps", "b", "--json"]).good().json();
    let ours: BTreeSet<_> =
        listed["processes"].as_array().unwrap().iter().map(|row| pair(row, "tgid", "comm")).collect();
    let theirs = rows(&case, &["-c", "volatility.json"], "linux.pslist.PsList");
    let theirs: BTreeSet<_> = theirs.iter().map(|row| pair(row, "PID", "COMM")).collect();
    assert!(ours.len() > 10 && ours.iter().any(|(_, comm)| comm == "sleep"), "{ours:?}");
    assert_eq!(ours, theirs);
}
