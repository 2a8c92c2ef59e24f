//! An intruder's session as the platform records it from outside: a real decoy, a real ssh client on a host of its own, and nothing in the
//! guest to find or to stop (root, /dev/kvm).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod util;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use decoys::progress::Silent;
use decoys::recipe::Recipe;
use serde_json::{Value, json};
use util::guest::{cache, debian_kernel};
use util::{Honeynet, kill, told, wait_for};

const DECOY: &str = "10.77.0.10";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A honeynet with the SSH server alone, up.
fn honeynet() -> Honeynet {
    let recipes = root().join("decoys/recipes");
    let recipe = Recipe::load(&recipes.join("ssh-server.toml")).unwrap();
    decoys::image::build(&recipe, &recipes, &debian_kernel(), &cache(), &Silent).unwrap();
    let honeynet = Honeynet::new("");
    let head = format!("rules = {:?}\nrecipes = {recipes:?}\n", root().join("rules"));
    let network =
        format!("[network]\nnamespace = \"{}\"\n[dashboard]\nlisten = \"127.0.0.1:0\"\n", honeynet.namespace);
    let decoy = format!(
        "[[decoy]]\nname = \"ssh-server\"\nrecipe = \"ssh-server\"\naddress = \"{DECOY}\"\nmemory = 256\n"
    );
    honeynet.write("honeynet.toml", head + &network + &decoy);
    std::fs::create_dir_all(honeynet.path("state")).unwrap();
    for folder in ["kernels", "images"] {
        std::os::unix::fs::symlink(cache().join(folder), honeynet.path("state").join(folder)).unwrap();
    }
    honeynet.run(&["up"]).good();
    // The observer comes a second after the domain.
    wait_for("the observer", || {
        let ps = honeynet.run(&["ps", "ssh-server", "--json"]).good().json();
        has(&ps["processes"], |task| task["comm"] == "sshd").then_some(())
    });
    honeynet
}

/// The pid of the observer, when it has another than `before`.
fn observer_pid(honeynet: &Honeynet, before: Option<i64>) -> i64 {
    wait_for("the observer", || {
        let rows = honeynet.run(&["list", "--json"]).good().json();
        rows[0]["observer_pid"].as_i64().filter(|pid| Some(*pid) != before)
    })
}

/// ssh from the honeynet's gateway.
fn start_ssh(honeynet: &Honeynet, password: &str, more: &[&str]) -> Child {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &honeynet.namespace, "sshpass", "-p", password, "ssh"]);
    for option in [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "NumberOfPasswordPrompts=1",
    ] {
        command.args(["-o", option]);
    }
    command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// ssh to its end; what is given goes to its standard input.
fn ssh(honeynet: &Honeynet, password: &str, more: &[&str], input: &[u8]) -> String {
    let mut child = start_ssh(honeynet, password, more);
    // The other end may have closed it already, which is its own affair.
    let _ = child.stdin.take().unwrap().write_all(input);
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}

/// The first ended session of which this holds.
fn session(honeynet: &Honeynet, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_for("the session", || {
        let sessions = honeynet.run(&["sessions", "--json"]).good().json();
        let mut ended = sessions.as_array().unwrap().iter().filter(|session| session["closed"].is_string());
        ended.find(|session| wanted(session)).cloned()
    })
}

fn has(list: &Value, wanted: impl Fn(&Value) -> bool) -> bool {
    list.as_array().unwrap().iter().any(wanted)
}

/// Everything that its recordings showed.
fn shown(honeynet: &Honeynet, session: &Value) -> String {
    let names = session["tty"].as_array().unwrap().iter().map(|tty| tty["name"].as_str().unwrap());
    let text = names.map(|name| std::fs::read_to_string(honeynet.path("state/tty").join(name)).unwrap());
    let lines: Vec<Value> =
        text.collect::<String>().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.iter().filter(|line| line[1] == "o").map(|line| line[2].as_str().unwrap()).collect()
}

