//! A vcpu's thread: run the guest, answer the shim, deliver events, wait.
//!
//! When the guest is stopped by a signal and an upcall is pending, the way in depends on where it stopped:
//! in the guest's own code, its registers become `area.regs` and the shim delivers (`resume`); inside the shim nothing is done, since the
//! shim looks on its way out; in the shim's last instructions (PVM: `window_begin` to `window_end`, and the CPL 0 stub behind them), which come
//! after that look, it is sent back to `restore`. The hardware backend injects a vector instead, which waits until the shim has left.

mod trace_calls;
mod waits;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::emulate::{self, Emulated};
use crate::evtchn::Kick;
use crate::hypercall::{After, Caller, DR6_INIT, Shared, ShutdownReason, dispatch};
use crate::kick::{ThreadTimer, VcpuKicks};
use crate::kvm::{Exit, Injected, SavedVcpu, Stop, Vcpu};
use crate::memory::{Access, Gpa, Gva};
use crate::paging::AddressSpace;
use crate::shim::{
    Area, Backend, CALL_BROKEN, CALL_EXCEPTION, CALL_FLUSH, CALL_HYPERCALL, CALL_TRACE, Field, Register,
    Symbols, TRAMPOLINE_EXIT, symbols, window,
};

pub use trace_calls::TraceCalls;

/// VIRQ_TIMER of xen.h.
const VIRQ_TIMER: u32 = 0;
/// `area.resume_error`: the trap has no error code.
const NO_ERROR_CODE: u64 = u64::MAX;
const RFLAGS_TF: u64 = 0x100;
/// DR6: single step.
const DR6_BS: u64 = 0x4000;
/// Exceptions that push an error code.
const WITH_ERROR_CODE: [u64; 7] = [8, 10, 11, 12, 13, 14, 17];
/// Longer than the way from the shim's last look to the guest: a #DE and four emulated instructions.
const LOOK_AGAIN_NS: u64 = 20_000;
/// Opcodes of `int3` and `int n`.
const INT3: u8 = 0xcc;
const INT: u8 = 0xcd;
/// A trap is delivered as soon as the vcpu runs again.
const POSTPONED_MAX: u32 = 4;
/// Bytes of the two CPL 0 exit stubs, which lie side by side.
const GATE_EXIT_BYTES: u64 = 64;
/// Bytes of the fast way out in the trampoline page, either view.
const LEAVE_BYTES: u64 = 16;

/// Why a domain's vcpu ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest asked for it.
    Shutdown(ShutdownReason),
    /// The guest broke: the text says how.
    Crash(String),
    /// The VMM was told to end.
    Stopped,
}

/// What other threads ask of the vcpus.
#[derive(Default)]
pub struct Requests {
    stop: AtomicBool,
    pause: AtomicBool,
    /// Number of vcpus that stand still because of `pause`. A leaf lock.
    paused: Mutex<usize>,
    changed: Condvar,
}

impl Requests {
    /// Ends all vcpus.
    pub fn stop(&self, kicks: &VcpuKicks) {
        self.stop.store(true, Ordering::SeqCst);
        self.unpause();
        (0..kicks.0.len()).for_each(|vcpu| kicks.kick(vcpu));
    }

    /// Asks all vcpus to stand still, and waits until they do.
    pub fn pause(&self, kicks: &VcpuKicks) {
        self.pause.store(true, Ordering::SeqCst);
        (0..kicks.0.len()).for_each(|vcpu| kicks.kick(vcpu));
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        while *paused < kicks.0.len()
            && !self.stop.load(Ordering::SeqCst)
            && self.pause.load(Ordering::SeqCst)
        {
            let waited = self.changed.wait_timeout(paused, Duration::from_millis(10));
            paused = waited.map_or_else(|e| e.into_inner().0, |(guard, _)| guard);
            // A vcpu that blocks or runs was kicked; one that was just between the two is kicked again.
            (0..kicks.0.len()).for_each(|vcpu| kicks.kick(vcpu));
        }
    }

