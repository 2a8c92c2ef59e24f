//! Snapshots of running domains: every byte of one moment, chains of diffs, and what is refused (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use honeyvmm::disk::{Below, View};
use serde_json::Value;
use util::busy;
use util::guest::Guest;
use util::{Honeynet, row_when};

/// A guest with a disk of its own layer.
fn guest(honeynet: &Honeynet, keys: &str) -> Guest {
    honeynet.write("d.img", vec![0; 32 << 20]);
    Guest::create(honeynet, "a", &format!("disk=['d.img,,xvda,w']\nhn_layer=1\n{keys}"))
}

fn snapshot(honeynet: &Honeynet, name: &str, more: &[&str]) -> Value {
    let words = [&["snapshot", name, "--json"], more].concat();
    honeynet.run(&words).good().json()
}

fn id(taken: &Value) -> &str {
    taken["id"].as_str().unwrap()
}

fn folder(honeynet: &Honeynet, domain: &str, id: &str) -> PathBuf {
    honeynet.path(&format!("state/snapshots/{domain}/{id}"))
}

fn destroy(honeynet: &Honeynet, name: &str) {
    honeynet.run(&["destroy", name]).good();
    assert!(row_when(honeynet, name, |row| row.is_none()).is_none());
}

/// e2fsck finds nothing to do on the disk of a snapshot whose guest had unmounted it.
fn check_file_system(honeynet: &Honeynet, folder: &Path, layers: &[PathBuf]) {
    let layers = layers.iter().map(|path| File::open(path).unwrap()).collect();
    let below = Below::new(File::open(honeynet.path("d.img")).unwrap(), layers).unwrap();
    let raw = folder.join("disk.raw");
    std::io::copy(&mut View::new(below, None).unwrap(), &mut File::create(&raw).unwrap()).unwrap();
    let checked = Command::new("e2fsck").arg("-fn").arg(&raw).output().unwrap();
    std::fs::remove_file(raw).unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

/// Changes one byte of a file, or changes it back.
fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_busy_guest_goes_on_from_every_snapshot_with_every_byte() {
    let honeynet = Honeynet::new("");
    let mut guest = guest(&honeynet, "vcpus=2");
    busy::start(&mut guest, 16);
    let commands = guest.commands();
    let mut taken = Vec::new();
    for (round, diff) in [false, true, true, false, true].into_iter().enumerate() {
        std::thread::sleep(Duration::from_millis(400 + 130 * round as u64));
        let one = snapshot(&honeynet, "a", if diff { &["--diff", "--reason", "a test"] } else { &[] });
        assert_eq!(one["kind"], if diff { "diff" } else { "full" });
        assert!(one["pause_ms"].as_f64().unwrap() < 500.0, "{one}");
        taken.push(one);
    }
    // Who was copied all the time has noticed nothing.
    let last = busy::stop_and_check(&mut guest);
    drop(guest);
    destroy(&honeynet, "a");
    let rows = honeynet.run(&["snapshots", "a", "--json"]).good().json();
    assert_eq!(rows.as_array().unwrap().len(), taken.len());
    assert_eq!((&rows[2]["parent"], &rows[2]["reason"]), (&taken[1]["id"], &"a test".into()));
    assert!(rows[1]["bytes"].as_u64() < rows[0]["bytes"].as_u64(), "{rows}");
    let mut count = 0;
    for one in &taken {
        honeynet.run(&["snapshot-verify", id(one)]).good();
        honeynet.run(&["restore", id(one), "--name", "b"]).good();
        let mut guest = Guest::take_up(&honeynet, "b", commands);
        let now = busy::stop_and_check(&mut guest);
        assert!(now >= count && now <= last + 1, "{count} {now} {last}");
        count = now;
        // A diff against what it went on from, with the disk at rest.
        let rest = snapshot(&honeynet, "b", &["--diff"]);
        assert_eq!(rest["kind"], "diff");
        drop(guest);
        destroy(&honeynet, "b");
        honeynet.run(&["restore", id(&rest), "--verify", "--name", "c"]).good();
        let mut guest = Guest::take_up(&honeynet, "c", commands + 1);
        assert_eq!(guest.run("sha256sum -c /m/sum"), "/m/pattern: OK");
        drop(guest);
        let below: Vec<PathBuf> =
            serde_json::from_slice(&std::fs::read(honeynet.path("state/domains/c/xvda.below")).unwrap())
                .unwrap();
        check_file_system(&honeynet, &honeynet.path("."), &below);
        destroy(&honeynet, "c");
    }
}

#[test]
fn what_a_device_writes_to_memory_is_in_a_diff() {
    let honeynet = Honeynet::new("");
    // Else the guest writes each page that it gives to a device first.
    let mut guest = guest(&honeynet, "extra='console=hvc0 quiet init_on_alloc=0'");
    guest.run(
        "mkdir /d; mke2fs -q /dev/xvda 2>/dev/null || mkfs.ext2 /dev/xvda >/dev/null; mount /dev/xvda /d; \
         head -c 8000000 /dev/urandom > /d/one; sha256sum /d/one > /sum; sync; echo 3 > /proc/sys/vm/drop_caches",
    );
    snapshot(&honeynet, "a", &[]);
    // The backend fills pages that the guest itself does not write.
    guest.run("cat /d/one > /dev/null");
    let commands = guest.commands();
    let diff = snapshot(&honeynet, "a", &["--diff"]);
    let rows = honeynet.run(&["snapshots", "a", "--json"]).good().json();
    assert!(rows[1]["bytes"].as_u64() > Some(8_000_000), "{rows}");
    drop(guest);
    destroy(&honeynet, "a");
    honeynet.run(&["restore", id(&diff)]).good();
    let mut guest = Guest::take_up(&honeynet, "a", commands);
    // They are in its page cache, and are not read again.
    assert_eq!(guest.run("sha256sum -c /sum"), "/d/one: OK");
}

#[test]
fn a_chain_is_compacted_and_nothing_that_is_needed_goes() {
    let honeynet = Honeynet::new("");
    let mut guest = guest(&honeynet, "");
    guest.run("mkdir /m; mount -t tmpfs none /m; dd if=/dev/urandom of=/m/one bs=1M count=2 2>/dev/null; sha256sum /m/one > /m/sum");
    let full = snapshot(&honeynet, "a", &[]);
    guest.run("dd if=/dev/urandom of=/m/two bs=1M count=2 2>/dev/null; sha256sum /m/two >> /m/sum; echo two | dd of=/dev/xvda bs=512 conv=fsync");
    let commands = guest.commands();
    let first = snapshot(&honeynet, "a", &["--diff"]);
    guest.run("echo three | dd of=/dev/xvda bs=512 seek=64 conv=fsync");
    let second = snapshot(&honeynet, "a", &["--diff"]);
    drop(guest);
    destroy(&honeynet, "a");
    honeynet
        .run(&["snapshot-compact", id(&full)])
        .fails(1, &format!("snapshot {} is full already", id(&full)));
    honeynet.run(&["snapshot-remove", id(&first)]).fails_with(&format!("is needed by a/{}", id(&second)));
    honeynet.run(&["snapshot-compact", id(&first)]).good();
    // The middle one is full now, and the last one still lies over it.
    honeynet.run(&["snapshot-remove", id(&full)]).good();
    honeynet.run(&["snapshot-verify", id(&second)]).good();
    honeynet.run(&["snapshot-verify", id(&full)]).fails(3, &format!("there is no snapshot {}", id(&full)));
    honeynet.run(&["restore", &format!("a/{}", id(&second))]).good();
    let busy = honeynet.run(&["snapshot-remove", id(&second)]);
    assert!(
        busy.code == 1 && (busy.stderr.contains("in use") || busy.stderr.contains("domain a")),
        "{busy:?}"
    );
    honeynet.run(&["snapshot-compact", id(&second)]).fails_with("is in use");
    let mut guest = Guest::take_up(&honeynet, "a", commands + 1);
    assert_eq!(guest.run("sha256sum -c /m/sum"), "/m/one: OK\n/m/two: OK");
    let disk = "head -c 3 /dev/xvda; dd if=/dev/xvda bs=512 skip=64 count=1 2>/dev/null | head -c 5";
    assert_eq!(guest.run(disk), "twothree");
}

#[test]
fn a_domain_is_copied_as_often_as_one_likes_booted_or_restored() {
    let honeynet = Honeynet::new("");
    let mut guest = guest(&honeynet, "");
    let commands = guest.commands();
    let first = snapshot(&honeynet, "a", &[]);
    honeynet.run(&["restore", id(&first), "--name", "b"]).good();
    let mut restored = Guest::take_up(&honeynet, "b", commands);
    for round in 0..2 {
        for (name, kind) in [("a", "full"), ("b", "full"), ("a", "diff"), ("b", "diff")] {
            let diff: &[&str] = if kind == "diff" { &["--diff"] } else { &[] };
            assert_eq!(snapshot(&honeynet, name, diff)["kind"], kind, "{round} {name}");
            honeynet.run(&["pull", name]).good();
        }
    }
    // One that is paused stays so.
    honeynet.run(&["pause", "b"]).good();
    snapshot(&honeynet, "b", &["--diff"]);
    honeynet.run(&["pull", "b"]).good();
    assert!(row_when(&honeynet, "b", |row| row.is_some_and(|row| row["state"] == "--p---")).is_some());
    honeynet.run(&["unpause", "b"]).good();
    for guest in [&mut guest, &mut restored] {
        assert_eq!(guest.run("echo here"), "here");
    }
    let rows = honeynet.run(&["snapshots", "--json"]).good().json();
    let parents = rows.as_array().unwrap().iter().filter(|row| row["domain"] == "b" && row["kind"] == "diff");
    // What went on from a snapshot is compared with that one, so its chains stay short.
    assert!(parents.into_iter().all(|row| row["parent"] == first["id"]), "{rows}");
    assert!(
        std::fs::read_dir(honeynet.path("state/run")).unwrap().flatten().all(|entry| !entry.path().is_dir())
    );
}

#[test]
fn the_memory_of_a_restored_domain_that_crashes_is_kept_and_it_begins_anew() {
    let honeynet = Honeynet::new("");
    let mut guest = guest(&honeynet, "on_crash='coredump-restart'");
    guest.run("mkdir /m; mount -t tmpfs none /m; echo before-it-was-taken-$((40+2)) > /m/one");
    let taken = snapshot(&honeynet, "a", &[]);
    let mut guest = guest;
    let commands = guest.commands();
    guest.run("true");
    drop(guest);
    destroy(&honeynet, "a");
    honeynet.run(&["restore", id(&taken)]).good();
    let mut guest = Guest::take_up(&honeynet, "a", commands);
    guest.run("echo after-it-was-taken-$((40+3)) > /m/two");
    let old = |row: Option<&Value>| row.is_some_and(|row| row["uptime_s"].as_f64() > Some(1.1));
    let before = row_when(&honeynet, "a", old).unwrap();
    guest.send("echo c > /proc/sysrq-trigger\n");
    let anew =
        |row: Option<&Value>| row.is_some_and(|row| row["domid"] != before["domid"] && row["pid"].is_u64());
    row_when(&honeynet, "a", anew).unwrap();
    let core = honeynet.path(&format!("state/domains/a/core-{}.raw", before["domid"]));
    let core = std::fs::read(core).unwrap();
    assert_eq!(core.len(), 128 << 20);
    for text in ["before-it-was-taken-42", "after-it-was-taken-43"] {
        assert!(core.windows(text.len()).any(|bytes| bytes == text.as_bytes()), "{text}");
    }
}

#[test]
fn an_alert_sets_off_a_snapshot_of_its_domain_and_a_flood_of_them_one() {
    let rule = "[[snapshot]]\non = \"alert\"\npriority = 3\nevery = \"1h\"\n";
    let honeynet = Honeynet::new(rule);
    let mut guest = guest(&honeynet, "vif=['ip=10.77.0.5']");
    guest.run("ip addr add 10.77.0.5/24 dev eth0; ip link set eth0 up");
    let ping = |more: &[&str]| {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", &honeynet.namespace, "ping", "-W", "2", "10.77.0.5"]).args(more);
        assert!(ping.stdout(Stdio::null()).status().unwrap().success());
    };
    // Who follows the store begins at its end: logsink must have been there for a moment.
    util::wait_for("the store", || honeynet.path("state/store/events.db").exists().then_some(()));
    std::thread::sleep(Duration::from_millis(1500));
    // Without data, and then a sweep: two rules that match.
    ping(&["-s", "0", "-c", "1"]);
    let rows = || honeynet.run(&["snapshots", "a", "--json"]).good().json();
    let row = util::wait_for("a snapshot", || rows().as_array().unwrap().first().cloned());
    assert_eq!(
        (&row["kind"], row["reason"].as_str()),
        (&"full".into(), Some("alert 9000013: SCAN ping without data"))
    );
    assert!(row["capture"]["bytes"].as_u64() > Some(24) && row["event_seq"].as_u64() > Some(0), "{row}");
    ping(&["-c", "20", "-i", "0.05"]);
    util::wait_for("the other alert", || {
        let alerts = honeynet.run(&["events", "--id", "alert.rule", "--json"]).good().stdout;
        alerts.contains("9000012").then_some(())
    });
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rows().as_array().unwrap().len(), 1, "the hour is not over");
    assert_eq!(guest.run("echo here"), "here");
}

