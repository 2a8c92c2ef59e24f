//! The supervisor and its services as real processes (root).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::net::TcpListener;

use util::{Honeynet, kill, namespace_exists};

#[test]
fn down_leaves_neither_namespace_nor_socket_nor_process() {
    let honeynet = Honeynet::new("");
    honeynet.start_supervisor();
    assert!(namespace_exists(&honeynet.namespace));
    let pids = ["logsink", "netwatch"].map(|role| honeynet.service_pid(role, None));
    assert_eq!(honeynet.run(&["list", "--json"]).good().json(), serde_json::json!([]));
    honeynet.run(&["destroy", "x"]).fails(3, "there is no domain x");

    let down = honeynet.run(&["down", "--json"]).good();
    assert_eq!(down.json()["was_up"], true);
    assert!(!namespace_exists(&honeynet.namespace));
    let left: Vec<_> =
        std::fs::read_dir(honeynet.path("state/run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".sock")), "{left:?}");
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    assert_eq!(honeynet.run(&["down", "--json"]).good().json()["was_up"], false);
}

#[test]
fn a_domain_that_cannot_be_built_leaves_nothing() {
    let honeynet = Honeynet::new("");
    honeynet.write("k", "no kernel");
    honeynet.write("d.img", [0; 4096]);
    let create = |keys: &str| {
        honeynet.write("a.cfg", format!("name='a'\nmemory=64\nkernel='k'\n{keys}\n"));
        honeynet.run(&["create", "a.cfg"])
    };
    create("ramdisk='nowhere'").fails(
        1,
        &format!(
            "ramdisk {} cannot be opened: No such file or directory (os error 2)",
            honeynet.path("nowhere").display()
        ),
    );
    let much = create("memory=900000");
    assert!(much.code == 1 && much.stderr.contains("900000 MiB of RAM are not there"), "{much:?}");
    create("disk=['k,,xvda,w']").fails(
        1,
        &format!("disk {} is not an image of whole 512-byte sectors", honeynet.path("k").display()),
    );
    create("disk=['d.img,,xvda,w']\nvif=['']").fails_with("domain a did not start: ");
    assert_eq!(honeynet.run(&["list", "--json"]).good().json(), serde_json::json!([]));
    assert_eq!(std::fs::read_dir(honeynet.path("state/domains")).unwrap().count(), 0);
    let ports = honeynet.run(&["net", "--json"]).good().json();
    assert!(ports["ports"].as_array().unwrap().iter().all(|port| port["kind"] == "gateway"), "{ports}");
}

#[test]
fn a_disk_in_use_by_somebody_else_is_refused() {
    let honeynet = Honeynet::new("");
    honeynet.write("k", "no kernel");
    let disk = honeynet.write("d.img", [0; 4096]);
    let held = std::fs::File::open(&disk).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockShared).unwrap();
    honeynet.write("a.cfg", "name='a'\nmemory=64\nkernel='k'\ndisk=['d.img,,xvda,w']\n");
    let sentence = format!("disk {} is in use by another domain", disk.display());
    honeynet.run(&["create", "a.cfg"]).fails(1, &sentence);
}

#[test]
fn a_published_port_that_is_taken_is_refused_and_nothing_stays() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let decoy = format!(
        "[[decoy]]\nname=\"a\"\ndomain=\"a.cfg\"\naddress=\"10.77.0.2\"\npublish=[\"{listen}->22\"]\n"
    );
    let honeynet = Honeynet::new(&decoy);
    honeynet.write("a.cfg", "name='a'\nmemory=64\nkernel='k'\n");
    honeynet.run(&["create", "a.cfg"]).fails(
        1,
        &format!("{listen}, where port 22 of decoy a is to be published, is taken: Address already in use (os error 98)"),
    );
    assert!(!namespace_exists(&honeynet.namespace));
}

#[test]
fn a_namespace_of_somebody_else_is_not_touched() {
    let first = Honeynet::new("");
    first.start_supervisor();
    let second = Honeynet::new("");
    let dashboard = "dashboard = { listen = \"127.0.0.1:0\" }";
    second.write("honeynet.toml", format!("{dashboard}\n[network]\nnamespace = \"{}\"\n", first.namespace));
    second.write("a.cfg", "name='a'\nmemory=64\nkernel='k'\n");
    let name = &first.namespace;
    second.run(&["create", "a.cfg"]).fails(
        1,
        &format!("network namespace {name} exists and is not this honeynet's: set network.namespace to another name"),
    );
    drop(second);
    assert!(namespace_exists(&first.namespace));
}

#[test]
fn a_killed_service_is_an_event_and_comes_back() {
    let honeynet = Honeynet::new("");
    honeynet.start_supervisor();
    for role in ["netwatch", "logsink"] {
        let pid = honeynet.service_pid(role, None);
        kill(pid);
        honeynet.service_pid(role, Some(pid));
    }
    honeynet.run(&["net"]).good();
    honeynet.run(&["down"]).good();
    let events = honeynet.run(&["events", "--id", "service.failed", "--json"]).good().stdout;
    for role in ["netwatch", "logsink"] {
        let told = events
            .lines()
            .any(|line| line.contains(&format!("\"service\":\"{role}\"")) && line.contains("signal: 9"));
        assert!(told, "{role}: {events}");
    }
}

#[test]
fn what_a_killed_supervisor_leaves_is_taken_away() {
    let honeynet = Honeynet::new("");
    honeynet.start_supervisor();
    let services = ["logsink", "netwatch"].map(|role| honeynet.service_pid(role, None));
    let pid = honeynet.run(&["info", "--json"]).good().json()["pid"].as_i64().unwrap();
    kill(pid);
    // It may take a moment until the kernel has closed its lock and told its children.
    let gone = |pid: &i64| !std::path::Path::new(&format!("/proc/{pid}")).exists();
    for _ in 0..500 {
        if services.iter().all(gone) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(services.iter().all(gone));
    honeynet.start_supervisor();
    honeynet.run(&["down"]).good();
    assert!(!namespace_exists(&honeynet.namespace));
}