    /// Lets them go on.
    pub fn unpause(&self) {
        self.pause.store(false, Ordering::SeqCst);
        let _guard = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }

    /// A vcpu has ended: it stands still for good, and who waits for that is told.
    fn ended(&self) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    fn pending(&self) -> bool {
        self.stop.load(Ordering::SeqCst) || self.pause.load(Ordering::SeqCst)
    }

    /// Stands still while a pause is asked for. False: the vcpu is to end.
    fn obey(&self) -> bool {
        if self.pause.load(Ordering::SeqCst) {
            let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
            *paused += 1;
            self.changed.notify_all();
            while self.pause.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
                paused = self.changed.wait(paused).unwrap_or_else(PoisonError::into_inner);
            }
            *paused -= 1;
        }
        !self.stop.load(Ordering::SeqCst)
    }
}

/// Where the vcpus of a paused domain stand, for dumps, `info` and to be saved.
#[derive(Clone, Default)]
pub struct VcpuSnapshot {
    /// General registers of the guest, `kvm_regs`' order.
    pub registers: [u64; 18],
    /// CR3 of the guest kernel.
    pub kernel_cr3: u64,
    /// CR3 of the user program, 0 if none.
    pub user_cr3: u64,
    /// It was in the kernel.
    pub kernel_mode: bool,
    /// FS base, GS base.
    pub bases: [u64; 2],
    /// All of it, to go on from here; none if KVM would not tell.
    pub kept: Option<Arc<KeptVcpu>>,
}

/// A vcpu as it goes on later, here or elsewhere.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptVcpu {
    /// What KVM holds.
    pub registers: SavedVcpu,
    /// It has been in the guest.
    pub started: bool,
}

/// One vcpu and what its thread needs.
pub struct RunLoop {
    /// The vcpu.
    pub vcpu: Vcpu,
    /// Its area.
    pub area: Area,
    /// Its number.
    pub index: u32,
    /// What hypercalls share.
    pub shared: Shared,
    /// How it is reached.
    pub kicks: Arc<VcpuKicks>,
    /// What is asked of it.
    pub requests: Arc<Requests>,
    /// Its last place of rest.
    pub snapshot: Arc<Mutex<VcpuSnapshot>>,
    /// Its trace.
    pub trace: TraceCalls,
    /// It has been in the guest: a restored one goes on where it was.
    pub started: bool,
}

/// A run loop on its thread.
struct Running {
    it: RunLoop,
    timer: ThreadTimer,
    symbols: Symbols,
    /// How often an event was put off in a row because the guest seemed to trap.
    postponed: u32,
}

impl RunLoop {
    /// Runs the vcpu on the calling thread until the domain ends.
    pub fn run(mut self) -> End {
        let kicks = self.kicks.clone();
        let Some(kick) = kicks.0.get(self.index as usize) else {
            return End::Crash(format!("vcpu {} has no kick", self.index));
        };
        let symbols = symbols(self.area.backend());
        let requests = self.requests.clone();
        let guard = kick.enter_thread(self.vcpu.immediate_exit());
        let timer = ThreadTimer::new();
        let end = match (guard, timer) {
            (Ok(guard), Ok(timer)) => {
                let mut running = Running { it: self, timer, symbols, postponed: 0 };
                let end = running.run();
                // Before the vcpu goes: a late signal would write to its run page.
                drop(guard);
                end
            }
            (Err(e), _) | (_, Err(e)) => End::Crash(format!("cannot set up the vcpu's thread: {e}")),
        };
        requests.ended();
        end
    }
}

impl Running {
    fn run(&mut self) -> End {
        if !self.wait_until_up() {
            return End::Stopped;
        }
        if self.it.started {
            self.check_timer();
        } else {
            self.enter_resume(true);
            self.it.started = true;
        }
        loop {
            let ended = match self.it.vcpu.run() {
                Exit::Call => self.call(),
                Exit::Interrupted => self.interrupted(),
                Exit::Dead(what) => {
                    Some(End::Crash(format!("vcpu {} died: {what}; {}", self.it.index, self.place())))
                }
            };
            if let Some(end) = ended {
                return end;
            }
            let still = self.it.requests.pending() && !self.trapping();
            if (still && !self.stand_still()) || !self.wait_until_up() {
                return End::Stopped;
            }
        }
    }

