//! Domains that are saved and go on: what they hold is what they held (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use util::guest::Guest;
use util::{Honeynet, row_when};

/// How often a busy guest is saved and goes on.
const ROUNDS: u32 = 6;
/// Memory with a pattern, a writer whose every file carries its own sum, and a counter that never goes back.
const BUSY: &str = "mkdir -p /m /d; mount -t tmpfs none /m; mke2fs -q /dev/xvda 2>/dev/null || mkfs.ext2 /dev/xvda >/dev/null; mount /dev/xvda /d; \
 dd if=/dev/urandom of=/m/pattern bs=1M count=24 2>/dev/null; sha256sum /m/pattern > /m/sum; \
 (i=0; while [ ! -e /m/stop ]; do i=$((i+1)); head -c 20000 /dev/urandom > /d/f.$((i%8)).new; \
  sha256sum < /d/f.$((i%8)).new > /d/s.$((i%8)).new; mv /d/f.$((i%8)).new /d/f.$((i%8)); mv /d/s.$((i%8)).new /d/s.$((i%8)); \
  echo $i > /d/count.new; mv /d/count.new /d/count; done) >/dev/null 2>&1 &";
/// Stops the writer between two files, and says whether all of it is as its sums say.
const CHECK: &str = "touch /m/stop; wait; sha256sum -c /m/sum; bad=0; for i in 0 1 2 3 4 5 6 7; do \
 [ -e /d/s.$i ] && [ \"$(sha256sum < /d/f.$i)\" = \"$(cat /d/s.$i)\" ] || bad=$((bad+1)); done; echo bad $bad; sync; umount /d; echo unmounted";

fn is_running(honeynet: &Honeynet, name: &str) -> bool {
    row_when(honeynet, name, |row| row.is_some_and(|row| row["pid"].is_u64())).is_some()
}

/// A guest with a disk of its own layer.
fn guest(honeynet: &Honeynet, keys: &str) -> Guest {
    honeynet.write("d.img", vec![0; 32 << 20]);
    Guest::create(honeynet, "a", &format!("disk=['d.img,,xvda,w']\nhn_layer=1\nvif=['ip=10.77.0.5']\n{keys}"))
}

#[test]
fn a_busy_guest_goes_on_with_every_byte_of_memory_and_disk() {
    let honeynet = Honeynet::new("");
    let mut guest = guest(&honeynet, "vcpus=2");
    guest.run(BUSY);
    let (mut first, mut count) = (u32::MAX, 0);
    for round in 0..ROUNDS {
        std::thread::sleep(Duration::from_millis(130 + 70 * u64::from(round)));
        let folder = format!("saved{round}");
        honeynet.run(&["save", "a", &folder]).good();
        assert!(row_when(&honeynet, "a", |row| row.is_none()).is_none(), "it is gone");
        honeynet.run(&["restore", &folder]).good();
        assert!(is_running(&honeynet, "a"));
        guest = guest.go_on(&honeynet, "a");
        assert_eq!(guest.run("echo here"), "here");
        let now: u32 = guest.run("cat /d/count").parse().unwrap();
        assert!(now >= count, "{now} after {count}");
        (first, count) = (first.min(now), now);
    }
    let said = guest.run(CHECK);
    assert!(
        said.contains("/m/pattern: OK") && said.contains("bad 0") && said.contains("unmounted"),
        "{said}"
    );
    let after: u32 = guest.run("mount /dev/xvda /d && cat /d/count").parse().unwrap();
    assert!(after >= count && after > first, "it wrote on: {first}, {count}, {after}");
    assert!(!guest.run("dmesg").contains("lockup"));
}