#[test]
fn a_chain_with_a_damaged_or_missing_member_is_refused_by_name() {
    let honeynet = Honeynet::new("");
    let guest = guest(&honeynet, "");
    let full = snapshot(&honeynet, "a", &[]);
    let diff = snapshot(&honeynet, "a", &["--diff"]);
    drop(guest);
    destroy(&honeynet, "a");
    let (below, above) = (folder(&honeynet, "a", id(&full)), folder(&honeynet, "a", id(&diff)));
    let text = "the page at byte 0x1100000 has changed";
    flip(&below.join("ram.img"), 0x110_0000);
    honeynet.run(&["snapshot-verify", id(&diff)]).fails_with(text);
    honeynet.run(&["restore", "--verify", id(&diff)]).fails_with(text);
    // Without it the domain runs at first, and no longer than until the page was looked at.
    honeynet.run(&["restore", id(&diff)]).good();
    assert!(row_when(&honeynet, "a", |row| row.is_none()).is_none());
    flip(&below.join("ram.img"), 0x110_0000);
    for (path, at) in
        [(above.join("ram.map"), 30), (above.join("xvda.layer.0.sums"), 0), (below.join("state.json"), 5)]
    {
        flip(&path, at);
        honeynet.run(&["restore", id(&diff)]).fails_with(path.file_name().unwrap().to_str().unwrap());
        flip(&path, at);
    }
    let aside = honeynet.path("aside");
    std::fs::rename(&below, &aside).unwrap();
    honeynet
        .run(&["restore", id(&diff)])
        .fails_with(&format!("needs {}", above.join("../..").join("a").join(id(&full)).display()));
    // Another one in its place is no better.
    let before = std::fs::read_to_string(aside.join("manifest.json")).unwrap();
    std::fs::rename(&aside, &below).unwrap();
    let uuid = serde_json::from_str::<Value>(&before).unwrap()["uuid"].as_str().unwrap().to_owned();
    std::fs::write(below.join("manifest.json"), before.replace(&uuid, &"0".repeat(32))).unwrap();
    honeynet.run(&["restore", id(&diff)]).fails_with("is another snapshot than the one that was there");
    std::fs::write(below.join("manifest.json"), before.replace("\"ram.img.sums\"", "\"other\"")).unwrap();
    honeynet.run(&["restore", id(&diff)]).fails_with("does not name ram.img.sums");
    honeynet.run(&["restore", id(&diff), "--name", "../x"]).fails_with("is not a plain name");
    std::fs::write(below.join("manifest.json"), before).unwrap();
    honeynet.run(&["restore", id(&diff)]).good();
}

