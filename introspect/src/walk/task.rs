//! One task: who it is, what it runs, with which rights.

use honeyvmm::memory::Gva;
use serde::Serialize;

use super::WalkError;
use super::paths::Paths;
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Snapshot, Unknown, layout};

/// The most of a command line that is read: a page, as `ps` did for long.
const COMMAND_LINE_BYTES_MAX: u64 = 4096;
/// `PF_KTHREAD` of `include/linux/sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

layout! {
    TaskLayout = "task_struct" {
        state: "__state|state",
        flags: "flags",
        tasks: "tasks",
        mm: "mm",
        exit_state: "exit_state",
        pid: "pid",
        tgid: "tgid",
        real_parent: "real_parent",
        thread_node: "thread_node",
        start: "start_boottime|real_start_time",
        cred: "real_cred",
        comm: "comm",
        fs: "fs",
        signal: "signal",
    }
}

layout! {
    SignalLayout = "signal_struct" {
        thread_head: "thread_head",
        pids: "pids",
        tty: "tty",
    }
}

layout! {
    PidLayout = "pid" {
        numbers: "numbers",
    }
}

layout! {
    CredLayout = "cred" {
        uid: "uid",
        gid: "gid",
        suid: "suid",
        sgid: "sgid",
        euid: "euid",
        egid: "egid",
        fsuid: "fsuid",
        inheritable: "cap_inheritable",
        permitted: "cap_permitted",
        effective: "cap_effective",
        bounding: "cap_bset",
        ambient: "cap_ambient",
    }
}

layout! {
    MmLayout = "mm_struct" {
        pgd: "pgd",
        arg_start: "arg_start",
        arg_end: "arg_end",
        env_end: "env_end",
        exe_file: "exe_file",
    }
}

layout! {
    TtyLayout = "tty_struct" {
        name: "name",
    }
}

/// A process, or one of its threads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Of its `task_struct`.
    #[serde(skip)]
    pub at: Gva,
    /// Its own number: `LWP` of `ps -L`.
    pub pid: u32,
    /// Its process' number; its own for the first thread.
    pub tgid: u32,
    /// Process that began it, or has adopted it.
    pub ppid: u32,
    /// Session: the first process of its login.
    pub sid: u32,
    /// Process group: what one command line of a shell has started.
    pub pgid: u32,
    /// Name: 15 bytes of the program's, unless it gave itself another.
    pub comm: String,
    /// As `ps` prints it: R running, S sleeping, D waiting for a disk, T stopped, t traced, X dead, Z zombie, P parked, I idle.
    pub state: char,
    /// Whether it belongs to the kernel.
    pub kernel_thread: bool,
    /// Start, in nanoseconds since boot, time in suspension counted.
    pub start_ns: u64,
    /// Its rights.
    pub rights: Rights,
    /// The program's file; `None` for kernel threads and zombies.
    pub exe: Option<String>,
    /// Arguments; empty for kernel threads and zombies, and where the page is not in RAM.
    pub command_line: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Terminal, without `/dev/`: `hvc0`, `pts/0`.
    pub tty: Option<String>,
}

/// In whose name a task acts. Numbers are those of the first user namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Rights {
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Saved user.
    pub suid: u32,
    /// Saved group.
    pub sgid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
    /// User as file systems see it.
    pub fsuid: u32,
    /// Capabilities that a program may inherit, a bit each.
    pub inheritable: u64,
    /// Capabilities that it may turn on.
    pub permitted: u64,
    /// Capabilities that count.
    pub effective: u64,
    /// Capabilities that it can ever have.
    pub bounding: u64,
    /// Capabilities that programs without any of their own keep.
    pub ambient: u64,
}

/// Where the parts of a task are.
#[derive(Debug, Clone)]
pub(super) struct TaskParts {
    pub(super) task: TaskLayout,
    pub(super) signal: SignalLayout,
    pid: PidLayout,
    cred: CredLayout,
    mm: MmLayout,
    tty: TtyLayout,
    working_directory: Field,
    file_path: Field,
    paths: Paths,
}

/// What all threads of a process have in common.
#[derive(Debug, Clone, Default)]
pub(super) struct Process {
    ppid: u32,
    sid: u32,
    pgid: u32,
    exe: Option<String>,
    command_line: Vec<String>,
    cwd: Option<String>,
    tty: Option<String>,
}

