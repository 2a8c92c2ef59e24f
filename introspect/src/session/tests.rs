use std::collections::HashMap;
use std::os::fd::OwnedFd;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::trace::calls;
use crate::trace::record::{Chunk, Phase, Record};
use crate::trace::selection::FileKind;

const SSHD: u32 = 200;
const CHILD: u32 = 220;
/// Tasks from here on are in a namespace of their own.
const NESTED: u64 = 5000;
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

    fn is_nested(&self, task: u64) -> bool {
        task >= NESTED
    }

    fn newest_child(&self, pid: u32) -> Option<u32> {
        self.0.iter().rev().find(|(_, parent)| *parent == pid).map(|(child, _)| *child)
    }

    fn peer(&self, _task: u64, fd: u64) -> Option<peer::Peer> {
        (fd == 6).then(|| peer::Peer::parse(&PEER).unwrap())
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

fn sessions(folder: &TempDir, domain: &str) -> Sessions {
    let open = |name: &str| -> OwnedFd { std::fs::File::open(folder.path().join(name)).unwrap().into() };
    Sessions::new(domain.to_owned(), 3, Folders::new(open("tty"), open("sessions"), open("samples")))
}

impl House {
    fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tty", "sessions", "samples"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let sessions = sessions(&folder, "web");
        House { folder, sessions, parents: Known(Vec::new()), seconds: 1_700_000_000 }
    }

    /// These processes live, and that is written down.
    fn see(&mut self, alive: &[(u32, u64)]) {
        let at = Timestamp::from_second(self.seconds).unwrap();
        self.sessions.reap(&alive.iter().copied().collect(), at, &self.parents);
        self.sessions.save().unwrap();
    }

    /// Another observer of a domain of this name comes, when these processes live. Answers what it tells.
    fn take_up(&mut self, domain: &str, alive: &[(u32, u64)]) -> Vec<String> {
        self.sessions = sessions(&self.folder, domain);
        self.seconds += 10;
        let at = Timestamp::from_second(self.seconds).unwrap();
        self.sessions.take_up(Some(&alive.iter().copied().collect()), at, &self.parents);
        self.sessions.events().iter().map(|event| event.id.as_str().to_owned()).collect()
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
    house.sessions.reap(&HashMap::from([(1, 1), (SSHD, 2)]), at, &house.parents);
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
    let alive = HashMap::from([(1, 1), (SSHD, 2), (CHILD, 3)]);
    for (later_s, kept) in [(1, 0), (3, 1)] {
        let at = Timestamp::from_second(house.seconds + later_s).unwrap();
        house.sessions.reap(&alive, at, &house.parents);
        assert_eq!(house.report()["samples"].as_array().unwrap().len(), kept);
    }
}

/// A session with a shell at a terminal, in the middle of a line.
fn interrupted() -> House {
    let mut house = House::new();
    house.connect();
    house.take(&moved(CHILD, "read", FileKind::PtyMaster, b"$ "));
    house.take(&moved(CHILD, "write", FileKind::PtyMaster, b"uname\rid"));
    let mut exec = call(221, "execve", [1, 1, 1, 0, 0, 0], 0);
    exec.enter.chunks = vec![chunk(0, b"/bin/sh")];
    house.parents = Known(vec![(221, CHILD)]);
    house.take(&exec);
    house.see(&[(1, 1), (CHILD, 70), (221, 71)]);
    house
}

#[test]
fn another_observer_goes_on_with_a_session() {
    let mut house = interrupted();
    let id = house.report()["id"].clone();
    assert_eq!(house.take_up("web", &[(1, 1), (CHILD, 70), (221, 71)]), [""; 0]);
    assert!(house.sessions.wanted());
    // The trace is read again from where the last one gave it back.
    assert!(house.take(&moved(CHILD, "write", FileKind::PtyMaster, b"uname\rid")).is_empty());
    let mut typed = moved(CHILD, "write", FileKind::PtyMaster, b" -u\r");
    typed.enter.time_ns += 9_000_000_000;
    assert_eq!(house.take(&typed), ["session.input"]);
    assert_eq!(house.take(&call(221, "exit_group", [0; 6], 0)), ["process.exit"]);
    assert_eq!(house.take(&call(CHILD, "exit_group", [0; 6], 0)), ["process.exit", "session.closed"]);
    let report = house.report();
    assert_eq!((&report["id"], &report["tty"].as_array().unwrap().len()), (&id, &1));
    let inputs: Vec<_> = report["inputs"].as_array().unwrap().iter().map(|input| &input["text"]).collect();
    assert_eq!(inputs, ["uname", "id -u"]);
    assert!(report["resume"].is_null() && report["closed"].is_string());
    let name = report["tty"][0]["name"].as_str().unwrap();
    let cast = std::fs::read_to_string(house.folder.path().join("tty").join(name)).unwrap();
    assert_eq!(cast.lines().count(), 4, "{cast}");
}

#[test]
fn a_session_whose_processes_are_gone_is_closed_when_that_is_found_out() {
    // Killed; their numbers are others' now; the number of the domain is another's.
    for (domain, alive) in [
        ("web", &[(1, 1)][..]),
        ("web", &[(1, 1), (CHILD, 90), (221, 91)]),
        ("mail", &[(1, 1), (CHILD, 70), (221, 71)]),
    ] {
        let mut house = interrupted();
        let told = house.take_up(domain, alive);
        assert_eq!(told.last().map(String::as_str), Some("session.closed"), "{domain} {alive:?}");
        assert!(!house.sessions.wanted());
        let found = Timestamp::from_second(house.seconds).unwrap();
        assert_eq!(house.report()["closed"], json!(found));
        assert!(house.take_up("web", alive).is_empty());
    }
}

#[test]
fn what_is_no_report_is_not_taken_up() {
    let mut house = interrupted();
    let folder = house.folder.path().join("sessions");
    let name = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read(&name).unwrap();
    // Another's name, another's number, half a report.
    std::fs::write(folder.join("0123456700030009.json"), &text).unwrap();
    std::fs::write(folder.join("0123456700040009.json"), &text).unwrap();
    std::fs::write(folder.join("0123456700030008.json"), &text[..text.len() / 2]).unwrap();
    let before: usize = std::fs::read_dir(&folder).unwrap().count();
    house.take_up("web", &[(1, 1), (CHILD, 70), (221, 71)]);
    assert_eq!(house.sessions.live.len(), 1);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), before);
    // Numbers go on behind all that were given.
    assert_eq!(house.sessions.last, 9);
}

