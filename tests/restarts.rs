//! What comes after a domain's end: it is kept under another name, or begins anew (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use serde_json::Value;
use util::guest::Guest;
use util::{Honeynet, row_when, told};

/// The supervisor restarts nothing that ended within its first second.
fn is_old_enough(row: Option<&Value>) -> bool {
    row.is_some_and(|row| row["uptime_s"].as_f64().unwrap() > 1.0)
}

/// A domain with two disks that it writes, and this key; ends by this command. It is kept, and its successor has its disks.
fn check_renamed(key: &str, command: &str, state: &str) {
    let honeynet = Honeynet::new("");
    honeynet.write("d.img", vec![0; 1 << 20]);
    let keys = format!(
        "disk=['d.img,,xvda,w']\nvif=['ip=10.77.0.5']\nhn_address='10.77.0.5'\n{key}='rename-restart'"
    );
    let mut guest = Guest::create(&honeynet, "a", &keys);
    guest.run("echo written-before | dd of=/dev/xvda bs=512 conv=sync,fsync");
    let first = row_when(&honeynet, "a", is_old_enough).unwrap();
    guest.send(&format!("{command}\n"));
    guest.wait_end();

    let second =
        row_when(&honeynet, "a", |row| row.is_some_and(|row| row["domid"] != first["domid"])).unwrap();
    let mut guest = Guest::attach(&honeynet, "a");
    assert_eq!(guest.run("head -c 14 /dev/xvda"), "written-before", "{key}");
    assert_eq!((&second["uuid"], &second["macs"]), (&first["uuid"], &first["macs"]), "{key}");
    let kept = row_when(&honeynet, "a-1", |row| row.is_some()).unwrap();
    assert_eq!(
        (kept["domid"].as_u64(), kept["state"].as_str(), &kept["pid"]),
        (Some(1), Some(state), &Value::Null)
    );
    honeynet.run(&["console", "a-1"]).fails(1, "this console has ended");
    honeynet.run(&["pause", "a-1"]).fails_with("domain a-1 is ");

    // Its memory is there until it is destroyed, and then it alone is gone. Its disks are its successor's.
    let case = honeynet.run(&["pull", "a-1", "--reason", "how it ended", "--json"]).good().json();
    let case = std::path::Path::new(case["folder"].as_str().unwrap());
    assert!(case.join("memory.elf").exists() && !case.join("disk-xvda.raw").exists(), "{key}");
    honeynet.run(&["destroy", "a-1"]).good();
    assert!(row_when(&honeynet, "a-1", |row| row.is_none()).is_none());
    assert_eq!(guest.run("echo here"), "here");
    honeynet.write("b.cfg", "name='b'\nmemory=128\nkernel='k'\nramdisk='i'\ndisk=['d.img,,xvda,w']\n");
    honeynet.run(&["create", "b.cfg"]).fails_with("is in use by another domain");
}

#[test]
fn a_domain_that_powers_off_is_kept_and_begins_anew() {
    check_renamed("on_poweroff", "poweroff -f", "---s--");
}

#[test]
fn a_domain_that_reboots_is_kept_and_begins_anew() {
    check_renamed("on_reboot", "reboot -f", "---s--");
}

#[test]
fn a_domain_that_crashes_is_kept_and_begins_anew() {
    check_renamed("on_crash", "echo c > /proc/sysrq-trigger", "----c-");
}

#[test]
fn a_guest_that_is_asked_reboots() {
    let honeynet = Honeynet::new("");
    let mut guest = Guest::create(&honeynet, "a", "");
    // busybox's shell has no init that would hear the request: the kernel runs this program when it comes.
    guest.run("mkdir -p /sbin; printf '#!/bin/sh\\n/bin/reboot -f\\n' > /sbin/reboot; chmod +x /sbin/reboot");
    let first = row_when(&honeynet, "a", is_old_enough).unwrap();
    honeynet.run(&["reboot", "a"]).good();
    guest.wait_end();
    let second =
        row_when(&honeynet, "a", |row| row.is_some_and(|row| row["domid"] != first["domid"])).unwrap();
    assert_eq!(second["domid"].as_u64(), Some(2));
    assert!(told(&honeynet, "domain.stopped", "reboot"), "{}", honeynet.run(&["dmesg"]).stdout);
    let mut guest = Guest::attach(&honeynet, "a");
    // A new kernel, not the old one that went on.
    assert_eq!(guest.run("ls /sbin/reboot 2>/dev/null"), "");
    honeynet.run(&["reboot", "nobody"]).fails(3, "there is no domain nobody");
}
