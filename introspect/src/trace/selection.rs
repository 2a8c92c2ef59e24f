//! Which calls are recorded, and what of them: the words that the shim is given.

use honeyvmm::shim::trace::{Argument, CALLS, Offset, TraceSetup, spec};

use super::calls::{self, Call};
use crate::symbols::Symbols;

/// Bytes of a string or buffer that are kept.
const CAP: u64 = 256;
/// Bytes kept of what goes through a terminal or a local socket: whatever one call moves.
const WHOLE: u64 = 128 * 1024;

/// Why there is no trace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// The kernel has no such member.
    #[error("system calls cannot be traced: this kernel's types have no {strukt}.{member}")]
    Member {
        /// The struct.
        strukt: &'static str,
        /// Its member.
        member: &'static str,
    },
    /// It does not say where the current task is.
    #[error("system calls cannot be traced: this kernel has no current_task")]
    Current,
    /// No such call.
    #[error("there is no system call {0}")]
    Call(String),
}

/// What is recorded unless somebody says otherwise: what shows who did what, not the calls that a program makes a thousand times for itself.
#[rustfmt::skip]
const DEFAULT: [&str; 77] = [
    "read", "write", "readv", "writev", "pread64", "pwrite64", "open", "creat", "openat", "openat2", "close", "dup2", "dup3", "execve", "execveat",
    "fork", "vfork", "clone", "clone3", "exit", "exit_group", "kill", "tkill", "tgkill", "ptrace", "setuid", "setgid", "setreuid", "setregid",
    "setresuid", "setresgid", "setfsuid", "setgroups", "capset", "setsid", "chdir", "fchdir", "chroot", "mkdir", "mkdirat", "rmdir", "rename", "renameat",
    "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "truncate", "ftruncate", "chmod", "fchmod", "fchmodat", "chown", "fchown",
    "fchownat", "utimensat", "mount", "umount2", "socket", "connect", "bind", "listen", "accept", "accept4", "sendto", "recvfrom", "sendmsg", "recvmsg", "memfd_create",
    "init_module", "finit_module", "delete_module", "bpf", "ioctl",
];
/// Calls that move bytes through a descriptor: what is kept depends on its file.
const THROUGH_FILES: [&str; 14] = [
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "sendto", "recvfrom",
    "sendmsg", "recvmsg", "ioctl", "connect",
];
/// Of these, those that are recorded only for terminals and sockets: reads of ordinary files are a program's own affair.
const KNOWN_ONLY: [&str; 5] = ["read", "readv", "pread64", "preadv", "ioctl"];
/// What may make a file vanish: its contents are read while the vcpu waits.
const SYNC_ENTER: [&str; 1] = ["exit_group"];
const SYNC_LEAVE: [&str; 4] = ["execve", "execveat", "accept", "accept4"];

/// What changes which files and processes there are: who reads a capture must know it to name a descriptor.
#[rustfmt::skip]
const STATE: [&str; 38] = [
    "open", "openat", "openat2", "creat", "close", "dup", "dup2", "dup3", "fcntl", "pipe", "pipe2", "socket", "socketpair", "connect", "bind",
    "accept", "accept4", "eventfd", "eventfd2", "chdir", "fchdir", "chroot", "fork", "vfork", "clone", "clone3", "execve", "execveat", "exit",
    "exit_group", "setuid", "setgid", "setresuid", "setresgid", "setsid", "setpgid", "setns", "unshare",
];
/// Of these, those at whose end the process is looked at before it goes on.
const LOOKED_AT: [&str; 4] = ["execve", "execveat", "accept", "accept4"];

/// Files that are told apart, in the order in which the shim is given them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "their operations' names say it")]
pub enum FileKind {
    Tty,
    PtyMaster,
    Console,
    UnixStream,
    UnixDatagram,
    Kmsg,
    Tcp,
    Tcp6,
    Udp,
    Udp6,
    Pipe,
}

impl FileKind {
    /// All of them.
    pub const ALL: [FileKind; 11] = [
        FileKind::Tty,
        FileKind::PtyMaster,
        FileKind::Console,
        FileKind::UnixStream,
        FileKind::UnixDatagram,
        FileKind::Kmsg,
        FileKind::Tcp,
        FileKind::Tcp6,
        FileKind::Udp,
        FileKind::Udp6,
        FileKind::Pipe,
    ];

    /// The kind at this place, as a record tells it.
    pub fn at(place: usize) -> Option<FileKind> {
        FileKind::ALL.get(place).copied()
    }