#[test]
fn an_intruders_session_is_recorded_whatever_he_wipes() {
    let honeynet = honeynet();
    let admin = format!("admin@{DECOY}");

    // A guess, and then the right one, with a program that is dropped, run and removed.
    ssh(&honeynet, "letmein", &[&format!("root@{DECOY}"), "id"], b"");
    let failed =
        session(&honeynet, |session| has(&session["logins"], |login| login["password"] == "letmein"));
    assert_eq!(
        (&failed["logins"][0]["user"], &failed["logins"][0]["success"]),
        (&"root".into(), &false.into())
    );

    let program = b"#!/bin/sh\necho dropped program ran\n";
    let drop = "cat > /dev/shm/d; chmod +x /dev/shm/d; /dev/shm/d; rm /dev/shm/d; echo kept > ~/note";
    assert!(ssh(&honeynet, "admin123", &[&admin, drop], program).contains("dropped program ran"));
    let dropped =
        session(&honeynet, |session| has(&session["processes"], |process| process["argv"][2] == drop));
    assert!(has(&dropped["logins"], |login| login["password"] == "admin123" && login["success"] == true));
    assert!(shown(&honeynet, &dropped).contains("dropped program ran"), "{dropped}");
    assert!(has(&dropped["processes"], |process| process["argv"] == json!(["/bin/sh", "/dev/shm/d"])));
    let sample = |path: &str| {
        let samples = dropped["samples"].as_array().unwrap();
        let found = samples.iter().find(|sample| sample["path"] == path);
        let sha256 = found.unwrap_or_else(|| panic!("no {path} in {samples:?}"))["sha256"].as_str().unwrap();
        std::fs::read(honeynet.path("state/samples").join(sha256)).unwrap()
    };
    assert_eq!(sample("/dev/shm/d"), program);
    assert_eq!(sample("/home/admin/note"), b"kept\n");

    // Logs wiped and their writers killed: what is said after that is heard all the same.
    let wipe = "echo admin123 | sudo -S sh -c 'pkill -9 rsyslogd; rm -rf /var/log/*; logger after the wipe'";
    ssh(&honeynet, "admin123", &[&admin, wipe], b"");
    wait_for("the log line", || {
        let log = honeynet.run(&["events", "--id", "guest.log", "--text", "after the wipe", "--json"]).good();
        log.stdout.contains("devlog").then_some(())
    });

    // A terminal: what is typed and shown.
    ssh(&honeynet, "admin123", &["-tt", &admin], b"echo typed here\rhistory -c\rexit\r");
    let terminal = session(&honeynet, |session| has(&session["inputs"], |input| input["text"] == "exit"));
    for line in ["echo typed here", "history -c"] {
        assert!(has(&terminal["inputs"], |input| input["text"] == line), "{line}: {}", terminal["inputs"]);
    }
    assert!(shown(&honeynet, &terminal).contains("typed here"));
    // Events carry the session; Cowrie's users find their words.
    let id = terminal["id"].as_str().unwrap();
    let events = honeynet.run(&["events", "--type", "process", "--number", "1000", "--json"]).good().stdout;
    let of_it = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert!(of_it.into_iter().any(|event| event["session"] == id && event["event_id"] == "process.exec"));
    assert!(told(&honeynet, "session.closed", "") || events.contains(id));
    let cowrie = honeynet.run(&["sessions", id, "--cowrie"]).good().stdout;
    for eventid in
        ["cowrie.session.connect", "cowrie.login.success", "cowrie.command.input", "cowrie.session.closed"]
    {
        assert!(cowrie.contains(eventid), "{eventid}: {cowrie}");
    }
    let played = honeynet.run(&["play", id, "--speed", "1000"]).good().stdout;
    assert!(played.contains("typed here"));
    honeynet.run(&["play", "0123456789abcdef"]).fails(3, "there is no session 0123456789abcdef");
    honeynet.run(&["sessions", "../../etc/passwd"]).fails(3, "there is no session ../../etc/passwd");
}

#[test]
fn a_session_outlives_the_observer_that_records_it() {
    let honeynet = honeynet();
    let mut client = start_ssh(&honeynet, "admin123", &["-tt", &format!("admin@{DECOY}")]);
    let mut keys = client.stdin.take().unwrap();
    let all = || honeynet.run(&["sessions", "--json"]).good().json();
    let has_typed = |session: &Value, line: &str| has(&session["inputs"], |input| input["text"] == line);
    keys.write_all(b"echo first half\recho half a ").unwrap();
    let living = wait_for("the first half", || {
        let sessions = all();
        sessions.as_array().unwrap().iter().find(|session| has_typed(session, "echo first half")).cloned()
    });
    assert!(
        living["closed"].is_null() && living["resume"]["alive"].as_array().unwrap().len() > 1,
        "{living}"
    );

    // Killed in the middle of a line; nobody asks for another, and typing goes on before it is there.
    let first = observer_pid(&honeynet, None);
    kill(first);
    keys.write_all(b"line\r").unwrap();
    observer_pid(&honeynet, Some(first));
    keys.write_all(b"echo second half\rexit\r").unwrap();
    let ended = session(&honeynet, |session| has_typed(session, "exit"));
    assert!(client.wait().unwrap().success());

    assert_eq!((&ended["id"], &ended["opened"]), (&living["id"], &living["opened"]));
    // `up` has knocked at the port, which is a session as well.
    let with_lines =
        all().as_array().unwrap().iter().filter(|session| session["inputs"] != json!([])).count();
    assert_eq!(with_lines, 1);
    for line in ["echo first half", "echo half a line", "echo second half"] {
        assert!(has_typed(&ended, line), "{line}: {}", ended["inputs"]);
    }
    assert!(ended["resume"].is_null());
    assert_eq!(ended["tty"].as_array().unwrap().len(), 1);
    let shown = shown(&honeynet, &ended);
    assert!(
        ["first half\r\n", "half a line\r\n", "second half\r\n"].iter().all(|half| shown.contains(half)),
        "{shown}"
    );
    let name = ended["tty"][0]["name"].as_str().unwrap();
    let cast = std::fs::read_to_string(honeynet.path("state/tty").join(name)).unwrap();
    let times: Vec<f64> = cast
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str::<Value>(line).unwrap()[0].as_f64().unwrap())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(told(&honeynet, "service.failed", "observer"));
}

#[test]
fn a_change_of_the_kernel_names_the_session_that_made_it() {
    let honeynet = honeynet();
    // A breakpoint by the kernel's own means, left behind when he goes. `up` has knocked at the port as well: two looks at the kernel later that
    // session is out of the question.
    let probe = "sleep 25; cd /sys/kernel/tracing && echo p:x vfs_statfs > kprobe_events && \
                 echo 1 > events/kprobes/x/enable";
    ssh(&honeynet, "toor", &[&format!("root@{DECOY}"), probe], b"");
    let session =
        session(&honeynet, |session| has(&session["processes"], |process| process["argv"][2] == probe));
    let changed = wait_for("the finding", || {
        let events = honeynet.run(&["events", "--id", "integrity.changed", "--json"]).good().stdout;
        events.lines().next().map(|line| serde_json::from_str::<Value>(line).unwrap())
    });
    assert_eq!(
        (&changed["integrity"]["what"], &changed["session"]),
        (&json!("kprobe"), &session["id"]),
        "{changed}"
    );
}