#[test]
fn time_goes_on_and_the_wall_clock_is_right() {
    let honeynet = Honeynet::new("");
    let mut guest = guest(&honeynet, "");
    let up = |guest: &mut Guest| -> f64 { guest.run("cut -d' ' -f1 /proc/uptime").parse().unwrap() };
    let before = up(&mut guest);
    honeynet.run(&["save", "a", "saved"]).good();
    std::thread::sleep(Duration::from_secs(3));
    honeynet.run(&["restore", "saved", "--verify"]).good();
    let mut guest = guest.go_on(&honeynet, "a");
    let after = up(&mut guest);
    assert!(after >= before + 3.0, "{before} {after}");
    let guests: u64 = guest.run("date +%s").parse().unwrap();
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(ours.abs_diff(guests) <= 2, "{guests} {ours}");
}

#[test]
fn a_restored_domain_that_begins_anew_has_the_disk_that_it_had() {
    let honeynet = Honeynet::new("");
    let mut guest = guest(&honeynet, "on_reboot='restart'");
    guest.run("echo before-it-was-saved | dd of=/dev/xvda bs=512 conv=sync,fsync");
    honeynet.run(&["save", "a", "saved"]).good();
    honeynet.run(&["restore", "saved"]).good();
    let mut guest = guest.go_on(&honeynet, "a");
    guest.run("echo after-it-was-saved | dd of=/dev/xvda bs=512 seek=9 conv=sync,fsync");
    let first =
        row_when(&honeynet, "a", |row| row.is_some_and(|row| row["uptime_s"].as_f64() > Some(1.0))).unwrap();
    guest.send("reboot -f\n");
    let anew = |row: Option<&serde_json::Value>| row.is_some_and(|row| row["domid"] != first["domid"]);
    row_when(&honeynet, "a", anew).unwrap();
    let mut guest = Guest::attach(&honeynet, "a");
    assert_eq!(
        guest.run("head -c 19 /dev/xvda; dd if=/dev/xvda bs=512 skip=9 count=1 2>/dev/null | head -c 18"),
        "before-it-was-savedafter-it-was-saved"
    );
    // The disk of the image alone: what it wrote is in layers.
    assert!(std::fs::read(honeynet.path("d.img")).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_damaged_or_cut_off_is_refused_by_name() {
    let honeynet = Honeynet::new("");
    let guest = guest(&honeynet, "");
    honeynet.run(&["save", "a", "saved"]).good();
    drop(guest);
    honeynet.run(&["save", "a", "again"]).fails(3, "there is no domain a");
    let path = |name: &str| honeynet.path(&format!("saved/{name}"));
    let ram = std::fs::read(path("ram.img")).unwrap();
    // Any page that holds something: the kernel's text begins at 16 MiB.
    let at = 0x110_0000;
    let mut changed = ram.clone();
    changed[at] ^= 1;
    std::fs::write(path("ram.img"), &changed).unwrap();
    honeynet.run(&["restore", "--verify", "saved"]).fails_with("the page at byte 0x1100000 has changed");
    // Without it the domain runs at first, and no longer than until the page was looked at.
    honeynet.run(&["restore", "saved"]).good();
    assert!(row_when(&honeynet, "a", |row| row.is_none()).is_none());
    std::fs::write(path("ram.img"), &ram[..ram.len() - 4096]).unwrap();
    honeynet.run(&["restore", "saved"]).fails_with("bytes instead of");
    std::fs::write(path("ram.img"), &ram).unwrap();
    for (name, change) in [("state.json", "x"), ("ram.img.sums", "x"), ("manifest.json", "{")] {
        let whole = std::fs::read(path(name)).unwrap();
        std::fs::write(path(name), change).unwrap();
        honeynet.run(&["restore", "saved"]).fails_with(name);
        std::fs::write(path(name), whole).unwrap();
    }
    std::fs::rename(path("manifest.json"), path("aside")).unwrap();
    honeynet.run(&["restore", "saved"]).fails_with("manifest.json cannot be read");
    std::fs::rename(path("aside"), path("manifest.json")).unwrap();
    honeynet.run(&["restore", "saved"]).good();
    honeynet.run(&["restore", "saved"]).fails_with("there is a domain a already");
}
