//! A session that lives: its report as it grows, its recordings, and what its programs tell each other.

use std::collections::HashMap;
use std::io;

use events::{Event, EventId};
use jiff::Timestamp;

use super::folders::Folders;
use super::ftp::{Cut, Dialog};
use super::guest::Found;
use super::password::{Guess, Place, Prompts, Told};
use super::peer::Peer;
use super::privsep::{Said, Stream};
use super::report::{self, Report};
use super::samples::{Dirty, Kept};
use super::screens::{Moment, Packets, Screen, Screens, Shown};
use crate::trace::pairing::Traced;
use crate::trace::selection::FileKind;

/// Sockets of one session between the parts of a server.
const STREAMS_MAX: usize = 256;
/// Connections of one session at which somebody may log in.
const DIALOGS_MAX: usize = 64;
/// Servers that take a connection for another program.
const SUPERSERVERS: [&str; 4] = ["inetd", "xinetd", "tcpd", "systemd"];
/// `TCSETS`, `TCSETSW`, `TCSETSF`.
const SET_ATTRIBUTES: std::ops::RangeInclusive<u64> = 0x5402..=0x5404;
/// `MSG_PEEK`.
const PEEK: u64 = 2;
/// `TIOCSWINSZ`.
const SET_WINDOW_SIZE: u64 = 0x5414;
/// `TIOCPKT`.
const SET_PACKET_MODE: u64 = 0x5420;
const O_ACCMODE: u64 = 3;

/// A session that lives.
pub struct Live {
    /// What is written of it.
    pub report: Report,
    /// Its processes, with when they began once that was seen: nanoseconds since boot.
    pub processes: HashMap<u32, Option<u64>>,
    /// It is not written as it is.
    pub changed: bool,
    /// Files that are being written.
    pub dirty: Dirty,
    streams: HashMap<(u32, u64), Stream>,
    prompts: Prompts,
    dialogs: HashMap<u64, Dialog>,
    screens: Screens,
    user: Option<String>,
    guess: Option<String>,
    kept: Kept,
}

/// What the guest's memory tells of a program that was run.
pub struct Started {
    /// Its parent, or 0.
    pub ppid: u32,
    /// Its arguments; what the call named where it tells none.
    pub argv: Option<Vec<String>>,
    /// Where it was run.
    pub folder: Option<String>,
}

/// A login, or a guess.
struct Tried<'a> {
    service: &'a str,
    pid: u32,
    user: String,
    method: &'a str,
    password: Option<String>,
    right: bool,
}

impl Live {
    /// One that begins.
    pub fn new(
        id: &str,
        domain: (&str, u32),
        service: String,
        pid: u32,
        opened: Timestamp,
        peer: Peer,
    ) -> Live {
        Live {
            report: Report {
                id: id.to_owned(),
                domain: domain.0.to_owned(),
                domid: domain.1,
                service,
                pid,
                opened,
                closed: None,
                src_ip: peer.address.to_string(),
                src_port: peer.port,
                logins: Vec::new(),
                inputs: Vec::new(),
                processes: Vec::new(),
                files: Vec::new(),
                connections: Vec::new(),
                samples: Vec::new(),
                tty: Vec::new(),
                truncated: false,
                resume: None,
            },
            processes: HashMap::from([(pid, None)]),
            changed: true,
            dirty: Dirty::default(),
            streams: HashMap::new(),
            prompts: Prompts::default(),
            dialogs: HashMap::new(),
            screens: Screens::default(),
            user: None,
            guess: None,
            kept: Kept::default(),
        }
    }

    /// One that an observer has left that is gone.
    pub fn resumed(mut report: Report, folders: &Folders) -> Live {
        let resume = report.resume.take().unwrap_or_default();
        Live {
            processes: resume.alive.iter().map(|process| (process.pid, Some(process.start_ns))).collect(),
            changed: true,
            dirty: Dirty::default(),
            streams: HashMap::new(),
            prompts: Prompts::default(),
            dialogs: HashMap::new(),
            screens: Screens::resumed(&report, &resume.screens, folders),
            user: resume.user,
            guess: None,
            kept: Kept::resumed(&report.samples),
            report,
        }
    }

