//! How a vcpu's thread is reached: a signal takes it out of the guest, an eventfd wakes it from its wait; and its timer.
//!
//! The signal's handler sets `immediate_exit` in the run page, so a signal that comes just before KVM_RUN is not lost.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::evtchn::Kick;

thread_local! {
    /// `immediate_exit` of the vcpu that this thread runs; null elsewhere.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

/// The signal of kicks and timers.
fn signal_number() -> libc::c_int {
    libc::SIGUSR1
}

extern "C" fn on_signal(_: libc::c_int) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer is into the run page of the vcpu that this thread owns, and is set back to null before that is unmapped.
        unsafe { flag.write_volatile(1) };
    }
}

/// Installs the handler, once a process.
fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY:
        // - The structure is zeroed, which is a valid sigaction, then given a handler of the right type.
        // - The handler does one volatile store and nothing that is not async-signal-safe.
        // - No SA_RESTART: KVM_RUN and poll are to return EINTR.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = on_signal as *const () as usize;
            libc::sigaction(signal_number(), &raw const action, null_mut()) == 0
        }
    });
    if *installed { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One vcpu's thread, from other threads.
pub struct VcpuKick {
    wake: OwnedFd,
    /// It sleeps, or is about to and will look once more before: the eventfd reaches it, and no signal is needed.
    waiting: AtomicBool,
    /// Set while the thread is the vcpu's: its number means nothing after that. Held while it is signalled, a leaf lock.
    thread: Mutex<Option<libc::pthread_t>>,
}

impl VcpuKick {
    /// A thread that has not started yet; kicks before that only leave it something to wake up for.
    pub fn new() -> io::Result<VcpuKick> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(VcpuKick { wake, waiting: AtomicBool::new(false), thread: Mutex::new(None) })
    }

    /// Makes the calling thread the vcpu's. `immediate_exit` must outlive the guard.
    pub fn enter_thread(&self, immediate_exit: *mut u8) -> io::Result<ThreadGuard<'_>> {
        install_handler()?;
        IMMEDIATE_EXIT.set(immediate_exit);
        // SAFETY: pthread_self has no requirements.
        *self.thread() = Some(unsafe { libc::pthread_self() });
        Ok(ThreadGuard(self))
    }

    fn thread(&self) -> MutexGuard<'_, Option<libc::pthread_t>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the vcpu out of the guest, or out of its wait. Nothing to do from its own thread, which looks before it goes on.
    pub fn kick(&self) {
        let thread = self.thread();
        // SAFETY: pthread_self and pthread_equal have no requirements.
        if thread.is_some_and(|thread| unsafe { libc::pthread_equal(thread, libc::pthread_self()) } != 0) {
            return;
        }
        if self.waiting.load(Ordering::SeqCst) {
            // Full or not, the eventfd is readable after it.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        } else if let Some(thread) = *thread {
            // SAFETY: the thread lives: it takes its number back, under the lock that we hold, before it ends.
            unsafe { libc::pthread_kill(thread, signal_number()) };
        }
    }

    /// Waits for a kick or until the timeout, unless `done`, which looks at whatever a kick tells of.
    pub fn wait(&self, timeout: Duration, done: impl Fn() -> bool) {
        self.waiting.store(true, Ordering::SeqCst);
        if !done() {
            let fd: BorrowedFd<'_> = self.wake.as_fd();
            let timeout = Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(timeout.subsec_nanos()),
            };
            // EINTR is a kick as well.
            let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout));
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        self.waiting.store(false, Ordering::SeqCst);
    }
}

/// The calling thread is a vcpu's until this is dropped.
pub struct ThreadGuard<'a>(&'a VcpuKick);

impl Drop for ThreadGuard<'_> {
    fn drop(&mut self) {
        *self.0.thread() = None;
        IMMEDIATE_EXIT.set(null_mut());
    }
}

/// All vcpus of a domain, for event channels.
pub struct VcpuKicks(pub Vec<VcpuKick>);

impl Kick for VcpuKicks {
    fn kick(&self, vcpu: usize) {
        if let Some(kick) = self.0.get(vcpu) {
            kick.kick();
        }
    }
}

/// A timer that signals the thread that made it.
pub struct ThreadTimer(libc::timer_t);

impl ThreadTimer {
    /// Not armed yet.
    pub fn new() -> io::Result<ThreadTimer> {
        let mut timer = null_mut();
        // SAFETY:
        // - The structure is zeroed, then its fields for SIGEV_THREAD_ID are set; the thread id is the caller's own.
        // - `timer` is written before it is used.
        let result = unsafe {
            let mut event: libc::sigevent = MaybeUninit::zeroed().assume_init();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal_number();
            event.sigev_notify_thread_id = libc::gettid();
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer)
        };
        if result != 0 { Err(io::Error::last_os_error()) } else { Ok(ThreadTimer(timer)) }
    }

    /// Signals once, after this time.
    pub fn arm(&self, after: Duration) {
        let after = after.max(Duration::from_nanos(1));
        let value = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(after.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: libc::c_long::from(after.subsec_nanos().cast_signed()),
            },
        };
        // SAFETY: the timer is live until drop, the value is valid, the old value is not asked for.
        unsafe { libc::timer_settime(self.0, 0, &raw const value, null_mut()) };
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: the timer was created by `new` and is deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}
