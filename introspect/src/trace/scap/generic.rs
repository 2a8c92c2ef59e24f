//! Numbers of calls without an event of their own (`enum ppm_syscall_code` of `driver/ppm_events_public.h`). Calls that came after that
//! version have none there: Debian's reader looks up any number without asking whether it has it, so theirs is 0, "unknown".

#[rustfmt::skip]
const CODES: [(&str, u16); 201] = [
    ("acct", 33), ("add_key", 189), ("adjtimex", 74), ("alarm", 19), ("arch_prctl", 296), ("brk", 32), ("capget", 114), ("capset", 115),
    ("chown", 132), ("clock_adjtime", 237), ("clock_getres", 177), ("clock_gettime", 176), ("clock_nanosleep", 178), ("clock_settime", 175),
    ("copy_file_range", 326), ("delete_module", 77), ("epoll_create", 165), ("epoll_create1", 227), ("epoll_ctl", 166), ("epoll_pwait", 218),
    ("epoll_wait", 167), ("exit", 2), ("exit_group", 164), ("faccessat", 208), ("fadvise64", 319), ("fallocate", 299), ("fanotify_init", 235),
    ("fchown", 127), ("fchownat", 200), ("fdatasync", 90), ("fgetxattr", 146), ("finit_module", 314), ("flistxattr", 149), ("fremovexattr", 152),
    ("fsetxattr", 143), ("fstatfs", 63), ("fsync", 72), ("ftruncate", 58), ("futex", 154), ("futimesat", 201), ("get_robust_list", 213),
    ("get_thread_area", 158), ("getcpu", 217), ("getcwd", 113), ("getgroups", 125), ("getitimer", 66), ("getpgid", 79), ("getpgrp", 42),
    ("getpid", 16), ("getppid", 41), ("getpriority", 60), ("getrandom", 318), ("getresgid", 131), ("getresuid", 129), ("getrlimit", 117),
    ("getrusage", 46), ("getsid", 89), ("getsockopt", 253), ("gettid", 140), ("gettimeofday", 47), ("getxattr", 144), ("init_module", 76),
    ("inotify_add_watch", 195), ("inotify_init", 194), ("inotify_init1", 230), ("inotify_rm_watch", 196), ("io_cancel", 163), ("io_destroy", 160),
    ("io_getevents", 161), ("io_setup", 159), ("io_submit", 162), ("ioprio_get", 193), ("ioprio_set", 192), ("kexec_load", 187), ("keyctl", 191),
    ("lchown", 118), ("lgetxattr", 145), ("listxattr", 147), ("llistxattr", 148), ("lremovexattr", 151), ("lsetxattr", 142), ("madvise", 139),
    ("mincore", 138), ("mknod", 12), ("mknodat", 199), ("mlock", 91), ("mlockall", 93), ("mmap", 55), ("mq_getsetattr", 186), ("mq_notify", 185),
    ("mq_open", 181), ("mq_timedreceive", 184), ("mq_timedsend", 183), ("mq_unlink", 182), ("mremap", 104), ("msgctl", 265), ("msgget", 264),
    ("msgrcv", 263), ("msgsnd", 262), ("msync", 86), ("munlock", 92), ("munlockall", 94), ("nanosleep", 103), ("newfstatat", 300), ("pause", 21),
    ("perf_event_open", 234), ("personality", 82), ("pivot_root", 137), ("poll", 105), ("ppoll", 210), ("prctl", 106), ("prlimit64", 236),
    ("process_vm_readv", 301), ("process_vm_writev", 302), ("pselect6", 209), ("quotactl", 78), ("readlink", 51), ("readlinkat", 206),
    ("reboot", 54), ("remap_file_pages", 168), ("removexattr", 150), ("request_key", 190), ("restart_syscall", 1), ("rt_sigaction", 107),
    ("rt_sigpending", 109), ("rt_sigprocmask", 108), ("rt_sigqueueinfo", 111), ("rt_sigreturn", 298), ("rt_sigsuspend", 112),
    ("rt_sigtimedwait", 110), ("rt_tgsigqueueinfo", 233), ("sched_get_priority_max", 100), ("sched_get_priority_min", 101),
    ("sched_getaffinity", 156), ("sched_getparam", 96), ("sched_getscheduler", 98), ("sched_rr_get_interval", 102), ("sched_setaffinity", 155),
    ("sched_setparam", 95), ("sched_setscheduler", 97), ("sched_yield", 99), ("select", 84), ("semctl", 261), ("semget", 260), ("semop", 259),
    ("set_robust_list", 212), ("set_thread_area", 157), ("set_tid_address", 169), ("setdomainname", 73), ("setfsgid", 136), ("setfsuid", 135),
    ("setgroups", 126), ("sethostname", 44), ("setitimer", 65), ("setpriority", 61), ("setregid", 124), ("setreuid", 123), ("setrlimit", 45),
    ("setsockopt", 252), ("settimeofday", 48), ("setxattr", 141), ("shmat", 297), ("shmctl", 268), ("shmdt", 266), ("shmget", 267),
    ("sigaltstack", 317), ("signalfd", 220), ("signalfd4", 225), ("splice", 214), ("statfs", 62), ("swapoff", 70), ("swapon", 53), ("sync", 24),
    ("syncfs", 238), ("sysfs", 81), ("sysinfo", 71), ("syslog", 64), ("tee", 215), ("time", 11), ("timer_create", 170), ("timer_delete", 174),
    ("timer_getoverrun", 173), ("timer_gettime", 172), ("timer_settime", 171), ("timerfd_create", 221), ("timerfd_gettime", 224),
    ("timerfd_settime", 223), ("times", 31), ("truncate", 57), ("umask", 37), ("uname", 67), ("uselib", 52), ("userfaultfd", 321), ("ustat", 39),
    ("utime", 22), ("utimensat", 219), ("utimes", 180), ("vhangup", 68), ("vmsplice", 216), ("wait4", 69), ("waitid", 188),
];

/// The number of the call with this name.
pub fn code(call: &str) -> u16 {
    CODES.binary_search_by_key(&call, |(name, _)| name).map_or(0, |index| CODES[index].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `PPM_SC_MAX` of that version.
    const END: u16 = 329;

    #[test]
    fn codes_are_in_order_and_known_to_that_version() {
        assert!(
            CODES.is_sorted_by_key(|(name, _)| *name)
                && CODES.iter().all(|(_, code)| (1..END).contains(code))
        );
        assert_eq!((code("exit_group"), code("memfd_create")), (164, 0));
    }
}