    /// Would a trap that the guest has raised be lost if it stood still here? Then it goes on for a moment.
    fn trapping(&mut self) -> bool {
        let stop = self.it.vcpu.stop();
        let trapping = stop.cpl == 3 && !self.in_shim(stop.rip) && self.may_be_trapping(&stop);
        if trapping {
            self.look_again_soon();
        }
        trapping
    }

    fn place(&self) -> String {
        let stop = self.it.vcpu.stop();
        let guest = self.it.area.registers();
        format!(
            "rip {:#x} cpl {} cr3 {:#x}, guest rip {:#x} rsp {:#x}",
            stop.rip, stop.cpl, stop.cr3, guest[16], guest[6]
        )
    }

    fn stand_still(&mut self) -> bool {
        let mut snapshot = self.take_snapshot();
        let registers = self.it.vcpu.save();
        let registers = registers.inspect_err(|error| tracing::warn!(%error, "a vcpu cannot be saved")).ok();
        let started = self.it.started;
        snapshot.kept = registers.map(|registers| Arc::new(KeptVcpu { registers, started }));
        *self.it.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        let go_on = self.it.requests.obey();
        self.check_timer();
        go_on
    }

    /// Is this address the shim's?
    fn in_shim(&self, rip: u64) -> bool {
        let start = self.it.area.window_va().0;
        rip >= start && rip < start + window::STACKS_END
    }

    fn take_snapshot(&self) -> VcpuSnapshot {
        let stop = self.it.vcpu.stop();
        let area = &self.it.area;
        let inside = stop.cpl == 0 || self.in_shim(stop.rip);
        VcpuSnapshot {
            registers: if inside { area.registers() } else { stop.registers },
            kernel_cr3: area.get(Field::KernelCr3),
            user_cr3: area.get(Field::UserCr3),
            kernel_mode: area.get(Field::KernelMode) != 0,
            bases: [stop.fs_base, stop.gs_base],
            kept: None,
        }
    }

    /// The shim's int3 or port access.
    fn call(&mut self) -> Option<End> {
        if self.it.area.backend() == Backend::Pvm {
            let expected = self.it.area.window_va().0 + self.symbols.vmm_call + 1;
            if self.it.area.stack0_rip() != expected {
                self.kernel_breakpoint();
                return None;
            }
        }
        let (op, nr, args) = self.it.area.call();
        match op {
            CALL_HYPERCALL => self.hypercall(nr, &args),
            CALL_TRACE => self.trace(nr, args[0]),
            CALL_FLUSH => self.flush(nr),
            CALL_EXCEPTION => {
                let answer = self.exception(nr, args[0]);
                self.it.area.answer(answer);
                None
            }
            CALL_BROKEN => Some(End::Crash(self.broken(nr, &args))),
            other => {
                Some(End::Crash(format!("the shim's memory was overwritten: it asks for operation {other}")))
            }
        }
    }

    fn broken(&self, nr: u64, args: &[u64; 6]) -> String {
        match nr {
            0 => format!(
                "no kernel stack for an exception: rsp {:#x}, handler {:#x}, rip {:#x}",
                args[0], args[1], args[2]
            ),
            1 => format!("iret frame at {:#x} is not mapped, rip {:#x}", args[0], args[2]),
            _ => format!(
                "fault {} at {:#x} in the shim, address {:#x}, error {:#x}",
                args[3], args[0], args[1], args[2]
            ),
        }
    }