    /// What another observer must know to go on with it; `exe` tells a process' program.
    pub fn resume(&self, exe: impl Fn(u32) -> String) -> report::Resume {
        let alive = self.processes.iter().filter_map(|(pid, start_ns)| {
            Some(report::Alive { pid: *pid, start_ns: (*start_ns)?, exe: exe(*pid) })
        });
        report::Resume {
            alive: alive.take(report::ALIVE_MAX).collect(),
            screens: self.screens.resume(),
            user: self.user.clone(),
        }
    }

    /// An event of it.
    pub fn event(&self, id: EventId, at: Timestamp) -> Event {
        let mut event = Event::new(id, at).domain(self.report.domain.clone(), Some(self.report.domid));
        event.session = Some(self.report.id.clone());
        event.with("src_ip", self.report.src_ip.clone()).with("src_port", self.report.src_port)
    }

    /// A call of one of its processes.
    pub fn take(
        &mut self,
        call: &Traced,
        name: &str,
        at: Timestamp,
        exe: &str,
        folders: &Folders,
    ) -> Vec<Event> {
        match name {
            "read" | "readv" | "recvmsg" | "recvfrom" => self.moved(call, at, exe, Way::In, folders),
            "write" | "writev" | "sendmsg" | "sendto" => self.moved(call, at, exe, Way::Out, folders),
            "ioctl" => {
                self.terminal_set(call, at, folders);
                Vec::new()
            }
            "setuid" | "setreuid" | "setresuid" => self.new_user(call, at, exe, name).into_iter().collect(),
            "connect" => self.connected(call, at, exe).into_iter().collect(),
            _ => self.file_changed(call, name, at, exe).into_iter().collect(),
        }
    }

    /// A program was run.
    pub fn executed(&mut self, call: &Traced, at: Timestamp, exe: String, started: Started) -> Vec<Event> {
        let Started { ppid, argv, folder } = started;
        let first = u8::from(call.call().is_some_and(|known| known.name == "execveat")) + 1;
        let strings = |argument: u8| -> Vec<String> {
            let of = call.enter.chunks.iter().filter(|chunk| chunk.argument == argument);
            of.map(|chunk| String::from_utf8_lossy(&chunk.bytes).into_owned()).collect()
        };
        let argv = argv.unwrap_or_else(|| strings(first));
        let (pid, uid) = (call.enter.tgid, call.enter.uid);
        if pid == self.report.pid && SUPERSERVERS.contains(&base(&self.report.service)) {
            self.report.service = base(&exe).to_owned();
        }
        let mut events: Vec<Event> =
            self.prompts.executed(pid, &exe, &argv).map(|told| self.prompted(told, at)).into_iter().collect();
        let process = report::Process {
            pid,
            ppid,
            uid,
            exe: exe.clone(),
            argv: argv.clone(),
            cwd: folder.clone(),
            began: at,
            ended: None,
            status: None,
        };
        Report::push(&mut self.report.processes, &mut self.report.truncated, process);
        self.changed = true;
        let event = self.event(EventId::ProcessExec, at).with("pid", pid).with("ppid", ppid).with("uid", uid);
        events.push(
            event.with("exe", exe).with("argv", argv).with("envp", strings(first + 1)).with("cwd", folder),
        );
        events
    }

    /// A process has a child.
    pub fn forked(&mut self, parent: u32, child: u32) {
        self.processes.entry(child).or_insert(None);
        self.prompts.forked(parent, child);
        self.changed = true;
    }

    /// A process ended.
    pub fn exited(&mut self, pid: u32, exe: &str, at: Timestamp, status: Option<i32>) -> Vec<Event> {
        self.processes.remove(&pid);
        let told = self.prompts.exited(pid, status);
        let mut events: Vec<Event> = told.map(|told| self.prompted(told, at)).into_iter().collect();
        let own =
            self.report.processes.iter_mut().filter(|process| process.pid == pid && process.ended.is_none());
        own.for_each(|process| (process.ended, process.status) = (Some(at), status));
        self.changed = true;
        let event = self.event(EventId::ProcessExit, at).with("pid", pid).with("exe", exe);
        events.push(event.with("status", status));
        events
    }

    /// Is this the program that took the connection? It is called by its short name until it runs another.
    pub fn is_service(&self, exe: &str) -> bool {
        exe == self.report.service || base(exe) == self.report.service
    }

