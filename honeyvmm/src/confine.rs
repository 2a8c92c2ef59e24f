//! The seccomp filter of a domain's process: what it may still ask of the host kernel once its guest runs.
//!
//! One filter for all threads: they share their memory, so what one of them may do, whoever breaks into another may make it do.
//! It opens nothing, starts nothing, makes no memory executable, and of KVM only runs vcpus and asks which pages they wrote. A call that is not in the list kills the
//! process, which is the domain's crash.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::kvm;

/// Why the filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// It cannot be compiled: a mistake of ours.
    #[error("cannot compile the system-call filter")]
    Compile(#[source] seccompiler::BackendError),
    /// The kernel refused it.
    #[error("cannot install the system-call filter")]
    Install(#[source] seccompiler::Error),
}

/// Calls that may have any arguments.
const CALLS: &[libc::c_long] = &[
    // Disks, ports, sockets, eventfds: all on descriptors that are open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_shutdown,
    // Waiting, waking, time.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    // The vcpu's timer and its signal.
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_getpid,
    libc::SYS_gettid,
    // malloc, and the seeds of hash tables.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    // A thread's first steps, which one that was just made may still have before it.
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_getaffinity,
    // The end of a thread and of the process.
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Heaps that threads share. With a number set, glibc does not ask how many processors there are when a process comes to have more threads than
/// eight: it would open a file for that, in whatever thread allocates first, and the filter would end the process.
const ARENAS_MAX: libc::c_int = 4;

/// Free memory at a heap's end that is kept: all of it. Before glibc gives the first of it back it reads how the host overcommits, from a file, and the
/// filter would end the process. What is larger than 128 KiB is no part of a heap, and goes when it is freed: with a number set, that stays so.
const TRIM_THRESHOLD: libc::c_int = libc::c_int::MAX;

/// What must be so before the process has threads.
pub fn prepare() {
    for (parameter, value) in [(libc::M_ARENA_MAX, ARENAS_MAX), (libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD)] {
        // SAFETY: mallopt takes two numbers, and is called before there are threads that allocate.
        // It refuses none of these.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Narrows the calling process, all of its threads, for good.
///
/// # Errors
/// [`ConfineError`]: then nothing is in force.
pub fn confine() -> Result<(), ConfineError> {
    let program = compile().map_err(ConfineError::Compile)?;
    seccompiler::apply_filter_all_threads(&program).map_err(ConfineError::Install)
}

fn compile() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    // Of KVM, what running vcpus and the dirty log need. The command is the second argument's low half.
    let ioctls = kvm::RUN_TIME_IOCTLS.iter().chain(&kvm::VM_RUN_TIME_IOCTLS);
    let ioctls = ioctls.map(|command| argument(1, SeccompCmpOp::Eq, *command));
    rules.insert(libc::SYS_ioctl, ioctls.collect::<Result<_, _>>()?);
    let name = argument(0, SeccompCmpOp::Eq, libc::PR_SET_NAME.unsigned_abs().into())?;
    rules.insert(libc::SYS_prctl, vec![name]);
    // A debug build of Rust's library looks whether what it closes is open.
    rules.insert(libc::SYS_fcntl, vec![argument(1, SeccompCmpOp::Eq, libc::F_GETFD.unsigned_abs().into())?]);
    // Memory that can be executed is not to be had any more.
    let exec = libc::PROT_EXEC.unsigned_abs().into();
    let not_executable = || argument(2, SeccompCmpOp::MaskedEq(exec), 0).map(|rule| vec![rule]);
    rules.insert(libc::SYS_mmap, not_executable()?);
    rules.insert(libc::SYS_mprotect, not_executable()?);
    let filter =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    filter.try_into()
}

fn argument(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles() {
        assert!(compile().unwrap().len() > CALLS.len());
    }
}
