//! Which event a call is, and with which parameters: the rows of `driver/event_table.c` for calls, numbers of `enum ppm_event_type` in
//! `driver/ppm_events_public.h`. A call's end is the number after its beginning's. Of a call with several rows the last is used, as libscap does.

use super::value::Value::{self, *};

/// `PPME_GENERIC_E`: of a call that has no event of its own only the number is told.
pub const GENERIC: u16 = 0;
/// `PPME_PROCEXIT_1_E`: the end of a thread.
pub const PROCEXIT: u16 = 186;
/// `PPME_SYSCALL_CLONE_20_X`: what a new thread returns from.
pub const CLONE_EXIT: u16 = 223;
/// `PPME_NOTIFICATION_E`: two texts from who made the capture.
pub const NOTIFICATION: u16 = 280;

/// The events of a call.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    call: &'static str,
    /// Of its beginning.
    pub enter: u16,
    /// Parameters of its beginning.
    pub at_enter: &'static [Value],
    /// Parameters of its end.
    pub at_exit: &'static [Value],
}

const fn row(call: &'static str, enter: u16, at_enter: &'static [Value], at_exit: &'static [Value]) -> Row {
    Row { call, enter, at_enter, at_exit }
}

impl Row {
    /// The call's name.
    #[cfg(test)]
    pub fn call(&self) -> &'static str {
        self.call
    }
}

/// The row of the call with this name.
pub fn of(call: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.call == call)
}