    /// Keeps a file; answers its event if it is new.
    ///
    /// # Errors
    /// The disk is full, or broken.
    pub fn keep(
        &mut self,
        found: &Found,
        how: &str,
        pid: u32,
        at: Timestamp,
        folders: &Folders,
    ) -> io::Result<Option<Event>> {
        let Some(new) = self.kept.keep(found, folders)? else {
            return Ok(None);
        };
        let sample = report::Sample {
            time: at,
            sha256: new.sha256.clone(),
            bytes: found.bytes.len() as u64,
            path: found.path.clone(),
            how: how.to_owned(),
            truncated: new.truncated,
        };
        Report::push(&mut self.report.samples, &mut self.report.truncated, sample);
        self.changed = true;
        let event =
            self.event(EventId::SampleKept, at).with("sha256", new.sha256).with("bytes", found.bytes.len());
        let event = event.with("path", found.path.clone()).with("how", how).with("pid", pid);
        Ok(Some(event.with("truncated", new.truncated)))
    }

    /// The last process ended.
    pub fn closed(&mut self, at: Timestamp) -> Event {
        self.report.closed = Some(at);
        self.report.resume = None;
        let report = &self.report;
        let names: Vec<&str> = report.tty.iter().map(|tty| tty.name.as_str()).collect();
        let seconds = at.duration_since(report.opened).as_secs_f64();
        self.event(EventId::SessionClosed, at)
            .with("service", report.service.clone())
            .with("duration_s", seconds)
            .with("commands", report.processes.len())
            .with("logins", report.logins.iter().filter(|login| login.success).count())
            .with("tty", names)
            .with("bytes_shown", report.tty.iter().map(|tty| tty.bytes_shown).sum::<u64>())
            .with("bytes_typed", report.tty.iter().map(|tty| tty.bytes_typed).sum::<u64>())
    }

    /// Bytes went through a descriptor.
    fn moved(&mut self, call: &Traced, at: Timestamp, exe: &str, way: Way, folders: &Folders) -> Vec<Event> {
        let fd = call.arguments()[0];
        if call.result.is_none_or(|result| result <= 0) {
            return Vec::new();
        }
        let is_service = self.is_service(exe);
        let kind = call.enter.kind.and_then(FileKind::at);
        match (kind, way) {
            (Some(FileKind::PtyMaster), way) => {
                let screen = Screen::Terminal(call.enter.file);
                self.record(call, at, screen, way.seen_from_master(), folders)
            }
            _ if self.prompts.has(call.enter.tgid) => self.asked(call, at, kind, way).into_iter().collect(),
            (Some(FileKind::Tcp | FileKind::Tcp6), way) if base(exe).contains("ftpd") => {
                self.dialog(call, at, exe, way).into_iter().collect()
            }
            (Some(FileKind::UnixStream), Way::Out)
                if is_service && base(exe).starts_with("sshd") && !self.logged_in() =>
            {
                self.said(call, at, fd)
            }
            // The server of a command without a terminal reads what it prints, and writes what it is given.
            (Some(FileKind::Pipe), way) if is_service && self.logged_in() => {
                self.record(call, at, Screen::Plain, way.seen_from_master(), folders)
            }
            _ => Vec::new(),
        }
    }

    /// A program that asks for a password reads and writes at its terminal, or at what it was given in place of one.
    fn asked(&mut self, call: &Traced, at: Timestamp, kind: Option<FileKind>, way: Way) -> Option<Event> {
        let (pid, fd) = (call.enter.tgid, call.arguments()[0]);
        let place = match kind {
            Some(FileKind::Tty | FileKind::Console) => Place::Terminal,
            _ if fd <= 2 => Place::Standard,
            _ => return None,
        };
        let told = match way {
            Way::In => self.prompts.read(pid, place, &call.bytes(1)),
            Way::Out => self.prompts.wrote(pid, &call.bytes(1)),
        };
        told.map(|told| self.prompted(told, at))
    }

    fn prompted(&mut self, (program, pid, guess): Told, at: Timestamp) -> Event {
        let Guess { user, password, right } = guess;
        let tried =
            Tried { service: program.name(), pid, user, method: "password", password: Some(password), right };
        self.tried(tried, at)
    }

