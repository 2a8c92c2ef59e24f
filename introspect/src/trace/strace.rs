//! A call as strace prints it. Strings are quoted and escaped, so a terminal shows what an intruder wrote and does not obey it.

use std::fmt::Write;

use nix::errno::Errno;
use serde_json::{Value, json};

use super::pairing::Traced;
use super::record::Chunk;

const AT_FDCWD: i32 = -100;
/// Results of the kernel's own that mean: the call begins again (linux/errno.h).
const RESTARTS: [(i64, &str); 4] =
    [(512, "ERESTARTSYS"), (513, "ERESTARTNOINTR"), (514, "ERESTARTNOHAND"), (516, "ERESTART_RESTARTBLOCK")];
/// fcntl.h, for `P`, in strace's order. The access mode is in the lowest two bits.
const OPEN_FLAGS: [(u64, &str); 16] = [
    (O_CREAT, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o4010000, "O_SYNC"),
    (0o20000, "O_ASYNC"),
    (0o10000, "O_DSYNC"),
    (0o40000, "O_DIRECT"),
    (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
    (0o10000000, "O_PATH"),
    (O_TMPFILE, "O_TMPFILE"),
    (0o200000, "O_DIRECTORY"),
];
const O_CREAT: u64 = 0o100;
/// `O_DIRECTORY` and a bit of its own.
const O_TMPFILE: u64 = 0o20200000;
#[rustfmt::skip]
const SIGNALS: [&str; 32] = [
    "0", "SIGHUP", "SIGINT", "SIGQUIT", "SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGUSR1", "SIGSEGV", "SIGUSR2", "SIGPIPE",
    "SIGALRM", "SIGTERM", "SIGSTKFLT", "SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGXCPU", "SIGXFSZ", "SIGVTALRM",
    "SIGPROF", "SIGWINCH", "SIGIO", "SIGPWR", "SIGSYS",
];

/// `openat(AT_FDCWD, "/etc/passwd", O_RDONLY|O_CLOEXEC) = 3`.
pub fn line(call: &Traced) -> String {
    let mut out = name(call);
    out.push('(');
    for (index, text) in arguments(call).into_iter().enumerate() {
        let _ = write!(out, "{}{text}", if index > 0 { ", " } else { "" });
    }
    let _ = write!(out, ") = {}", result(call));
    out
}

/// The call with its parts named.
pub fn json(call: &Traced) -> Value {
    let enter = &call.enter;
    json!({
        "time_ns": enter.time_ns, "duration_ns": call.duration_ns, "vcpu": enter.vcpu, "pid": enter.tgid, "tid": enter.pid, "uid": enter.uid,
        "comm": enter.comm, "call": name(call), "number": enter.number, "compat": enter.compat, "arguments": arguments(call),
        "result": call.result, "error": call.result.and_then(error_name), "line": line(call),
    })
}

/// The call's name; `syscall_0x1b0` where there is none.
pub fn name(call: &Traced) -> String {
    match call.call() {
        Some(known) => known.name.to_owned(),
        None => format!("syscall_{:#x}", call.enter.number),
    }
}

fn arguments(call: &Traced) -> Vec<String> {
    let values = call.arguments();
    let letters = call.call().map_or("xxxxxx", |known| known.arguments);
    let shown = letters.chars().take(if has_mode(letters, &values) { 6 } else { letters.len() - 1 });
    shown.enumerate().map(|(index, letter)| argument(call, letter, index as u8, values[index])).collect()
}

/// A mode after open flags counts only where a file is made.
fn has_mode(letters: &str, values: &[u64; 6]) -> bool {
    let flags = letters.find("PO").map(|index| values[index]);
    flags.is_none_or(|flags| flags & O_CREAT != 0 || flags & O_TMPFILE == O_TMPFILE)
}

fn argument(call: &Traced, letter: char, index: u8, value: u64) -> String {
    match letter {
        'd' | 'f' => (value as i32).to_string(),
        'F' if value as i32 == AT_FDCWD => "AT_FDCWD".to_owned(),
        'F' => (value as i32).to_string(),
        'u' => value.to_string(),
        'O' => format!("0{:03o}", value & 0o7777),
        'P' => open_flags(value),
        'G' => SIGNALS.get(value as usize).map_or_else(|| value.to_string(), |name| (*name).to_owned()),
        's' | 'i' | 'o' => call.named(index).map_or_else(|| pointer(value), quoted),
        'S' => strings(call, index, value),
        'a' | 'A' => call
            .address(index)
            .and_then(|chunk| socket_address(&chunk.bytes))
            .unwrap_or_else(|| pointer(value)),
        'p' => {
            call.pair(index).map_or_else(|| pointer(value), |[first, second]| format!("[{first}, {second}]"))
        }
        'v' | 'V' | 'm' | 'M' => vector(call, index, value),
        _ => pointer(value),
    }
}

fn pointer(value: u64) -> String {
    if value == 0 { "NULL".to_owned() } else { format!("{value:#x}") }
}

fn quoted(chunk: &Chunk) -> String {
    if chunk.faulted && chunk.bytes.is_empty() {
        return "?".to_owned();
    }
    format!("{}{}", quote(&chunk.bytes), if chunk.cut || chunk.faulted { "..." } else { "" })
}

/// In quotes, with strace's escapes.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\t' => out.push_str("\\t"),
            b'\r' => out.push_str("\\r"),
            0x0b => out.push_str("\\v"),
            0x0c => out.push_str("\\f"),
            0x20..=0x7e => out.push(char::from(*byte)),
            other => {
                // Three digits where another one follows, which 8 is not.
                let digit_follows = bytes.get(index + 1).is_some_and(|next| (b'0'..=b'7').contains(next));
                let _ = if digit_follows { write!(out, "\\{other:03o}") } else { write!(out, "\\{other:o}") };
            }
        }
    }
    out.push('"');
    out
}