    /// The symbol of its `file_operations`, or of a socket's `proto_ops`.
    fn operations(self) -> &'static str {
        match self {
            FileKind::Tty => "tty_fops",
            FileKind::PtyMaster => "ptmx_fops",
            FileKind::Console => "console_fops",
            FileKind::UnixStream => "unix_stream_ops",
            FileKind::UnixDatagram => "unix_dgram_ops",
            FileKind::Kmsg => "kmsg_fops",
            FileKind::Tcp => "inet_stream_ops",
            FileKind::Tcp6 => "inet6_stream_ops",
            FileKind::Udp => "inet_dgram_ops",
            FileKind::Udp6 => "inet6_dgram_ops",
            FileKind::Pipe => "pipefifo_fops",
        }
    }

    /// Bytes kept of what one call moves.
    fn kept(self) -> u64 {
        match self {
            // A server hands the output of a command without a terminal through pipes.
            FileKind::Tty
            | FileKind::PtyMaster
            | FileKind::Console
            | FileKind::UnixStream
            | FileKind::Pipe => WHOLE,
            FileKind::UnixDatagram | FileKind::Kmsg | FileKind::Udp | FileKind::Udp6 => 4096,
            FileKind::Tcp | FileKind::Tcp6 => CAP,
        }
    }
}

/// A set of calls.
#[derive(Debug, Clone)]
pub struct Selection {
    numbers: Vec<u16>,
    // Everything that these calls do is wanted, reads of files too.
    plain: bool,
}

impl Selection {
    /// The default set.
    pub fn default_set() -> Selection {
        let of = |name: &&str| calls::by_name(name).map(|call| call.number);
        Selection { numbers: DEFAULT.iter().filter_map(of).collect(), plain: false }
    }

    /// What shows that a connection begins; the vcpu waits, so that more can be asked for before the program goes on.
    pub fn connections() -> Selection {
        let of = |name| calls::by_name(name).map(|call| call.number);
        Selection { numbers: ["accept", "accept4"].into_iter().filter_map(of).collect(), plain: false }
    }

    /// What a capture needs beside what it shows.
    pub fn state() -> [Selection; 2] {
        let of = |name: &&str| calls::by_name(name).map(|call| call.number);
        let of = |names: &[&str]| names.iter().filter_map(of).collect();
        [Selection { numbers: of(&STATE), plain: true }, Selection { numbers: of(&LOOKED_AT), plain: false }]
    }

    /// These calls and those.
    #[must_use]
    pub fn and(mut self, other: &Selection) -> Selection {
        self.numbers
            .extend(other.numbers.iter().filter(|number| !self.numbers.contains(number)).collect::<Vec<_>>());
        self
    }

    /// These calls, by name, as `strace -e` takes them: `openat,read`; `all` is every one.
    ///
    /// # Errors
    /// There is no such call.
    pub fn named(list: &str) -> Result<Selection, SelectionError> {
        if list == "all" {
            return Ok(Selection {
                numbers: calls::CALLS.iter().map(|call| call.number).collect(),
                plain: true,
            });
        }
        let number = |name: &str| {
            let call = calls::by_name(name.trim());
            call.map(|call| call.number).ok_or_else(|| SelectionError::Call(name.trim().to_owned()))
        };
        let numbers = list.split(',').filter(|name| !name.trim().is_empty()).map(number);
        Ok(Selection { numbers: numbers.collect::<Result<_, _>>()?, plain: true })
    }

    /// Names of its calls.
    pub fn names(&self) -> Vec<&'static str> {
        self.numbers.iter().filter_map(|number| calls::by_number(*number)).map(|call| call.name).collect()
    }

    /// Is this call in it?
    pub fn has(&self, number: u16) -> bool {
        self.numbers.contains(&number)
    }

    /// What any of them wants.
    pub fn all_of(selections: &[&Selection]) -> [Vec<u32>; 2] {
        let mut words = [vec![0; CALLS], vec![0; CALLS]];
        for selection in selections {
            for (all, its) in words.iter_mut().zip(selection.words()) {
                all.iter_mut().zip(its).for_each(|(all, its)| *all = join(*all, its));
            }
        }
        words
    }

    /// Words of the 64-bit and of the 32-bit calls.
    pub fn words(&self) -> [Vec<u32>; 2] {
        let mut words = [vec![0; CALLS], vec![0; CALLS]];
        for (compat, words) in words.iter_mut().enumerate() {
            for (number, word) in words.iter_mut().enumerate() {
                let call = calls::of(number as u16, compat == 1).filter(|call| self.has(call.number));
                *word = call.map_or(0, |call| self.word(call, compat == 1));
            }
        }
        words
    }

    fn word(&self, call: &Call, compat: bool) -> u32 {
        let mut word = spec::RECORD;
        for (position, letter) in call.arguments.chars().enumerate() {
            word |= (argument(letter, compat) as u32) << (spec::ARGUMENTS + 4 * position as u32);
        }
        if THROUGH_FILES.contains(&call.name) {
            word |= spec::FILE;
        }
        if matches!(call.name, "exit" | "exit_group") {
            word |= spec::NO_RETURN;
        }
        if !self.plain {
            word |= if KNOWN_ONLY.contains(&call.name) { spec::KNOWN_FILE } else { 0 };
            word |= match call.name {
                "close" => spec::FILE | spec::WRITTEN | spec::SYNC_ENTER,
                // They close the file that has their second descriptor; a shell ends `echo > file` so.
                "dup2" | "dup3" => spec::FILE | spec::SECOND | spec::WRITTEN | spec::SYNC_ENTER,
                _ => 0,
            };
            word |= if SYNC_ENTER.contains(&call.name) { spec::SYNC_ENTER } else { 0 };
            word |= if SYNC_LEAVE.contains(&call.name) { spec::SYNC_LEAVE } else { 0 };
        }
        word
    }
}

