//! Clones of one snapshot side by side, and a pool that gives one to every attacker (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::process::Command;

use serde_json::Value;
use util::guest::{Guest, give_images, recipes_folder};
use util::{Honeynet, wait_for};

const RANDOM: &str = "head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid";
/// The pool's decoy, and addresses of attackers beside it.
const POOL: &str = "10.77.0.20";
const ATTACKERS: [&str; 4] = ["10.77.0.101", "10.77.0.102", "10.77.0.103", "10.77.0.104"];

fn snapshot(honeynet: &Honeynet, name: &str) -> String {
    let taken = honeynet.run(&["snapshot", name, "--json"]).good().json();
    taken["id"].as_str().unwrap().to_owned()
}

#[test]
fn clones_have_what_their_parent_had_and_random_bytes_of_their_own() {
    let honeynet = Honeynet::new("");
    honeynet.write("d.img", vec![0; 8 << 20]);
    let disk = "disk=['d.img,,xvda,w']\nhn_layer=1\nvif=['ip=10.77.0.5']";
    let mut parent = Guest::create(&honeynet, "a", disk);
    parent
        .run("echo before | dd of=/dev/xvda bs=512 conv=sync,fsync 2>/dev/null; mkdir /m; echo held > /m/x");
    let id = snapshot(&honeynet, "a");
    let commands = parent.commands();
    let made = honeynet.run(&["clone", &id, "--count", "3", "--name", "c", "--json"]).good().json();
    let addresses: Vec<&str> =
        made.as_array().unwrap().iter().map(|row| row["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["10.77.0.254", "10.77.0.253", "10.77.0.252"]);
    let mut random = vec![parent.run(RANDOM)];
    for name in ["c-1", "c-2", "c-3"] {
        let mut clone = Guest::take_up(&honeynet, name, commands);
        assert_eq!(clone.run("cat /m/x; head -c 6 /dev/xvda"), "held\nbefore", "{name}");
        random.push(clone.run(RANDOM));
        clone.run(&format!(
            "echo {name} | dd of=/dev/xvda bs=512 conv=sync,fsync 2>/dev/null; echo {name} > /m/x"
        ));
        assert_eq!(clone.run("cat /m/x; head -c 3 /dev/xvda"), format!("{name}\n{name}"));
    }
    assert_eq!(parent.run("cat /m/x; head -c 6 /dev/xvda"), "held\nbefore");
    let lines: Vec<&str> = random.iter().flat_map(|both| both.lines()).collect();
    assert_eq!(lines.len(), 8);
    for (index, line) in lines.iter().enumerate() {
        assert!(!lines[..index].contains(line), "given twice: {line}");
    }
}

#[test]
fn a_parked_clone_does_not_run_before_it_is_told_to() {
    let honeynet = Honeynet::new("");
    let parent = Guest::create(&honeynet, "a", "");
    let id = snapshot(&honeynet, "a");
    let commands = parent.commands();
    honeynet.run(&["clone", &id, "--name", "c", "--parked"]).good();
    let row = || honeynet.run(&["list", "c", "--json"]).good().json()[0].clone();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(row()["state"], "--p---");
    let info = honeynet.run(&["info", "c", "--json"]).good().json();
    assert!(info.to_string().contains("\"page_faults\""), "{info}");
    honeynet.run(&["unpause", "c"]).good();
    assert_eq!(Guest::take_up(&honeynet, "c", commands).run("echo here"), "here");
    honeynet.run(&["clone", &id, "--name", "d", "--parked"]).good();
    honeynet.run(&["destroy", "d"]).good();
    honeynet.run(&["list", "d"]).fails(3, "there is no domain d");
    honeynet.run(&["clone", &id, "--count", "0"]).fails_with("0 clones are asked for");
    honeynet.run(&["clone", "nothing"]).fails_with("nothing");
}

fn farm() -> Honeynet {
    let honeynet = Honeynet::new("");
    let text = std::fs::read_to_string(honeynet.path("honeynet.toml")).unwrap();
    let pool = format!(
        "[[decoy]]\nname = \"farm\"\nrecipe = \"ssh-server\"\naddress = \"{POOL}\"\n\
         [decoy.pool]\nclones = 2\nparked = 1\nidle = \"20s\"\n"
    );
    honeynet.write("honeynet.toml", format!("recipes = {:?}\n{text}{pool}", recipes_folder()));
    give_images(&honeynet, &["ssh-server"]);
    honeynet
}

fn in_namespace(honeynet: &Honeynet, words: &[&str]) -> String {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &honeynet.namespace]).args(words);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn ssh(honeynet: &Honeynet, from: &str, command: &str) -> String {
    let options =
        ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"];
    let mut words = vec!["sshpass", "-p", "admin123", "ssh", "-b", from];
    words.extend(options);
    let target = format!("admin@{POOL}");
    words.extend([target.as_str(), command]);
    in_namespace(honeynet, &words).trim().to_owned()
}

fn pool(honeynet: &Honeynet) -> Value {
    honeynet.run(&["pools", "--json"]).good().json()[0].clone()
}

fn events(honeynet: &Honeynet, id: &str) -> Vec<Value> {
    let done = honeynet.run(&["events", "--id", id, "-n", "50", "--json"]).good();
    done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_attacker_has_a_machine_of_his_own_and_what_he_leaves_is_kept() {
    let honeynet = farm();
    honeynet.run(&["up"]).good();
    for attacker in ATTACKERS {
        let address = format!("{attacker}/32");
        in_namespace(&honeynet, &["ip", "address", "add", &address, "dev", "hn-tap"]);
    }
    wait_for("a parked clone", || (pool(&honeynet)["parked"] == 1).then_some(()));

    let [alice, bob, carol, dave] = ATTACKERS;
    let mark = |from: &str, word: &str| {
        ssh(
            &honeynet,
            from,
            &format!("cat /tmp/mark 2>/dev/null; echo {word} > /tmp/mark; cat /proc/sys/kernel/random/uuid"),
        )
    };
    let (first, second) = (mark(alice, "alice"), mark(bob, "bob"));
    assert!(first.lines().count() == 1 && second.lines().count() == 1, "{first} {second}");
    assert_ne!(first, second, "the same random bytes");
    assert!(mark(alice, "again").starts_with("alice\n"), "she comes back to her machine");
    // Both places are taken, and nobody has been silent.
    assert_eq!(ssh(&honeynet, carol, "cat /tmp/mark 2>/dev/null || echo nothing"), "nothing");
    let shared = wait_for("the event", || events(&honeynet, "pool.shared").pop());
    assert!(shared.to_string().contains(carol), "{shared}");
    let state = pool(&honeynet);
    assert_eq!(state["taken"], 2, "{state}");

    // They fall silent. Then one comes who only looks.
    wait_for("the clones' end", || (pool(&honeynet)["taken"] == 0).then_some(()));
    let look = format!("exec 3<>/dev/tcp/{POOL}/22; head -c 4 <&3");
    in_namespace(&honeynet, &["ip", "route", "replace", &format!("{POOL}/32"), "dev", "hn-tap", "src", dave]);
    assert_eq!(in_namespace(&honeynet, &["bash", "-c", &look]), "SSH-");
    let released = wait_for("three ends", || {
        let released = events(&honeynet, "pool.released");
        (released.len() == 3).then_some(released)
    });
    let of = |source: &str| released.iter().find(|event| event.to_string().contains(source)).unwrap();
    for source in [alice, bob] {
        assert!(of(source).to_string().contains("a login"), "{}", of(source));
    }
    assert!(!of(dave).to_string().contains("snapshot"), "{}", of(dave));
    let kept = honeynet.run(&["snapshots", "--json"]).good().json();
    let diffs = kept.as_array().unwrap().iter().filter(|row| row["kind"] == "diff").count();
    assert_eq!(diffs, 2, "{kept}");

    honeynet.run(&["down"]).good();
    let left: Vec<String> = std::fs::read_dir(honeynet.path("state/domains"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("farm-") && name != "farm-golden")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