#[test]
fn a_domains_end_ends_its_sessions() {
    let mut house = interrupted();
    let at = Timestamp::from_second(house.seconds).unwrap();
    house.sessions.end(at, &house.parents);
    assert_eq!(house.report()["closed"], json!(at));
}

#[test]
fn a_window_that_changes_later_is_in_the_recording() {
    let mut house = House::new();
    house.connect();
    house.take(&moved(CHILD, "read", FileKind::PtyMaster, b"$ "));
    // rows and columns of TIOCSWINSZ, by who holds the master; others are no window's.
    for (kind, request, rows) in [
        (FileKind::PtyMaster, 0x5414, 40),
        (FileKind::PtyMaster, 0x5413, 41),
        (FileKind::Tty, 0x5414, 42),
        (FileKind::PtyMaster, 0x5414, 0),
    ] {
        let mut resize = moved(CHILD, "ioctl", kind, b"");
        resize.enter.phase = Phase::Enter([5, request, 1, 0, 0, 0]);
        resize.enter.chunks = vec![chunk(2, &[rows, 0, 132, 0, 0, 0, 0, 0])];
        resize.result = Some(0);
        house.take(&resize);
    }
    let name = house.report()["tty"][0]["name"].as_str().unwrap().to_owned();
    let cast = std::fs::read_to_string(house.folder.path().join("tty").join(name)).unwrap();
    assert!(cast.ends_with(",\"r\",\"132x40\"]\n") && cast.lines().count() == 3, "{cast}");
}

#[test]
fn what_a_master_in_packet_mode_reads_is_shown_without_its_heads() {
    let mut house = House::new();
    house.connect();
    let mut packets = moved(CHILD, "ioctl", FileKind::PtyMaster, b"");
    packets.enter.phase = Phase::Enter([5, 0x5420, 1, 0, 0, 0]);
    packets.enter.chunks = vec![chunk(2, &[1, 0, 0, 0, 0, 0, 0, 0])];
    packets.result = Some(0);
    house.take(&packets);
    for bytes in [&b"\0login: "[..], b"\x01", b"\0"] {
        house.take(&moved(CHILD, "read", FileKind::PtyMaster, bytes));
    }
    assert_eq!(house.report()["tty"][0]["bytes_shown"], 7);
}

#[test]
fn a_connection_of_a_server_that_does_not_ask_who_it_is_is_a_session_of_what_it_runs() {
    let mut house = House::new();
    let mut accept = call(SSHD, "accept", [7, 0, 0, 0, 0, 0], 6);
    accept.enter.comm = "inetd".to_owned();
    house.take(&accept);
    let mut fork = call(SSHD, "clone", [0x0120_0011, 0, 0, 0, 0, 0], i64::from(CHILD));
    fork.enter.comm = "inetd".to_owned();
    assert_eq!(house.take(&fork), ["session.opened"]);
    assert_eq!(
        (&house.report()["src_ip"], &house.report()["service"]),
        (&json!("10.77.0.1"), &json!("inetd"))
    );
    for (exe, service) in [(&b"/usr/sbin/telnetd"[..], "telnetd"), (b"/bin/sh", "telnetd")] {
        let mut exec = call(CHILD, "execve", [1, 1, 1, 0, 0, 0], 0);
        exec.enter.chunks = vec![chunk(0, exe)];
        house.take(&exec);
        assert_eq!(house.report()["service"], service);
    }
}