#[test]
fn a_supervisor_that_is_killed_leaves_no_half_snapshot_that_is_taken_for_whole() {
    let honeynet = Honeynet::new("");
    for round in 0..4 {
        let mut guest = Guest::create(&honeynet, "a", "");
        guest.run("dd if=/dev/urandom of=/x bs=1M count=30 2>/dev/null");
        let pid = honeynet.run(&["info", "--json"]).good().json()["pid"].as_i64().unwrap();
        let mut taking = Command::new(env!("CARGO_BIN_EXE_honeynet"));
        taking.current_dir(honeynet.path(".")).args(["--state", "state", "snapshot", "a"]);
        let mut taking = taking.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + 150 * round));
        util::kill(pid);
        taking.wait().unwrap();
        drop(guest);
        util::wait_for("its end", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
        honeynet.run(&["down"]).good();
        for row in honeynet.run(&["snapshots", "--json"]).good().json().as_array().unwrap() {
            honeynet.run(&["snapshot-verify", row["id"].as_str().unwrap()]).good();
        }
        for entry in std::fs::read_dir(honeynet.path("state/snapshots/a")).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap();
            if name.ends_with(".new") {
                let (path, gone) = (entry.path(), format!("there is no snapshot {name}"));
                honeynet.run(&["snapshot-verify", &name]).fails(3, &gone);
                assert!(!path.join("manifest.json").exists(), "all but the name was there");
            }
        }
    }
    // The next one takes away what they have not finished.
    honeynet.start_supervisor();
    let left = ["state/run", "state/snapshots/a"].map(|folder| std::fs::read_dir(honeynet.path(folder)));
    let left = left.into_iter().flatten().flatten().flatten();
    assert!(
        left.into_iter()
            .all(|entry| !entry.file_name().to_string_lossy().ends_with(".new") || entry.path().is_file())
    );
}