#[rustfmt::skip]
pub(super) const ROWS: [Row; 93] = [
    row("open", 2, &[Text(0), OpenFlags(1), U32(2)], &[Result, Text(0), OpenFlags(1), U32(2), Unknown(4)]),
    row("close", 4, &[Fd(0)], &[Result]),
    row("read", 6, &[Fd(0), U32(2)], &[Result, Data(1)]),
    row("write", 8, &[Fd(0), U32(2)], &[Result, Data(1)]),
    row("socket", 18, &[U32(0), U32(1), U32(2)], &[Result]),
    row("bind", 20, &[Fd(0)], &[Result, Sockaddr(1)]),
    row("connect", 22, &[Fd(0), Sockaddr(1)], &[Result, To(1)]),
    row("listen", 24, &[Fd(0), U32(1)], &[Result]),
    row("sendto", 30, &[Fd(0), U32(2), To(4)], &[Result, Data(1)]),
    row("recvfrom", 34, &[Fd(0), U32(2)], &[Result, Data(1), From(4)]),
    row("shutdown", 36, &[Fd(0), U8(1)], &[Result]),
    row("getsockname", 38, &[], &[]),
    row("getpeername", 40, &[], &[]),
    row("socketpair", 42, &[U32(0), U32(1), U32(2)], &[Result, Pair(3, 0), Pair(3, 1), Unknown(8), Unknown(8)]),
    row("sendmsg", 48, &[Fd(0), Moved(1), To(1)], &[Result, Data(1)]),
    row("sendmmsg", 50, &[], &[]),
    row("recvmsg", 52, &[Fd(0)], &[Result, Moved(1), Data(1), From(1)]),
    row("recvmmsg", 54, &[], &[]),
    row("creat", 58, &[Text(0), U32(1)], &[Result, Text(0), U32(1), Unknown(4)]),
    row("pipe", 60, &[], &[Result, Pair(0, 0), Pair(0, 1), Unknown(8)]),
    row("pipe2", 60, &[], &[Result, Pair(0, 0), Pair(0, 1), Unknown(8)]),
    row("eventfd", 62, &[U64(0), U32(1)], &[Result]),
    row("eventfd2", 62, &[U64(0), U32(1)], &[Result]),
    row("stat", 66, &[], &[Result, Text(0)]),
    row("lstat", 68, &[], &[Result, Text(0)]),
    row("fstat", 70, &[Fd(0)], &[Result]),
    row("lseek", 86, &[Fd(0), U64(1), U8(2)], &[Result]),
    row("chdir", 94, &[], &[Result, Text(0)]),
    row("fchdir", 96, &[Fd(0)], &[Result]),
    row("pread64", 112, &[Fd(0), U32(2), U64(3)], &[Result, Data(1)]),
    row("pwrite64", 114, &[Fd(0), U32(2), U64(3)], &[Result, Data(1)]),
    row("readv", 116, &[Fd(0)], &[Result, Moved(1), Data(1)]),
    row("writev", 118, &[Fd(0), Moved(1)], &[Result, Data(1)]),
    row("preadv", 120, &[Fd(0), U64(3)], &[Result, Moved(1), Data(1)]),
    row("pwritev", 122, &[Fd(0), Moved(1), U64(3)], &[Result, Data(1)]),
    row("dup", 124, &[Fd(0)], &[Result]),
    row("dup2", 124, &[Fd(0)], &[Result]),
    row("dup3", 124, &[Fd(0)], &[Result]),
    row("kill", 128, &[Fd(0), U8(1)], &[Result]),
    row("tkill", 130, &[Fd(0), U8(1)], &[Result]),
    row("tgkill", 132, &[Fd(0), Fd(1), U8(2)], &[Result]),
    row("fcntl", 150, &[Fd(0), Command(1)], &[Result]),
    row("munmap", 164, &[U64(0), U64(1)], &[Result, Unknown(4), Unknown(4), Unknown(4)]),
    row("ptrace", 168, &[Request(0), Fd(1)], &[Result, Word(2), Word(3)]),
    row("ioctl", 170, &[Fd(0), U64(1), U64(2)], &[Result]),
    row("rename", 174, &[], &[Result, Text(0), Text(1)]),
    row("renameat", 176, &[], &[Result, Fd(0), Text(1), Fd(2), Text(3)]),
    row("symlink", 178, &[], &[Result, Text(0), Text(1)]),
    row("symlinkat", 180, &[], &[Result, Text(0), Fd(1), Text(2)]),
    row("sendfile", 188, &[Fd(0), Fd(1), Unknown(8), U64(3)], &[Result, Unknown(8)]),
    row("setresuid", 192, &[U32(0), U32(1), U32(2)], &[Result]),
    row("setresgid", 194, &[U32(0), U32(1), U32(2)], &[Result]),
    row("setuid", 198, &[U32(0)], &[Result]),
    row("setgid", 200, &[U32(0)], &[Result]),
    row("getuid", 202, &[], &[Result32]),
    row("geteuid", 204, &[], &[Result32]),
    row("getgid", 206, &[], &[Result32]),
    row("getegid", 208, &[], &[Result32]),
    row("clone", 222, &[], &[Result, Cloned]),
    row("fork", 224, &[], &[Result, Cloned]),
    row("vfork", 226, &[], &[Result, Cloned]),
    row("getdents", 236, &[Fd(0)], &[Result]),
    row("getdents64", 238, &[Fd(0)], &[Result]),
    row("setns", 240, &[Fd(0), CloneFlags(1)], &[Result]),
    row("flock", 242, &[Fd(0), Unknown(4)], &[Result]),
    row("accept", 246, &[], &[Result, Accepted, Unknown(1), Unknown(4), Unknown(4)]),
    row("accept4", 248, &[U32(3)], &[Result, Accepted, Unknown(1), Unknown(4), Unknown(4)]),
    row("mount", 256, &[MountFlags(3)], &[Result, Text(0), Text(1), Text(2)]),
    row("umount2", 258, &[U32(1)], &[Result, Text(0)]),
    row("access", 264, &[U32(1)], &[Result, Text(0)]),
    row("chroot", 266, &[], &[Result, Text(0)]),
    row("setsid", 274, &[], &[Result]),
    row("mkdir", 276, &[U32(1)], &[Result, Text(0)]),
    row("rmdir", 278, &[], &[Result, Text(0)]),
    row("unshare", 284, &[CloneFlags(0)], &[Result]),
    row("execve", 292, &[Text(0)], &[Result, Executed]),
    row("setpgid", 294, &[Fd(0), Fd(1)], &[Result]),
    row("bpf", 296, &[I64(0)], &[Bpf]),
    row("seccomp", 298, &[U64(0)], &[Result]),
    row("unlink", 300, &[], &[Result, Text(0)]),
    row("unlinkat", 302, &[], &[Result, Fd(0), Text(1), U32(2)]),
    row("mkdirat", 304, &[], &[Result, Fd(0), Text(1), U32(2)]),
    row("openat", 306, &[Fd(0), Text(1), OpenFlags(2), U32(3)], &[Result, Fd(0), Text(1), OpenFlags(2), U32(3), Unknown(4)]),
    row("link", 308, &[], &[Result, Text(0), Text(1)]),
    row("linkat", 310, &[], &[Result, Fd(0), Text(1), Fd(2), Text(3), U32(4)]),
    row("fchmodat", 312, &[], &[Result, Fd(0), Text(1), Mode(2)]),
    row("chmod", 314, &[], &[Result, Text(0), Mode(1)]),
    row("fchmod", 316, &[], &[Result, Fd(0), Mode(1)]),
    row("renameat2", 318, &[], &[Result, Fd(0), Text(1), Fd(2), Text(3), U32(4)]),
    row("openat2", 326, &[Fd(0), Text(1), HowFlags(2), HowMode(2), Unknown(4)], &[Result, Fd(0), Text(1), HowFlags(2), HowMode(2), Unknown(4)]),
    row("mprotect", 328, &[U64(0), U64(1), U32(2)], &[Result]),
    row("execveat", 330, &[Fd(0), Text(1), U32(4)], &[Result, Executed]),
    row("clone3", 334, &[], &[Result, Cloned]),
];