    fn hypercall(&mut self, nr: u64, args: &[u64; 6]) -> Option<End> {
        let it = &mut self.it;
        let mut caller = Caller { shared: &it.shared, area: &it.area, vcpu: it.index };
        let (result, after) = dispatch(&mut caller, nr, args);
        it.area.answer(result);
        match after {
            After::Continue => None,
            After::SetTimer => {
                self.check_timer();
                None
            }
            After::Block => {
                self.block();
                None
            }
            After::Poll(ports, deadline) => {
                self.poll(&ports, deadline);
                None
            }
            After::Yield => {
                thread::yield_now();
                None
            }
            After::Shutdown(reason) => Some(End::Shutdown(reason)),
        }
    }

    /// 1: the guest's handler gets it; 0: done.
    fn exception(&mut self, vector: u64, error: u64) -> i64 {
        let it = &mut self.it;
        let memory = &it.shared.memory;
        let vcpu = &it.vcpu;
        let emulated = match vector {
            6 => emulate::invalid_opcode(&it.area, memory),
            13 => {
                let cr2_at = it.shared.events.vcpu_info(it.index as usize).offset(16);
                let cr2 = memory.read_u64(cr2_at).unwrap_or(0);
                emulate::general_protection(&it.area, memory, error, cr2, || {
                    let stop = vcpu.stop();
                    (stop.gs_base, stop.fs_base)
                })
            }
            1 => {
                // The guest's breakpoints are not loaded, so a step is the only cause that DR6 could tell; KVM loses it on SVM.
                let step = it.area.register(Register::Rflags) & RFLAGS_TF != 0;
                it.shared.vcpus.tables(it.index as usize).debug[6] = DR6_INIT | if step { DR6_BS } else { 0 };
                Emulated::No
            }
            _ => Emulated::No,
        };
        match emulated {
            Emulated::Done => 0,
            Emulated::Interrupt(vector) => {
                // Another vector than the shim asked about: it delivers this one when it resumes.
                it.area.set(Field::ResumeTrap, u64::from(vector) + 1);
                it.area.set(Field::ResumeError, NO_ERROR_CODE);
                self.enter_resume(true);
                0
            }
            Emulated::No => {
                let error = if WITH_ERROR_CODE.contains(&vector) { error } else { NO_ERROR_CODE };
                it.area.set(Field::ResumeError, error);
                1
            }
        }
    }

    /// int3 of the guest kernel's own (PVM): it came to the stub of the shim's calls.
    fn kernel_breakpoint(&mut self) {
        let area = &self.it.area;
        let stop = self.it.vcpu.stop();
        let mut registers = stop.registers;
        (registers[Register::Rflags as usize], registers[Register::Rsp as usize]) =
            area.stack0_flags_and_sp();
        registers[Register::Rip as usize] = area.stack0_rip();
        area.set_registers(&registers);
        area.set(Field::ResumeTrap, 3 + 1);
        area.set(Field::ResumeError, NO_ERROR_CODE);
        self.enter_resume(true);
    }

    /// Goes on in the shim at `resume`, in the kernel's address space.
    fn enter_resume(&mut self, load_segments: bool) {
        self.enter_shim_at(self.symbols.resume, load_segments);
    }

    fn enter_shim_at(&mut self, symbol: u64, load_segments: bool) {
        let area = &self.it.area;
        let start = area.window_va().0;
        let cr3 = load_segments.then(|| area.get(Field::KernelCr3));
        if let Some(cr3) = cr3 {
            area.set(Field::CurrentCr3, cr3);
            area.set(Field::ExitCr3, 0);
        }
        self.it.vcpu.enter_shim(start + symbol, start + self.symbols.main_top, cr3);
    }

    /// Is there something to deliver that the guest would take now?
    fn deliverable(&self) -> bool {
        let it = &self.it;
        let vcpu = it.index as usize;
        it.shared.events.upcall_pending(vcpu)
            && !it.shared.events.upcall_masked(vcpu)
            && it.area.get(Field::CallbackEvent) != 0
    }