#[test]
fn what_differs_between_two_snapshots_is_told_from_outside() {
    let honeynet = Honeynet::new("");
    let mut guest = guest(&honeynet, "");
    guest.run("mkdir /d; mke2fs -q /dev/xvda 2>/dev/null || mkfs.ext2 /dev/xvda >/dev/null; mount /dev/xvda /d; mkdir /d/etc; echo root > /d/etc/passwd; sync");
    let before = snapshot(&honeynet, "a", &[]);
    guest.run("echo evil >> /d/etc/passwd; sync; sleep 4321 & sleep 0.2");
    let after = snapshot(&honeynet, "a", &["--diff"]);
    let words = ["snapshot-diff", id(&before), id(&after)];
    let found = honeynet.run(&[&words[..], &["--json"]].concat()).good().json();
    let added = found["processes"]["added"].to_string();
    assert!(added.contains("sleep 4321"), "{found}");
    assert!(!found["processes"]["removed"].to_string().contains("sleep"), "{found}");
    assert!(found["files"]["xvda"].to_string().contains("/etc/passwd"), "{found}");
    let text = honeynet.run(&words).good().stdout;
    assert!(text.contains("+ ") && text.contains("sleep 4321"), "{text}");
    // One against itself.
    let same = honeynet.run(&["snapshot-diff", id(&after), id(&after)]).good().stdout;
    assert!(same.contains("processes: 0 added, 0 removed"), "{same}");
}

#[test]
fn a_core_is_written_of_a_domain_and_of_a_snapshot() {
    let honeynet = Honeynet::new("");
    let mut guest = guest(&honeynet, "");
    let full = snapshot(&honeynet, "a", &[]);
    let diff = snapshot(&honeynet, "a", &["--diff"]);
    for (what, file) in [("a", "live.core"), (id(&full), "full.core"), (id(&diff), "diff.core")] {
        honeynet.run(&["dump-core", what, file]).good();
        let core = std::fs::read(honeynet.path(file)).unwrap();
        assert!(core.starts_with(b"\x7fELF") && core.len() > 128 << 20, "{what}: {}", core.len());
        let banner = b"Linux version ";
        assert!(core.windows(banner.len()).any(|bytes| bytes == banner), "{what}");
    }
    honeynet.run(&["dump-core", "a", "live.core"]).fails_with("is there already");
    honeynet.run(&["dump-core", "b", "b.core"]).fails(3, "there is no domain b");
    assert!(!honeynet.path("b.core").exists());
    assert_eq!(guest.run("echo here"), "here");
}