impl TaskParts {
    pub(super) fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            task: TaskLayout::of(symbols)?,
            signal: SignalLayout::of(symbols)?,
            pid: PidLayout::of(symbols)?,
            cred: CredLayout::of(symbols)?,
            mm: MmLayout::of(symbols)?,
            tty: TtyLayout::of(symbols)?,
            working_directory: Field::find(symbols, "fs_struct", "pwd", "fs_struct.pwd")?,
            file_path: Field::find(symbols, "file", "f_path", "file.f_path")?,
            paths: Paths::of(symbols)?,
        })
    }

    /// What the process of this task is. Parts that cannot be read, because it ends this moment or because the guest has bent
    /// them, are left out: a task is shown with what is known of it.
    pub(super) fn process(&self, look: &Look<'_>, task: &Snapshot) -> Process {
        let tgid_of = |at: Gva| look.u32(self.task.tgid.of(at)).ok();
        let mut process = Process {
            ppid: task.target(self.task.real_parent).and_then(tgid_of).unwrap_or(0),
            cwd: task.target(self.task.fs).and_then(|fs| self.path(look, self.working_directory.of(fs))),
            ..Process::default()
        };
        if let Some(signal) = task.target(self.task.signal).and_then(|at| self.signal.read(look, at).ok()) {
            [process.pgid, process.sid] = self.groups(look, &signal);
            process.tty = signal.target(self.signal.tty).and_then(|tty| self.tty_name(look, tty));
        }
        let mm = task.target(self.task.mm).filter(|_| !self.is_kernel_thread(task));
        if let Some(mm) = mm.and_then(|at| self.mm.read(look, at).ok()) {
            let exe = mm.target(self.mm.exe_file);
            process.exe = exe.and_then(|file| self.path(look, self.file_path.of(file)));
            process.command_line = self.command_line(look, &mm);
        }
        process
    }

    /// A task, with what is known of its process.
    pub(super) fn task(&self, look: &Look<'_>, task: &Snapshot, process: Process) -> Result<Task, WalkError> {
        let Process { ppid, sid, pgid, exe, command_line, cwd, tty } = process;
        Ok(Task {
            at: task.at,
            pid: task.u32(self.task.pid),
            tgid: task.u32(self.task.tgid),
            ppid,
            sid,
            pgid,
            comm: task.text(self.task.comm),
            state: state_letter(task.u64(self.task.state), task.u64(self.task.exit_state)),
            kernel_thread: self.is_kernel_thread(task),
            start_ns: task.u64(self.task.start),
            rights: self.rights(look, task.pointer(self.task.cred))?,
            exe,
            command_line,
            cwd,
            tty,
        })
    }

    /// The `struct file` of the program that this task runs.
    pub(super) fn exe_file(&self, look: &Look<'_>, task: &Snapshot) -> Option<Gva> {
        let mm = task.target(self.task.mm)?;
        self.mm.read(look, mm).ok()?.target(self.mm.exe_file)
    }

    fn is_kernel_thread(&self, task: &Snapshot) -> bool {
        task.u64(self.task.flags) & KERNEL_THREAD != 0
    }

    fn path(&self, look: &Look<'_>, at: Gva) -> Option<String> {
        self.paths.name(look, at).ok().flatten()
    }

    /// Process group and session, or zeros.
    fn groups(&self, look: &Look<'_>, signal: &Snapshot) -> [u32; 2] {
        // `PIDTYPE_PGID` and `PIDTYPE_SID` of `include/linux/pid_types.h`: the last two of four, or of three before 4.19.
        let pids = signal.bytes(self.signal.pids);
        [2, 1].map(|from_end| {
            let at = pids.len().checked_sub(8 * from_end).and_then(|at| pids[at..].first_chunk());
            let pid = at.map(|word| Gva(u64::from_le_bytes(*word)));
            // The number in the first namespace comes first, and is a `upid`'s first member.
            pid.and_then(|pid| look.u32(self.pid.numbers.of(pid)).ok()).unwrap_or(0)
        })
    }

    fn tty_name(&self, look: &Look<'_>, tty: Gva) -> Option<String> {
        let name = self.tty.read(look, tty).ok()?.text(self.tty.name);
        // The driver of Unix 98's terminals calls them pts0, their folder makes that a path.
        Some(match name.strip_prefix("pts") {
            Some(number) if number.parse::<u32>().is_ok() => format!("pts/{number}"),
            _ => name,
        })
    }

    fn rights(&self, look: &Look<'_>, cred: Gva) -> Result<Rights, WalkError> {
        let layout = &self.cred;
        let cred = layout.read(look, cred)?;
        Ok(Rights {
            uid: cred.u32(layout.uid),
            gid: cred.u32(layout.gid),
            suid: cred.u32(layout.suid),
            sgid: cred.u32(layout.sgid),
            euid: cred.u32(layout.euid),
            egid: cred.u32(layout.egid),
            fsuid: cred.u32(layout.fsuid),
            inheritable: cred.u64(layout.inheritable),
            permitted: cred.u64(layout.permitted),
            effective: cred.u64(layout.effective),
            bounding: cred.u64(layout.bounding),
            ambient: cred.u64(layout.ambient),
        })
    }

    /// As `/proc/PID/cmdline`: the arguments; one that has written over them (`setproctitle`) may go on into the environment, up to its NUL.
    fn command_line(&self, look: &Look<'_>, mm: &Snapshot) -> Vec<String> {
        let (start, end) = (mm.pointer(self.mm.arg_start), mm.pointer(self.mm.arg_end));
        let pgd = mm.pointer(self.mm.pgd);
        let Some(length) = end.0.checked_sub(start.0).filter(|length| *length > 0) else { return Vec::new() };
        let mut bytes = vec![0; length.min(COMMAND_LINE_BYTES_MAX) as usize];
        if look.read_user(pgd, start, &mut bytes).is_err() {
            return Vec::new();
        }
        if length < COMMAND_LINE_BYTES_MAX && bytes.last() != Some(&0) {
            let more = mm.u64(self.mm.env_end).saturating_sub(end.0).min(COMMAND_LINE_BYTES_MAX - length);
            let mut rest = vec![0; more as usize];
            // What cannot be read stays zero, and so ends the text.
            let _ = look.read_user(pgd, end, &mut rest);
            bytes.append(&mut rest);
            bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
        }
        let text = String::from_utf8_lossy(&bytes);
        text.strip_suffix('\0').unwrap_or(&text).split('\0').map(str::to_owned).collect()
    }
}

/// As `task_state_index` of `include/linux/sched.h` and the letters of `fs/proc/array.c`.
fn state_letter(state: u64, exit_state: u64) -> char {
    const LETTERS: [char; 8] = ['R', 'S', 'D', 'T', 't', 'X', 'Z', 'P'];
    const REPORTED: u64 = 0x7f;
    const IDLE: u64 = 0x402;
    const FROZEN: u64 = 0x8000;
    if state & IDLE == IDLE {
        return 'I';
    }
    let reported = (state | exit_state) & REPORTED;
    if state & FROZEN != 0 && reported == 0 {
        return 'D';
    }
    LETTERS[(u64::BITS - reported.leading_zeros()) as usize]
}