    /// A signal stopped the guest anywhere.
    fn interrupted(&mut self) -> Option<End> {
        self.check_timer();
        let vcpus = self.it.shared.vcpus.clone();
        let own = self.it.index as usize;
        if !self.deliverable() && !vcpus.flush_due(own) {
            return None;
        }
        if self.it.area.backend() == Backend::Hardware {
            return match self.it.vcpu.inject_event() {
                Ok(Injected::Now) => {
                    vcpus.will_flush(own);
                    None
                }
                Ok(Injected::Later) => None,
                Err(e) => Some(End::Crash(e.to_string())),
            };
        }
        let stop = self.it.vcpu.stop();
        let offset = stop.rip.wrapping_sub(self.it.area.window_va().0);
        let symbols = &self.symbols;
        let in_window = stop.cpl == 3 && (symbols.window_begin..symbols.window_end).contains(&offset);
        let in_gate =
            stop.cpl == 0 && (symbols.gate_exit..symbols.gate_exit + GATE_EXIT_BYTES).contains(&offset);
        let leaves = stop.cpl == 3 && (TRAMPOLINE_EXIT..TRAMPOLINE_EXIT + LEAVE_BYTES).contains(&offset);
        if in_gate {
            self.enter_shim_at(symbols.restore, true);
            vcpus.will_flush(own);
        } else if in_window {
            if self.it.vcpu.exception_pending() {
                // It leaves the shim for good in a moment, past its look at events.
                self.look_again_soon();
            } else {
                self.enter_shim_at(symbols.restore, false);
                vcpus.will_flush(own);
            }
        } else if leaves {
            self.look_again_soon();
        } else if stop.cpl == 3 && !self.in_shim(stop.rip) && !self.it.vcpu.exception_pending() {
            if self.may_be_trapping(&stop) {
                self.look_again_soon();
                return None;
            }
            self.it.area.set_registers(&stop.registers);
            let user = self.it.area.get(Field::KernelMode) == 0;
            if user {
                let compat = self.it.vcpu.special_registers().cs.l == 0;
                self.it.area.set(Field::UserCs, if compat { 0x23 } else { 0x33 });
            }
            self.enter_resume(user);
            vcpus.will_flush(own);
        }
        None
    }

    /// Has the guest just executed a trap instruction? KVM does not tell of exceptions and interrupts that software raised while they wait for
    /// their delivery (kvm_vcpu_ioctl_x86_get_vcpu_events), and would deliver them wherever the registers are put meanwhile. What looks
    /// like one and stays is none: code may lie behind a breakpoint that only fills a gap.
    fn may_be_trapping(&mut self, stop: &Stop) -> bool {
        let space = AddressSpace::new(&self.it.shared.memory, Gpa(stop.cr3));
        let byte = |at: u64| space.read_array::<1>(Gva(at)).map_or(0, |[byte]| byte);
        let traps = matches!(byte(stop.rip), INT3 | INT)
            || byte(stop.rip.wrapping_sub(1)) == INT3
            || byte(stop.rip.wrapping_sub(2)) == INT;
        self.postponed = if traps && self.postponed < POSTPONED_MAX { self.postponed + 1 } else { 0 };
        self.postponed > 0
    }

    /// Rings the timer if its time has come, and keeps the host's timer armed for the guest's deadline.
    fn check_timer(&mut self) {
        let area = &self.it.area;
        let now = self.it.shared.clock.now_ns();
        let (deadline, armed) = (area.get(Field::Deadline), area.get(Field::Armed));
        if armed != 0 && now >= armed {
            area.set(Field::Armed, 0);
        }
        if deadline == 0 {
            return;
        }
        if now >= deadline {
            area.set(Field::Deadline, 0);
            self.it.shared.events.raise_virq(self.it.index as usize, VIRQ_TIMER);
        } else if armed == 0 || now >= armed || deadline < armed {
            self.timer.arm(Duration::from_nanos(deadline - now));
            area.set(Field::Armed, deadline);
        }
    }

    /// Has this thread signalled again when the guest is a few instructions further.
    fn look_again_soon(&mut self) {
        let at = self.it.shared.clock.now_ns().saturating_add(LOOK_AGAIN_NS);
        self.timer.arm(Duration::from_nanos(LOOK_AGAIN_NS));
        self.it.area.set(Field::Armed, at);
    }
}
