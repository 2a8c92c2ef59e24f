//! What events and lists tell of a process.

use super::flags;
use super::parameters::{Parameters, joined};
use crate::trace::pairing::Traced;
use crate::trace::record::Record;
use crate::walk::task::Task;

/// `(uid_t)-1`: nobody has logged in, or nobody knows.
pub const LOGIN_UNKNOWN: u32 = u32::MAX;
/// `CLONE_VFORK` and `CLONE_VM` of linux/sched.h: what vfork(2) means.
const VFORK: u64 = 0x4100;
/// Majors of terminals (Documentation/admin-guide/devices.txt).
const TTY_MAJOR: u32 = 4;
const CONSOLE_MAJOR: u32 = 5;
const PTS_MAJOR: u32 = 136;
const HVC_MAJOR: u32 = 229;
const SERIAL_MINOR: u32 = 64;

/// The 19 parameters after the result of execve's end.
pub fn executed(out: &mut Parameters, call: &Traced, task: Option<&Task>) {
    let letters = call.call().map_or("", |known| known.arguments);
    let first = letters.find('S').unwrap_or(0) as u8;
    let (given, environment) = (strings(call, first), strings(call, first + 1));
    let failed = call.result.is_none_or(|result| result < 0);
    // What the new program sees, which a failed call never becomes.
    let command_line = task.filter(|task| !failed && !task.command_line.is_empty());
    let arguments =
        command_line.map_or(given, |task| task.command_line.iter().map(String::as_bytes).collect());
    common(out, &arguments, &call.enter, task, &call.comm);
    out.strings(environment);
    out.u32(task.map_or(0, tty));
    out.i64(task.map_or(0, |task| i64::from(task.pgid)));
    out.u32(LOGIN_UNKNOWN);
    out.u32(0);
}

/// The 19 parameters after the result of clone's end, as its caller sees it.
pub fn cloned(out: &mut Parameters, call: &Traced, task: Option<&Task>) {
    let flags = match call.call().map(|known| known.name) {
        Some("clone") => call.arguments()[0],
        Some("clone3") => call
            .named(0)
            .and_then(|chunk| chunk.bytes.first_chunk())
            .map_or(0, |word| u64::from_le_bytes(*word)),
        Some("vfork") => VFORK,
        _ => 0,
    };
    birth(out, &call.enter, task, flags::clone(flags));
}

/// The same, as the new thread sees it that made this record.
pub fn born(out: &mut Parameters, record: &Record, task: Option<&Task>) {
    let is_thread = record.pid != record.tgid;
    birth(out, record, task, if is_thread { flags::OF_A_THREAD } else { 0 });
}

fn birth(out: &mut Parameters, record: &Record, task: Option<&Task>, flags: u32) {
    // It may run another program by the time that its memory is looked at.
    let same = task.filter(|task| task.comm == record.comm);
    let arguments: Vec<&[u8]> =
        same.map_or(Vec::new(), |task| task.command_line.iter().map(String::as_bytes).collect());
    common(out, &arguments, record, task, &record.comm);
    out.u32(flags);
    out.u32(record.uid);
    out.u32(task.map_or(0, |task| task.rights.gid));
    out.i64(record.pid.into());
    out.i64(record.tgid.into());
}

/// `exe` to `cgroups`.
fn common(out: &mut Parameters, arguments: &[&[u8]], record: &Record, task: Option<&Task>, comm: &str) {
    // A reader calls what was the first argument the program.
    let (exe, rest) = arguments.split_first().map_or((comm.as_bytes(), &[][..]), |(exe, rest)| (*exe, rest));
    out.text(exe);
    out.strings(rest.iter().copied());
    out.i64(record.pid.into());
    out.i64(record.tgid.into());
    out.i64(task.map_or(0, |task| i64::from(task.ppid)));
    out.text(task.and_then(|task| task.cwd.as_deref()).unwrap_or("").as_bytes());
    // The limit of descriptors, page faults of both kinds.
    (0..3).for_each(|_| out.number([0; 8]));
    // Memory in all, in RAM, swapped.
    (0..3).for_each(|_| out.u32(0));
    out.text(comm.as_bytes());
    // Control groups.
    out.bytes(&[]);
}

fn strings(call: &Traced, argument: u8) -> Vec<&[u8]> {
    let of = call.enter.chunks.iter().filter(|chunk| chunk.argument == argument);
    of.map(|chunk| chunk.bytes.as_slice()).collect()
}

/// The number of a task's terminal as programs see it; 0: none, or one of a driver that is not known here.
pub fn tty(task: &Task) -> u32 {
    let name = task.tty.as_deref().unwrap_or("");
    let numbered = |prefix: &str| name.strip_prefix(prefix)?.parse::<u32>().ok();
    if let Some(number) = numbered("pts/") {
        return device(PTS_MAJOR, number);
    }
    if let Some(number) = numbered("hvc") {
        return device(HVC_MAJOR, number);
    }
    if let Some(number) = numbered("ttyS") {
        return device(TTY_MAJOR, number.saturating_add(SERIAL_MINOR));
    }
    match (name, numbered("tty")) {
        ("console", _) => device(CONSOLE_MAJOR, 1),
        (_, Some(number)) => device(TTY_MAJOR, number),
        _ => 0,
    }
}

/// As `new_encode_dev` of include/linux/kdev_t.h.
pub fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// Program and arguments of a task, as lists have them.
pub fn command(task: &Task) -> (&str, Vec<u8>) {
    let (exe, rest) =
        task.command_line.split_first().map_or((&task.comm, &[][..]), |(exe, rest)| (exe, rest));
    (exe, joined(rest.iter().map(String::as_bytes)))
}
