//! A session as it is written down: `STATE/sessions/ID.json`. Any text in it may be an intruder's.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Entries of each list; a session that has more says that it is truncated.
pub const ENTRIES_MAX: usize = 10_000;
/// Processes of a session that are written down as living.
pub const ALIVE_MAX: usize = 4096;

/// A session: one connection from outside and all that came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// 16 hexadecimal digits.
    pub id: String,
    /// The domain.
    pub domain: String,
    /// Its number.
    pub domid: u32,
    /// The program that took the connection.
    pub service: String,
    /// The process that it began with.
    pub pid: u32,
    /// When it began.
    pub opened: Timestamp,
    /// When its last process ended.
    pub closed: Option<Timestamp>,
    /// Where it came from, as the decoy saw it.
    pub src_ip: String,
    /// And from which port.
    pub src_port: u16,
    /// Logins and guesses.
    pub logins: Vec<Login>,
    /// Lines typed.
    pub inputs: Vec<Input>,
    /// Programs run.
    pub processes: Vec<Process>,
    /// Files changed.
    pub files: Vec<FileChange>,
    /// Connections made from it.
    pub connections: Vec<Connection>,
    /// Files kept.
    pub samples: Vec<Sample>,
    /// Recordings.
    pub tty: Vec<Tty>,
    /// There was more than is written here.
    pub truncated: bool,
    /// What another observer must know to go on with it, while it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// How a session that lives is taken up by another observer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Resume {
    /// Its processes, at most [`ALIVE_MAX`].
    pub alive: Vec<Alive>,
    /// Its recordings.
    pub screens: Vec<Screen>,
    /// As whom its last login was.
    pub user: Option<String>,
}

/// A process that lives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Alive {
    /// Its number.
    pub pid: u32,
    /// When it began, in nanoseconds since boot: another one may have its number later.
    pub start_ns: u64,
    /// Its program.
    pub exe: String,
}

/// A recording that goes on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Screen {
    /// Its place in `tty`.
    pub tty: usize,
    /// The terminal's open file in the guest; none: of programs without one.
    pub terminal: Option<u64>,
    /// The terminal is in packet mode.
    pub packets: bool,
    /// When it began, in the domain's system time.
    pub began_ns: u64,
    /// And in seconds since 1970.
    pub timestamp: i64,
}

/// A login, or a guess.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Login {
    /// When.
    pub time: Timestamp,
    /// The program that asked: the one that took the connection, or `su`, `sudo`, `login`.
    #[serde(default)]
    pub service: String,
    /// As whom.
    pub user: String,
    /// With what.
    pub password: Option<String>,
    /// `password` or `publickey`.
    pub method: String,
    /// It was right.
    pub success: bool,
}

/// A line typed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// When it was ended.
    pub time: Timestamp,
    /// At which recording.
    pub tty: usize,
    /// The line.
    pub text: String,
}

/// A program that was run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// Its real user.
    pub uid: u32,
    /// The program, as it was named.
    pub exe: String,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Where it was run.
    pub cwd: Option<String>,
    /// When it was run.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How; `None`: by a signal, or not yet.
    pub status: Option<i32>,
}

/// A change of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileChange {
    /// When.
    pub time: Timestamp,
    /// By which process.
    pub pid: u32,
    /// Its program.
    pub exe: String,
    /// `write`, `rename`, `unlink`, `chmod`.
    pub what: String,
    /// The file, as it was named.
    pub path: String,
    /// Its new name or mode.
    pub to: Option<String>,
}

/// A connection from a session to somewhere.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connection {
    /// When.
    pub time: Timestamp,
    /// By which process.
    pub pid: u32,
    /// Its program.
    pub exe: String,
    /// To where.
    pub address: String,
    /// And to which port.
    pub port: u16,
    /// The call's result.
    pub result: i64,
}

/// A file that was kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub time: Timestamp,
    /// Its hash, and its name below `STATE/samples`.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// Where it lay.
    pub path: String,
    /// `written`, `run`, `memfd`.
    pub how: String,
    /// It was longer than what was kept.
    pub truncated: bool,
}

/// A recording.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tty {
    /// Its file below `STATE/tty`.
    pub name: String,
    /// Bytes shown.
    pub bytes_shown: u64,
    /// Bytes typed.
    pub bytes_typed: u64,
}

impl Report {
    /// Appends to one of its lists, unless that is full.
    pub fn push<T>(list: &mut Vec<T>, truncated: &mut bool, entry: T) {
        if list.len() < ENTRIES_MAX {
            list.push(entry);
        } else {
            *truncated = true;
        }
    }
}
