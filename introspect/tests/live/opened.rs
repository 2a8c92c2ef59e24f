//! A program of two threads that has opened what has no name in any directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use introspect::walk::files::FileType;
use introspect::walk::pids::Pids;
use introspect::walk::sockets::{self, Sockets};
use introspect::walk::tasks::{STEPS_MAX, Tasks, Threads};

use super::files::{files_of, said};
use super::guest::{Guest, guest};

const FLAGS: [&str; 10] = [
    "-Os",
    "-static",
    "-nostdlib",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-no-pie",
    "-fcf-protection=none",
    "-Wl,--build-id=none",
    "-Wl,--omagic,--no-warn-rwx-segments",
    "-s",
];

/// Builds `sources/NAME.c` and puts it into the guest, once; answers its path there.
pub fn put(guest: &mut Guest, name: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/live/sources/{name}.c"));
    assert!(Command::new("gcc").args(FLAGS).arg("-o").arg(&program).arg(source).status().unwrap().success());
    let path = format!("/tmp/{name}");
    if guest.run(&format!("ls {path}")).contains("No such file") {
        guest.put_program(&path, &std::fs::read(&program).unwrap());
    }
    path
}

/// Runs the program; answers its number.
fn start(guest: &mut Guest) -> u32 {
    put(guest, "open");
    let pid = guest.run("/tmp/open & echo $!").parse().unwrap();
    let tasks = Tasks::of(&guest.symbols).unwrap();
    super::tasks::wait_for(&guest.view, &tasks, pid, |task| task.comm == "open" && task.state == 'S');
    // Its second thread takes its name only when it runs.
    let sleeps = |guest: &Guest| {
        let listing = tasks.list(&guest.view.look(STEPS_MAX), Threads::All);
        listing.items.iter().any(|task| task.tgid == pid && task.comm == "second" && task.state == 'S')
    };
    for _ in 0..200 {
        if sleeps(guest) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    pid
}

#[test]
fn threads_belong_to_their_process_and_are_found_by_number() {
    let mut guest = guest();
    let pid = start(&mut guest);
    let tasks = Tasks::of(&guest.symbols).unwrap();
    let look = guest.view.look(STEPS_MAX);
    let listing = tasks.list(&look, Threads::All);
    assert_eq!(listing.incomplete, None);
    let ours: Vec<_> = listing.items.iter().filter(|task| task.tgid == pid).collect();
    let described: Vec<_> =
        ours.iter().map(|task| (task.comm.as_str(), task.exe.as_deref(), task.state)).collect();
    assert_eq!(described, [("open", Some("/tmp/open"), 'S'), ("second", Some("/tmp/open"), 'S')]);
    assert!(ours[1].pid > pid && ours[1].ppid == ours[0].ppid);
    let firsts = tasks.list(&look, Threads::First);
    assert!(firsts.items.iter().all(|task| task.pid == task.tgid));
    let numbers = Pids::of(&guest.symbols).unwrap().list(&look);
    assert!(numbers.items.iter().any(|pid| pid.number == ours[1].pid && pid.task == ours[1].at));
    guest.run(&format!("kill {pid}"));
}

#[test]
fn files_without_a_place_have_the_names_that_proc_shows() {
    let mut guest = guest();
    let pid = start(&mut guest);
    let files = files_of(&guest, pid, "open");
    let seen: BTreeMap<u32, String> = files.iter().map(|(fd, file)| (*fd, file.name.clone())).collect();
    let said = said(&mut guest, pid);
    assert_eq!(seen, said);
    let names: BTreeSet<&str> = seen.values().map(String::as_str).collect();
    for name in ["anon_inode:[eventpoll]", "anon_inode:[eventfd]", "/memfd:memory (deleted)"] {
        assert!(names.contains(name), "{names:?}");
    }
    assert!(files.values().any(|file| file.file_type == FileType::Anonymous));
    guest.run(&format!("kill {pid}"));
}

#[test]
fn sockets_show_their_owner_and_their_name() {
    let mut guest = guest();
    let pid = start(&mut guest);
    let tasks = Tasks::of(&guest.symbols).unwrap().list(&guest.view.look(STEPS_MAX), Threads::First);
    let listing =
        Sockets::of(&guest.symbols).unwrap().list(&guest.view.look(sockets::STEPS_MAX), &tasks.items);
    assert_eq!(listing.incomplete, None);
    let ours: Vec<_> =
        listing.items.iter().filter(|socket| socket.owners.iter().any(|owner| owner.pid == pid)).collect();
    let protocols: Vec<&str> = ours.iter().map(|socket| socket.protocol).collect();
    assert_eq!(protocols, ["netlink", "udp6", "unix", "unix", "unix"]);
    assert_eq!(ours[1].local.map(|end| end.port), Some(4005));
    assert!(ours.iter().any(|socket| socket.path.as_deref() == Some("@hidden")));
    assert_eq!(ours.iter().filter(|socket| socket.state == "ESTABLISHED").count(), 2);
    guest.run(&format!("kill {pid}"));
}