    /// An FTP server speaks with its client.
    fn dialog(&mut self, call: &Traced, at: Timestamp, exe: &str, way: Way) -> Option<Event> {
        let file = call.enter.file;
        if !self.dialogs.contains_key(&file) && self.dialogs.len() >= DIALOGS_MAX {
            return None;
        }
        let dialog = self.dialogs.entry(file).or_default();
        match way {
            Way::In => {
                let flags = match call.call()?.name {
                    "recvfrom" => call.arguments()[3],
                    "recvmsg" => call.arguments()[2],
                    _ => 0,
                };
                if flags & PEEK == 0 {
                    let cut = call.named(1).is_some_and(|chunk| chunk.cut);
                    dialog.heard(&call.bytes(1), if cut { Cut::Yes } else { Cut::No });
                }
                None
            }
            Way::Out => {
                let Guess { user, password, right } = dialog.answered(&call.bytes(1))?;
                let (service, pid) = (base(exe), call.enter.tgid);
                let password = Some(password);
                Some(self.tried(Tried { service, pid, user, method: "password", password, right }, at))
            }
        }
    }

    fn logged_in(&self) -> bool {
        self.report.logins.iter().any(|login| login.success)
    }

    fn record(
        &mut self,
        call: &Traced,
        at: Timestamp,
        screen: Screen,
        shown: Shown,
        folders: &Folders,
    ) -> Vec<Event> {
        let moment = Moment { time_ns: call.enter.time_ns + call.duration_ns, at };
        let bytes = call.bytes(1);
        let taken = self.screens.take(screen, shown, &bytes, moment, &mut self.report, folders);
        self.changed = true;
        let (tty, lines) = taken.unwrap_or_default();
        lines.into_iter().map(|text| self.typed(text, tty, at)).collect()
    }

    fn typed(&mut self, text: String, tty: usize, at: Timestamp) -> Event {
        let input = report::Input { time: at, tty: tty + 1, text: text.clone() };
        Report::push(&mut self.report.inputs, &mut self.report.truncated, input);
        self.event(EventId::SessionInput, at).with("text", text).with("tty", tty + 1)
    }

    /// Who holds a terminal's master says how large its window is, or how he wants to read it; who has the terminal, whether it echoes.
    fn terminal_set(&mut self, call: &Traced, at: Timestamp, folders: &Folders) {
        let kind = call.enter.kind.and_then(FileKind::at);
        if kind == Some(FileKind::Tty) && SET_ATTRIBUTES.contains(&(call.arguments()[1] & 0xffff_ffff)) {
            self.prompts.terminal_set(call.enter.tgid, &call.bytes(2));
        }
        let master = kind == Some(FileKind::PtyMaster);
        let words = call.named(2).and_then(|chunk| chunk.bytes.first_chunk::<8>());
        let Some(words) = words.filter(|_| master && call.result == Some(0)) else {
            return;
        };
        let word = |index: usize| u16::from_le_bytes([words[2 * index], words[2 * index + 1]]);
        let moment = Moment { time_ns: call.enter.time_ns + call.duration_ns, at };
        match call.arguments()[1] & 0xffff_ffff {
            SET_WINDOW_SIZE => {
                let size = (word(1), word(0));
                self.screens.resize(call.enter.file, size, moment, &mut self.report, folders);
                self.changed = true;
            }
            SET_PACKET_MODE => {
                let packets = if (word(0), word(1)) == (0, 0) { Packets::Off } else { Packets::On };
                self.screens.set_packets(call.enter.file, packets);
            }
            _ => {}
        }
    }

    /// What the parts of a server tell each other.
    fn said(&mut self, call: &Traced, at: Timestamp, fd: u64) -> Vec<Event> {
        if self.streams.len() >= STREAMS_MAX {
            self.streams.clear();
        }
        let stream = self.streams.entry((call.enter.tgid, fd)).or_default();
        let said = stream.take(&call.bytes(1));
        said.into_iter().filter_map(|said| self.understood(said, at)).collect()
    }

    fn understood(&mut self, said: Said, at: Timestamp) -> Option<Event> {
        match said {
            Said::User(user) => {
                self.user = Some(user);
                None
            }
            Said::Password(password) => {
                self.guess = Some(password);
                None
            }
            Said::PasswordAnswer(right) => {
                let password = self.guess.take();
                // The server asks with no password at first, to learn whether one is needed.
                password.as_ref().filter(|password| right || !password.is_empty())?;
                Some(self.login(at, "password", password, right))
            }
            Said::KeyAnswer(right) => Some(self.login(at, "publickey", None, right)),
        }
    }