#[test]
fn a_password_that_su_asks_for_is_a_login_of_the_session() {
    let mut house = House::new();
    house.connect();
    house.take(&call(CHILD, "clone", [0; 6], 221));
    let exec = |pid, exe: &[u8], argv: &[&[u8]]| {
        let mut exec = call(pid, "execve", [1, 1, 1, 0, 0, 0], 0);
        exec.enter.chunks = vec![chunk(0, exe)];
        exec.enter.chunks.extend(argv.iter().map(|word| chunk(1, word)));
        exec
    };
    house.take(&exec(221, b"/usr/bin/su", &[b"su", b"-"]));
    let mut echo = moved(221, "ioctl", FileKind::Tty, b"");
    echo.enter.phase = Phase::Enter([0, 0x5404, 1, 0, 0, 0]);
    echo.enter.chunks = vec![chunk(2, &[0; 16])];
    house.take(&echo);
    house.take(&moved(221, "write", FileKind::Tty, b"Password: "));
    house.take(&moved(221, "read", FileKind::Tty, b"toor\n"));
    house.take(&call(221, "clone", [0; 6], 222));
    assert_eq!(house.take(&exec(222, b"/bin/bash", &[b"-bash"])), ["session.login", "process.exec"]);
    let login = &house.report()["logins"][0];
    assert_eq!(
        (&login["service"], &login["user"], &login["password"], &login["method"], &login["success"]),
        (&json!("su"), &json!("root"), &json!("toor"), &json!("password"), &json!(true))
    );
}

#[test]
fn an_ftp_servers_processes_share_one_dialog() {
    let mut house = House::new();
    let mut accept = call(SSHD, "accept", [3, 1, 1, 0, 0, 0], 5);
    accept.after.push(chunk(1, &PEER));
    house.take(&accept);
    let mut fork = call(SSHD, "clone", [0x0800_0011, 0, 0, 0, 0, 0], i64::from(CHILD));
    fork.enter.comm = "vsftpd".to_owned();
    house.take(&fork);
    house.take(&call(CHILD, "clone", [0; 6], 221));
    let mut peeked = moved(CHILD, "recvfrom", FileKind::Tcp6, b"USER nobody\r\nPASS peeked\r\n");
    peeked.enter.phase = Phase::Enter([0, 1, 4096, 2, 0, 0]);
    for (pid, name, bytes) in [(CHILD, "read", &b"USER admin\r\n"[..]), (CHILD, "read", b"PASS pw\r\n")] {
        house.take(&peeked);
        house.take(&moved(pid, name, FileKind::Tcp6, bytes));
    }
    assert_eq!(
        house.take(&moved(221, "write", FileKind::Tcp6, b"230 Login successful.\r\n")),
        ["session.login"]
    );
    let login = &house.report()["logins"][0];
    assert_eq!(
        (&login["service"], &login["user"], &login["password"]),
        (&json!("vsftpd"), &json!("admin"), &json!("pw"))
    );
}

#[test]
fn numbers_of_another_namespace_are_not_taken_for_ours() {
    let mut house = House::new();
    // A server in a container: its child is 7 there.
    let mut accept = call(5000, "accept", [3, 1, 1, 0, 0, 0], 5);
    accept.after.push(chunk(1, &PEER));
    house.take(&accept);
    house.parents = Known(vec![(5001, 5000)]);
    assert_eq!(house.take(&call(5000, "clone", [0; 6], 7)), ["session.opened"]);
    assert_eq!(house.report()["pid"], 5001);
    // And the child's child is 8 there; it is known when it does something.
    house.take(&call(5001, "clone", [0; 6], 8));
    house.parents = Known(vec![(5002, 5001)]);
    let mut exec = call(5002, "execve", [1, 1, 1, 0, 0, 0], 0);
    exec.enter.chunks = vec![chunk(0, b"/bin/sh")];
    assert_eq!(house.take(&exec), ["process.exec"]);
    for (pid, told) in [(5002, 1), (5001, 2)] {
        assert_eq!(house.take(&call(pid, "exit_group", [0; 6], 0)).len(), told);
    }
    assert!(!house.sessions.wanted());
}
