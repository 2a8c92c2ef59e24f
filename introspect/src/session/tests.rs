use std::collections::HashSet;
use std::os::fd::OwnedFd;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::trace::calls;
use crate::trace::record::{Chunk, Phase, Record};
use crate::trace::selection::FileKind;

const SSHD: u32 = 200;
const CHILD: u32 = 220;
const PEER: [u8; 16] = [2, 0, 0xc6, 0x80, 10, 77, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

/// A call of a task whose address is its process' number.
fn call(tgid: u32, name: &str, arguments: [u64; 6], result: i64) -> Traced {
    let enter = Record {
        phase: Phase::Enter(arguments),
        compat: false,
        kind: None,
        file: 0,
        number: calls::by_name(name).unwrap().number,
        time_ns: 1_000_000_000,
        seq: 1,
        task: u64::from(tgid),
        pid: tgid,
        tgid,
        uid: 0,
        vcpu: 0,
        comm: "sshd".to_owned(),
        chunks: Vec::new(),
    };
    Traced { enter, result: Some(result), duration_ns: 0, after: Vec::new(), comm: "sshd".to_owned() }
}

fn chunk(argument: u8, bytes: &[u8]) -> Chunk {
    Chunk {
        argument,
        index: 0,
        cut: false,
        faulted: false,
        length: bytes.len() as u64,
        bytes: bytes.to_vec(),
    }
}

fn moved(tgid: u32, name: &str, kind: FileKind, bytes: &[u8]) -> Traced {
    let mut traced = call(tgid, name, [5, 1, bytes.len() as u64, 0, 0, 0], bytes.len() as i64);
    traced.enter.kind = FileKind::ALL.iter().position(|each| *each == kind);
    traced.enter.file = 0xffff_8880_0000_1000;
    traced.enter.chunks.push(chunk(1, bytes));
    traced
}

struct Known(Vec<(u32, u32)>);

impl Guest for Known {
    fn parent(&self, task: u64) -> Option<u32> {
        self.0.iter().find(|(child, _)| u64::from(*child) == task).map(|(_, parent)| *parent)
    }

    fn arguments(&self, _task: u64) -> Option<Vec<String>> {
        None
    }

    fn folder(&self, _task: u64) -> Option<String> {
        None
    }

    fn program(&self, _task: u64) -> Option<(guest::Inode, String)> {
        None
    }

    fn written(&self, file: u64) -> Option<Found> {
        let bytes = b"#!/bin/sh\n".to_vec();
        let path = "/tmp/x".to_owned();
        (file != 0).then_some(Found { path, file: (1, file), size: bytes.len() as u64, bytes, absent: false })
    }

    fn inode(&self, file: u64) -> Option<(guest::Inode, String)> {
        Some((guest::Inode { at: file, file: (1, file) }, "/tmp/x".to_owned()))
    }

    fn contents(&self, inode: guest::Inode) -> Option<Found> {
        self.written(inode.at)
    }

    fn all_written(&self, _task: u64) -> Vec<Found> {
        Vec::new()
    }
}

struct House {
    folder: TempDir,
    sessions: Sessions,
    parents: Known,
    seconds: i64,
}

impl House {
    fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| -> OwnedFd {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::File::open(folder.path().join(name)).unwrap().into()
        };
        let folders = Folders::new(open("tty"), open("sessions"), open("samples"));
        let sessions = Sessions::new("web".to_owned(), 3, folders);
        House { folder, sessions, parents: Known(Vec::new()), seconds: 1_700_000_000 }
    }

    fn take(&mut self, call: &Traced) -> Vec<String> {
        self.seconds += 1;
        self.sessions.take(call, Timestamp::from_second(self.seconds).unwrap(), &self.parents);
        self.sessions.events().iter().map(|event| event.id.as_str().to_owned()).collect()
    }

    /// sshd takes a connection and forks.
    fn connect(&mut self) -> Vec<String> {
        let mut accept = call(SSHD, "accept", [3, 1, 1, 0, 0, 0], 5);
        accept.after.push(chunk(1, &PEER));
        self.take(&accept);
        self.take(&call(SSHD, "clone", [0x0120_0011, 0, 0, 0, 0, 0], i64::from(CHILD)))
    }

    fn report(&mut self) -> serde_json::Value {
        self.sessions.save().unwrap();
        let mut entries = std::fs::read_dir(self.folder.path().join("sessions")).unwrap();
        let path = entries.next().unwrap().unwrap().path();
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

#[test]
fn a_session_begins_with_a_fork_and_ends_with_its_last_process() {
    let mut house = House::new();
    assert_eq!(house.connect(), ["session.opened"]);
    assert!(house.sessions.wanted());
    assert!(house.take(&call(CHILD, "clone", [0; 6], 221)).is_empty());
    assert_eq!(house.take(&call(221, "exit_group", [0; 6], 0)), ["process.exit"]);
    assert_eq!(
        house.take(&call(CHILD, "exit_group", [255, 0, 0, 0, 0, 0], 0)),
        ["process.exit", "session.closed"]
    );
    let report = house.report();
    assert_eq!((&report["src_ip"], &report["src_port"]), (&json!("10.77.0.1"), &json!(0xc680)));
    assert!(report["closed"].is_string());
    assert!(!house.sessions.wanted());
}

#[test]
fn a_password_is_kept_with_its_user_and_whether_it_was_right() {
    let mut house = House::new();
    house.connect();
    let mut told = Vec::new();
    for bytes in
        [&b"\0\0\0\x09\x08\0\0\0\x04root"[..], b"\0\0\0\x08\x0c\0\0\0\x03abc", b"\0\0\0\x05\x0d\0\0\0\0"]
    {
        told.extend(house.take(&moved(CHILD, "write", FileKind::UnixStream, bytes)));
    }
    assert_eq!(told, ["session.login_failed"]);
    let login = &house.report()["logins"][0];
    assert_eq!(
        (&login["user"], &login["password"], &login["success"]),
        (&json!("root"), &json!("abc"), &json!(false))
    );
}

#[test]
fn what_a_terminal_shows_and_what_is_typed_is_recorded() {
    let mut house = House::new();
    house.connect();
    house.take(&moved(CHILD, "read", FileKind::PtyMaster, b"$ "));
    assert_eq!(house.take(&moved(CHILD, "write", FileKind::PtyMaster, b"id\r")), ["session.input"]);
    let report = house.report();
    assert_eq!(report["inputs"][0]["text"], "id");
    let name = report["tty"][0]["name"].as_str().unwrap();
    let cast = std::fs::read_to_string(house.folder.path().join("tty").join(name)).unwrap();
    assert!(cast.contains(r#","o","$ "]"#) && cast.contains(r#","i","id\r"]"#), "{cast}");
}

#[test]
fn a_child_that_acts_before_its_parents_fork_ends_belongs_to_the_session() {
    let mut house = House::new();
    house.connect();
    house.parents = Known(vec![(300, CHILD)]);
    let mut exec = call(300, "execve", [1, 1, 1, 0, 0, 0], 0);
    exec.enter.chunks = vec![chunk(0, b"/bin/sh"), chunk(1, b"sh"), chunk(1, b"-i")];
    assert_eq!(house.take(&exec), ["process.exec"]);
    let process = &house.report()["processes"][0];
    assert_eq!((&process["argv"], &process["ppid"]), (&json!(["sh", "-i"]), &json!(CHILD)));
}

#[test]
fn a_process_that_was_killed_is_missed() {
    let mut house = House::new();
    house.connect();
    let at = Timestamp::from_second(house.seconds + 5).unwrap();
    house.sessions.reap(&HashSet::from([1, SSHD]), at, &house.parents);
    assert!(!house.sessions.events().is_empty());
    assert!(house.report()["closed"].is_string());
}

#[test]
fn connections_from_the_machine_itself_and_threads_begin_nothing() {
    let mut house = House::new();
    let mut accept = call(SSHD, "accept4", [3, 1, 1, 0, 0, 0], 5);
    accept.after.push(chunk(1, &[2, 0, 0, 80, 127, 0, 0, 1]));
    house.take(&accept);
    assert!(house.take(&call(SSHD, "clone", [0; 6], 400)).is_empty());
    accept.after = vec![chunk(1, &PEER)];
    house.take(&accept);
    assert!(house.take(&call(SSHD, "clone", [CLONE_THREAD, 0, 0, 0, 0, 0], 401)).is_empty());
    assert!(house.take(&call(SSHD, "close", [5, 0, 0, 0, 0, 0], 0)).is_empty());
    assert!(!house.sessions.wanted());
}

#[test]
fn what_never_ends_is_bounded() {
    let mut house = House::new();
    house.connect();
    for number in 0..report::ENTRIES_MAX + 10 {
        let mut exec = call(CHILD, "execve", [1, 1, 1, 0, 0, 0], 0);
        exec.enter.chunks = vec![chunk(0, format!("/tmp/{number}").as_bytes())];
        house.take(&exec);
    }
    let report = house.report();
    assert_eq!(report["processes"].as_array().unwrap().len(), report::ENTRIES_MAX);
    assert_eq!(report["truncated"], true);
}

#[test]
fn a_file_that_was_written_is_kept_once_by_its_hash() {
    let mut house = House::new();
    house.connect();
    let mut exec = call(CHILD, "execve", [1, 1, 1, 0, 0, 0], 0);
    exec.enter.chunks = vec![chunk(0, b"/bin/sh")];
    house.take(&exec);
    let mut close = call(CHILD, "close", [3, 0, 0, 0, 0, 0], 0).enter;
    close.file = 7;
    for expected in [1, 0] {
        house.sessions.before(&close, Timestamp::from_second(house.seconds).unwrap(), &house.parents);
        assert_eq!(house.sessions.events().len(), expected);
    }
    let report = house.report();
    let sha256 = report["samples"][0]["sha256"].as_str().unwrap();
    assert_eq!(std::fs::read(house.folder.path().join("samples").join(sha256)).unwrap(), b"#!/bin/sh\n");
}

#[test]
fn a_file_that_no_call_closes_is_kept_when_it_is_quiet() {
    let mut house = House::new();
    house.connect();
    let mut exec = call(CHILD, "execve", [1, 1, 1, 0, 0, 0], 0);
    exec.enter.chunks = vec![chunk(0, b"/bin/sh")];
    house.take(&exec);
    let mut write = call(CHILD, "write", [1, 1, 5, 0, 0, 0], 5);
    write.enter.file = 9;
    house.take(&write);
    let alive = HashSet::from([1, SSHD, CHILD]);
    for (later_s, kept) in [(1, 0), (3, 1)] {
        let at = Timestamp::from_second(house.seconds + later_s).unwrap();
        house.sessions.reap(&alive, at, &house.parents);
        assert_eq!(house.report()["samples"].as_array().unwrap().len(), kept);
    }
}