fn strings(call: &Traced, index: u8, value: u64) -> String {
    let of = call.enter.chunks.iter().filter(|chunk| chunk.argument == index);
    let texts: Vec<String> = of.map(quoted).collect();
    if texts.is_empty() && value != 0 { pointer(value) } else { format!("[{}]", texts.join(", ")) }
}

fn vector(call: &Traced, index: u8, value: u64) -> String {
    let chunks =
        if call.after.iter().any(|chunk| chunk.argument == index) { &call.after } else { &call.enter.chunks };
    let of = chunks.iter().filter(|chunk| chunk.argument == index && chunk.index != 255);
    let texts: Vec<String> = of.map(quoted).collect();
    if texts.is_empty() { pointer(value) } else { format!("[{}]", texts.join(", ")) }
}

fn open_flags(value: u64) -> String {
    let mut out = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"][(value & 3) as usize].to_owned();
    let mut left = value & !3;
    for (bits, name) in OPEN_FLAGS {
        if left & bits == bits {
            left &= !bits;
            out.push('|');
            out.push_str(name);
        }
    }
    // The kernel sets it by itself for 64-bit programs.
    left &= !0o100000;
    if left != 0 {
        let _ = write!(out, "|{left:#x}");
    }
    out
}

/// `{sa_family=AF_INET, sin_port=htons(22), sin_addr=inet_addr("10.0.0.1")}`.
fn socket_address(bytes: &[u8]) -> Option<String> {
    let family = u16::from_le_bytes([*bytes.first()?, *bytes.get(1)?]);
    let port = || Some(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
    match family {
        1 => {
            let path = bytes.get(2..)?;
            let end = path.iter().skip(1).position(|byte| *byte == 0).map_or(path.len(), |at| at + 1);
            let text = match path.first() {
                Some(0) => format!("@{}", quote(&path[1..end])),
                _ => quote(&path[..end]),
            };
            Some(format!("{{sa_family=AF_UNIX, sun_path={text}}}"))
        }
        2 => {
            let address: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            let address = std::net::Ipv4Addr::from(address);
            Some(format!(
                "{{sa_family=AF_INET, sin_port=htons({}), sin_addr=inet_addr(\"{address}\")}}",
                port()?
            ))
        }
        10 => {
            let address: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let address = std::net::Ipv6Addr::from(address);
            Some(format!(
                "{{sa_family=AF_INET6, sin6_port=htons({}), inet_pton(AF_INET6, \"{address}\")}}",
                port()?
            ))
        }
        other => Some(format!("{{sa_family={other}}}")),
    }
}

fn error_name(result: i64) -> Option<String> {
    if !(-4095..0).contains(&result) {
        return None;
    }
    if let Some((_, name)) = RESTARTS.iter().find(|(number, _)| *number == -result) {
        return Some((*name).to_owned());
    }
    Some(format!("{:?}", Errno::from_raw(i32::try_from(-result).ok()?)))
}

fn result(call: &Traced) -> String {
    let Some(result) = call.result else {
        return "?".to_owned();
    };
    match error_name(result) {
        Some(name) if name.starts_with("ERESTART") => format!("? {name}"),
        Some(name) => {
            let text = i32::try_from(-result).map_or("", |number| Errno::from_raw(number).desc());
            format!("-1 {name} ({text})")
        }
        None if matches!(call.call().map(|known| known.name), Some("mmap" | "brk" | "mremap" | "shmat")) => {
            pointer(result as u64)
        }
        None => result.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::record::{Phase, Record};

    fn traced(number: u16, arguments: [u64; 6], texts: &[(u8, &[u8])], result: i64) -> Traced {
        let chunk = |(index, (argument, text)): (usize, &(u8, &[u8]))| Chunk {
            argument: *argument,
            index: index as u16,
            cut: false,
            faulted: false,
            length: text.len() as u64,
            bytes: text.to_vec(),
        };
        let enter = Record {
            phase: Phase::Enter(arguments),
            compat: false,
            kind: None,
            file: 0,
            number,
            time_ns: 0,
            seq: 1,
            task: 0,
            pid: 1,
            tgid: 1,
            uid: 0,
            vcpu: 0,
            comm: "sh".to_owned(),
            chunks: texts.iter().enumerate().map(chunk).collect(),
        };
        Traced { enter, result: Some(result), duration_ns: 0, after: Vec::new(), comm: "sh".to_owned() }
    }

    #[test]
    fn calls_look_as_strace_prints_them() {
        let cwd = u64::from(AT_FDCWD as u32);
        for (call, expected) in [
            (
                traced(257, [cwd, 1, 0o2000000, 0, 0, 0], &[(1, b"/etc/passwd")], 3),
                "openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY|O_CLOEXEC) = 3",
            ),
            (traced(1, [1, 1, 4, 0, 0, 0], &[(1, b"a\x1b[2\n")], 4), "write(1, \"a\\33[2\\n\", 4) = 4"),
            (
                traced(1, [1, 1, 8, 0, 0, 0], &[(1, b"\x0b\x0c\x008\x007\0")], 8),
                "write(1, \"\\v\\f\\08\\0007\\0\", 8) = 8",
            ),
            (
                traced(2, [1, 0o200000 | 0o2000000 | 0o400000, 0, 0, 0, 0], &[(0, b".")], 3),
                "open(\".\", O_RDONLY|O_NOFOLLOW|O_CLOEXEC|O_DIRECTORY) = 3",
            ),
            (
                traced(2, [1, 0o20200002, 0o600, 0, 0, 0], &[(0, b"/tmp")], 3),
                "open(\"/tmp\", O_RDWR|O_TMPFILE, 0600) = 3",
            ),
            (
                traced(59, [1, 1, 1, 0, 0, 0], &[(0, b"/bin/ls"), (1, b"ls"), (1, b"-l"), (2, b"A=b")], 0),
                "execve(\"/bin/ls\", [\"ls\", \"-l\"], [\"A=b\"]) = 0",
            ),
            (traced(22, [1, 0, 0, 0, 0, 0], &[(0, b"\x03\0\0\0\x04\0\0\0")], 0), "pipe([3, 4]) = 0"),
            (traced(3, [9, 0, 0, 0, 0, 0], &[], -9), "close(9) = -1 EBADF (Bad file number)"),
            (
                traced(
                    42,
                    [3, 1, 16, 0, 0, 0],
                    &[(1, &[2, 0, 0, 22, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])],
                    0,
                ),
                "connect(3, {sa_family=AF_INET, sin_port=htons(22), sin_addr=inet_addr(\"10.0.0.1\")}, 16) = 0",
            ),
            (
                traced(500, [0; 6], &[], -38),
                "syscall_0x1f4(NULL, NULL, NULL, NULL, NULL, NULL) = -1 ENOSYS (Function not implemented)",
            ),
        ] {
            assert_eq!(line(&call), expected);
        }
    }

    #[test]
    fn openat_shows_no_mode_without_creation() {
        let call = traced(257, [3, 1, 0o101, 0o644, 0, 0], &[(1, b"f")], 4);
        assert_eq!(line(&call), "openat(3, \"f\", O_WRONLY|O_CREAT, 0644) = 4");
    }
}