    fn login(&mut self, at: Timestamp, method: &str, password: Option<String>, right: bool) -> Event {
        let (service, user) = (self.report.service.clone(), self.user.clone().unwrap_or_default());
        let pid = self.report.pid;
        self.tried(Tried { service: &service, pid, user, method, password, right }, at)
    }

    fn tried(&mut self, tried: Tried<'_>, at: Timestamp) -> Event {
        let Tried { service, pid, user, method, password, right } = tried;
        let login = report::Login {
            time: at,
            service: service.to_owned(),
            user: user.clone(),
            password: password.clone(),
            method: method.to_owned(),
            success: right,
        };
        Report::push(&mut self.report.logins, &mut self.report.truncated, login);
        self.changed = true;
        let id = if right { EventId::SessionLogin } else { EventId::SessionLoginFailed };
        let event = self.event(id, at).with("user", user).with("method", method).with("password", password);
        event.with("service", service).with("pid", pid)
    }

    fn new_user(&mut self, call: &Traced, at: Timestamp, exe: &str, name: &str) -> Option<Event> {
        let wanted = call.arguments()
            [usize::from(name == "setreuid" && call.arguments()[0] as u32 == u32::MAX)]
            as u32;
        if call.result != Some(0) || wanted == u32::MAX || wanted == call.enter.uid {
            return None;
        }
        let event = self.event(EventId::ProcessSetuid, at).with("pid", call.enter.tgid).with("exe", exe);
        Some(event.with("before", call.enter.uid).with("after", wanted))
    }

    fn connected(&mut self, call: &Traced, at: Timestamp, exe: &str) -> Option<Event> {
        let peer = Peer::parse(&call.address(1)?.bytes)?;
        // A library asks the kernel for its own address this way; nothing is sent.
        if peer.address.is_unspecified() {
            return None;
        }
        let result = call.result.unwrap_or(0);
        let connection = report::Connection {
            time: at,
            pid: call.enter.tgid,
            exe: exe.to_owned(),
            address: peer.address.to_string(),
            port: peer.port,
            result,
        };
        Report::push(&mut self.report.connections, &mut self.report.truncated, connection);
        self.changed = true;
        let event = self.event(EventId::ProcessConnect, at).with("pid", call.enter.tgid).with("exe", exe);
        Some(event.with("address", peer.address.to_string()).with("port", peer.port).with("result", result))
    }

    fn file_changed(&mut self, call: &Traced, name: &str, at: Timestamp, exe: &str) -> Option<Event> {
        if call.result.is_none_or(|result| result < 0) {
            return None;
        }
        let values = call.arguments();
        let (what, path, to) = match name {
            "open" if values[1] & O_ACCMODE != 0 => ("write", 0, None),
            "openat" if values[2] & O_ACCMODE != 0 => ("write", 1, None),
            "creat" => ("write", 0, None),
            "unlink" => ("unlink", 0, None),
            "unlinkat" => ("unlink", 1, None),
            "rename" => ("rename", 0, call.string(1)),
            "renameat" | "renameat2" => ("rename", 1, call.string(3)),
            "chmod" => ("chmod", 0, Some(format!("{:04o}", values[1] & 0o7777))),
            "fchmodat" => ("chmod", 1, Some(format!("{:04o}", values[2] & 0o7777))),
            _ => return None,
        };
        let path = call.string(path)?;
        // Terminals and the kernel's own files are written all the time.
        if ["/dev/", "/proc/"].iter().any(|folder| path.starts_with(folder)) && !path.starts_with("/dev/shm/")
        {
            return None;
        }
        let change = report::FileChange {
            time: at,
            pid: call.enter.tgid,
            exe: exe.to_owned(),
            what: what.to_owned(),
            path: path.clone(),
            to: to.clone(),
        };
        Report::push(&mut self.report.files, &mut self.report.truncated, change);
        self.changed = true;
        let event = self.event(EventId::ProcessFile, at).with("pid", call.enter.tgid).with("exe", exe);
        Some(event.with("what", what).with("path", path).with("to", to))
    }
}

/// Which way bytes went, as the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Way {
    /// Who holds the master reads what is shown and writes what is typed.
    fn seen_from_master(self) -> Shown {
        match self {
            Way::In => Shown::Shown,
            Way::Out => Shown::Typed,
        }
    }
}

fn base(exe: &str) -> &str {
    exe.rsplit('/').next().unwrap_or(exe)
}
