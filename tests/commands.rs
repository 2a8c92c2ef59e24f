//! The command line as its user meets it: words, exit codes, one sentence for each failure.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::process::Command;

use util::Honeynet;

#[test]
fn every_command_has_help_with_an_example() {
    let words = [
        "create",
        "list",
        "console",
        "pause",
        "unpause",
        "shutdown",
        "reboot",
        "destroy",
        "info",
        "dmesg",
        "xenstore-ls",
        "vcpu-set",
        "vcpu-list",
        "net",
        "pull",
        "snapshot",
        "snapshots",
        "snapshot-diff",
        "snapshot-verify",
        "snapshot-compact",
        "snapshot-remove",
        "dump-core",
        "save",
        "restore",
        "fim",
        "verify",
        "evidence",
        "symbols",
        "events",
        "doctor",
        "up",
        "down",
        "supervisor",
    ];
    for word in words {
        let output = Command::new(env!("CARGO_BIN_EXE_honeynet")).args([word, "--help"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Example: honeynet "), "{word}: {text}");
        assert!(text.contains("--json"), "{word}: {text}");
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let honeynet = Honeynet::new("");
    assert_eq!(honeynet.run(&["dance"]).code, 2);
    assert_eq!(honeynet.run(&["console"]).code, 2);
}

#[test]
fn a_kernel_tells_its_symbols_without_a_running_honeynet() {
    let honeynet = Honeynet::new("");
    let kernel = util::guest::debian_kernel();
    let kernel = kernel.vmlinuz.to_str().unwrap();
    let told = honeynet.run(&["symbols", kernel, "--json"]).good().json();
    assert!(told["banner"].as_str().unwrap().starts_with("Linux version "), "{told}");
    assert_eq!(told["build_id"].as_str().unwrap().len(), 40);
    assert_eq!(told["not_shown"], serde_json::json!([]));
    let written = honeynet.run(&["symbols", kernel, "--isf", "linux.json", "--json"]).good().json();
    assert_eq!(written["build_id"], told["build_id"]);
    let isf = std::fs::read(honeynet.path("linux.json")).unwrap();
    let isf: serde_json::Value = serde_json::from_slice(&isf).unwrap();
    assert_eq!(isf["metadata"]["format"], "6.2.0");
    honeynet.write("text", "no kernel");
    honeynet.run(&["symbols", "text"]).fails(1, "text: not a kernel: neither a bzImage nor an ELF file");
}

#[test]
fn what_needs_a_running_honeynet_says_so() {
    let honeynet = Honeynet::new("");
    for word in [&["list"][..], &["pause", "x"], &["info"], &["net"], &["snapshot", "x"], &["pull", "x"]] {
        honeynet.run(word).fails(1, "the honeynet is not up: start it with `honeynet up`");
    }
    honeynet.run(&["down"]).good();
}

#[test]
fn a_malformed_domain_file_is_refused_before_anything_starts() {
    let honeynet = Honeynet::new("");
    honeynet.write("a.cfg", "name = 'a'\nmemory = [\n");
    honeynet
        .run(&["create", "a.cfg"])
        .fails(1, "a.cfg: line 2, column 10: the list that begins here has no closing ]");
    honeynet
        .run(&["create", "b.cfg"])
        .fails(1, "b.cfg cannot be read: No such file or directory (os error 2)");
    assert!(!honeynet.path("state").exists());
}

#[test]
fn a_malformed_honeynet_file_is_refused_before_anything_starts() {
    let honeynet = Honeynet::new("uplink = \"eth0\"\n");
    honeynet.run(&["up"]).fails(
        1,
        "honeynet.toml: line 5, column 10: network.uplink = \"eth0\" is none of none, interface:NAME, bridge:NAME, macvlan:NAME",
    );
    assert!(!honeynet.path("state").exists());
}

#[test]
fn a_case_that_is_not_there_ends_with_3() {
    let honeynet = Honeynet::new("");
    honeynet.run(&["verify", "case-1"]).fails(3, "there is no case case-1");
    assert_eq!(honeynet.run(&["evidence", "--json"]).good().json(), serde_json::json!([]));
}

#[test]
fn doctor_says_one_line_for_each_thing() {
    let honeynet = Honeynet::new("");
    let checks = honeynet.run(&["doctor", "--json"]).json();
    let checks = checks.as_array().unwrap();
    let lines = honeynet.run(&["doctor"]).stdout;
    assert_eq!(lines.lines().count(), checks.len());
    assert!(checks.iter().any(|check| check["what"] == "/dev/kvm"));
    assert!(!honeynet.path("state").exists());
}
