//! What an intruder does to a disk is found by comparing with the baseline.

#![allow(clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "each test file uses a part")]
mod image;

use std::fs::File;
use std::path::Path;

use fim::{Baseline, Policy, Report};
use image::Workshop;
use jiff::Timestamp;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn baseline_of(image: &Path) -> Baseline {
    fim::baseline(&Policy::debian(), File::open(image).unwrap(), "decoy", at(0), &mut |_| {}).unwrap()
}

fn check(baseline: &Baseline, image: &Path) -> Report {
    fim::check(&Policy::debian(), baseline, File::open(image).unwrap(), at(60), &mut |_| {}).unwrap()
}

#[test]
fn an_untouched_disk_is_clean() {
    let workshop = Workshop::new();
    let image = workshop.decoy("a.img", &["-t", "ext4"]);
    let baseline = Baseline::parse(&baseline_of(&image).to_bytes()).unwrap();
    let report = check(&baseline, &image);
    assert!(report.is_clean(), "{}", report.to_text());
    assert!(report.entries > 700);
    assert!(report.to_text().contains("Looks okay!!"));
}

#[test]
fn a_dropped_file_a_new_account_and_a_new_setuid_program_are_found() {
    let workshop = Workshop::new();
    let image = workshop.decoy("a.img", &["-t", "ext4"]);
    let baseline = baseline_of(&image);
    let before = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
    let passwd = workshop.file("passwd", format!("{before}evil:x:0:0::/:/bin/sh\n"));
    let dropped = workshop.file("dropped", "MARKER");
    let commands = format!(
        "rm /etc/passwd\nwrite {} /etc/passwd\nwrite {} /tmp/x\nset_inode_field /usr/bin/tool mode 0104755\n\
         rm /etc/ssh/sshd_config\nwrite {} /var/log/more\n",
        passwd.display(),
        dropped.display(),
        dropped.display()
    );
    workshop.change(&image, &commands);

    let report = check(&baseline, &image);
    let paths = |entries: &[fim::Entry]| entries.iter().map(|entry| entry.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&report.added), ["/tmp/x"]);
    assert_eq!(paths(&report.removed), ["/etc/ssh/sshd_config"]);
    let changed: Vec<&str> = report.changed.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(changed, ["/etc/passwd", "/usr/bin/tool", "/usr/bin/tool2"]);
    let diff = report.changed[0].diff.clone().unwrap();
    assert!(diff.lines().any(|line| line == "+evil:x:0:0::/:/bin/sh"), "{diff}");
    let text = report.to_text();
    assert!(text.contains("f+++++++++++++++: /tmp/x"), "{text}");
    assert!(text.contains("-rwxr-xr-x                       | -rwsr-xr-x"), "{text}");

    let events = fim::changes_to_events(&report, "web", Some(3));
    assert_eq!(events.len(), 6);
    let setuid = events.iter().find(|event| event.body["path"] == "/usr/bin/tool").unwrap();
    assert_eq!(setuid.severity, events::Severity::Error);
    let last = events.last().unwrap();
    assert_eq!((last.id, &last.body["changed"]), (events::EventId::FimChecked, &3.into()));
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let workshop = Workshop::new();
    let image = workshop.decoy("a.img", &["-t", "ext4"]);
    assert_eq!(baseline_of(&image).to_bytes(), baseline_of(&image).to_bytes());
}

#[test]
fn a_baseline_that_was_touched_is_refused() {
    let workshop = Workshop::new();
    let mut bytes = baseline_of(&workshop.decoy("a.img", &["-t", "ext4"])).to_bytes();
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    let error = Baseline::parse(&bytes).unwrap_err();
    assert!(error.to_string().starts_with("baseline was changed after it was made"), "{error}");
    bytes.truncate(place);
    assert!(Baseline::parse(&bytes).unwrap_err().to_string().contains("no seal"));
}