/// What either wants; a call that one of them wants without a filter has none.
fn join(mine: u32, theirs: u32) -> u32 {
    const FILTERS: u32 = spec::KNOWN_FILE | spec::WRITTEN;
    match (mine & spec::RECORD, theirs & spec::RECORD) {
        (_, 0) => mine,
        (0, _) => theirs,
        _ => (mine | theirs) & !FILTERS | mine & theirs & FILTERS,
    }
}

/// 32-bit structures are laid out otherwise; what they point to is not read.
fn argument(letter: char, compat: bool) -> Argument {
    match letter {
        's' => Argument::String,
        'i' => Argument::In,
        'o' => Argument::Out,
        'a' => Argument::SockaddrIn,
        'A' => Argument::SockaddrOut,
        _ if compat => Argument::Value,
        'v' => Argument::VectorIn,
        'V' => Argument::VectorOut,
        'm' => Argument::MessageIn,
        'M' => Argument::MessageOut,
        'S' => Argument::Strings,
        't' => Argument::In16,
        'p' => Argument::Out16,
        'K' => Argument::Out144,
        _ => Argument::Value,
    }
}

/// What the shim must know of this kernel, and what it is to record.
///
/// # Errors
/// The kernel does not tell what is needed.
pub fn setup(symbols: &Symbols, selection: &Selection) -> Result<TraceSetup, SelectionError> {
    // 6.2 to 6.17 keep it with other hot values.
    let current = symbols.percpu("current_task").or_else(|| {
        let member = symbols.member("pcpu_hot", "current_task")?;
        Some(symbols.percpu("pcpu_hot")?.wrapping_add(member.offset))
    });
    let offset = |(offset, strukt, member): (Offset, &'static str, &'static str)| {
        let found = symbols.member(strukt, member).ok_or(SelectionError::Member { strukt, member })?;
        let bytes = u32::try_from(found.offset).map_err(|_| SelectionError::Member { strukt, member })?;
        Ok((offset, bytes))
    };
    let address = |name: &str| symbols.address(name).map(|at| at.0);
    let [calls, compat_calls] = selection.words();
    Ok(TraceSetup {
        current: current.ok_or(SelectionError::Current)?,
        offsets: Offset::ALL.into_iter().map(offset).collect::<Result<_, _>>()?,
        sockets: address("socket_file_ops").unwrap_or(0),
        // One that this kernel lacks keeps its place: kinds are known by it.
        files: FileKind::ALL
            .iter()
            .map(|kind| (address(kind.operations()).unwrap_or(u64::MAX), kind.kept()))
            .collect(),
        cap: CAP,
        calls,
        compat_calls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_names_calls_that_are_there() {
        assert_eq!(Selection::default_set().numbers.len(), DEFAULT.len());
        assert_eq!(Selection::state().map(|state| state.numbers.len()), [STATE.len(), LOOKED_AT.len()]);
    }

    #[test]
    fn a_word_says_what_the_arguments_are() {
        let words = &Selection::named("openat").unwrap().words()[0];
        let kind = |argument: u32| words[257] >> (spec::ARGUMENTS + 4 * argument) & 15;
        assert_eq!((words[257] & spec::RECORD, kind(0), kind(1)), (1, 0, Argument::String as u32));
        assert_eq!(words.iter().filter(|word| **word != 0).count(), 1);
    }

    #[test]
    fn a_call_that_is_none_is_refused() {
        assert_eq!(Selection::named("openat,opne").unwrap_err(), SelectionError::Call("opne".to_owned()));
    }

    #[test]
    fn a_filter_holds_only_where_both_have_it() {
        let joined = &Selection::all_of(&[&Selection::default_set(), &Selection::named("read").unwrap()])[0];
        assert_eq!(joined[0] & spec::KNOWN_FILE, 0);
        assert_ne!(joined[19] & spec::KNOWN_FILE, 0);
    }
}
