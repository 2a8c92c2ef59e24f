//! `lsmod` and `dmesg`.

use introspect::walk::log::{self, Log};
use introspect::walk::modules::{self, ModuleState, Modules};

use super::guest::guest;

#[test]
fn modules_are_those_of_proc() {
    let mut guest = guest();
    let said = guest.run("cat /proc/modules");
    let listing = Modules::of(&guest.symbols).unwrap().list(&guest.view.look(modules::STEPS_MAX));
    assert_eq!(listing.incomplete, None);
    let lines = listing.items.iter().map(|module| {
        assert_eq!(module.state, ModuleState::Live);
        let users = match module.used_by.is_empty() {
            true => "-".to_owned(),
            false => module.used_by.join(",") + ",",
        };
        let taints = match module.taints.is_empty() {
            true => String::new(),
            false => format!(" ({})", module.taints),
        };
        format!(
            "{} {} {} {users} Live {:#018x}{taints}",
            module.name, module.size, module.references, module.address
        )
    });
    let seen: Vec<String> = lines.collect();
    assert!(seen.len() >= 2);
    assert_eq!(seen.join("\n"), said);
}

#[test]
fn the_log_is_that_of_dmesg() {
    let mut guest = guest();
    guest.run("echo '<4>from outside' > /dev/kmsg");
    let said = guest.run("dmesg -r");
    let listing = Log::of(&guest.symbols).unwrap().list(&guest.view.look(log::STEPS_MAX));
    assert_eq!(listing.incomplete, None);
    let lines = listing.items.iter().flat_map(|record| {
        let (seconds, micros) = (record.time_ns / 1_000_000_000, record.time_ns / 1000 % 1_000_000);
        let priority = 8 * u32::from(record.facility) + u32::from(record.severity);
        record.text.lines().map(move |line| format!("<{priority}>[{seconds:5}.{micros:06}] {line}"))
    });
    let seen: Vec<String> = lines.map(|line| line.trim_end().to_owned()).collect();
    assert!(seen.len() > 100);
    assert_eq!(seen, said.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>());
    assert!(seen.last().unwrap().ends_with("from outside"));
}
