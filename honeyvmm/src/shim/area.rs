//! `struct area` of `shim/area.h`, as the VMM sees it. On PVM the guest kernel can write it too, so every value read is foreign.

use std::mem::offset_of;
use std::sync::atomic::Ordering;

use super::layout::{Backend, Layout, window};
use crate::memory::{Access, Gpa, GuestMemory, Gva, MemoryError, Region};

/// The shim asks for a hypercall.
pub const CALL_HYPERCALL: u64 = 1;
/// The shim hands over an exception.
pub const CALL_EXCEPTION: u64 = 2;
/// The trace wants something of its reader.
pub const CALL_TRACE: u64 = 3;
/// Vcpus are to be taken out of the guest, and waited for until none uses an old translation: the number is their mask.
pub const CALL_FLUSH: u64 = 4;
/// The shim cannot go on: the domain is at its end.
pub const CALL_BROKEN: u64 = 9;

/// What the shim counts, in the order of `COUNT_*`; the words after these are spare.
pub const COUNT_NAMES: [&str; 11] = [
    "entries",
    "system_calls",
    "hypercalls",
    "page_faults",
    "upcalls",
    "flushes",
    "user_bits",
    "nested",
    "timer_skips",
    "calls",
    "exceptions",
];

/// `struct trap_info` of Xen's arch-x86/xen.h.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TrapInfo {
    /// Exception vector.
    pub vector: u8,
    /// Bits 0-1: privilege that may raise it; bit 2: mask events.
    pub flags: u8,
    /// Code selector.
    pub cs: u16,
    /// Handler; 0 ends a list.
    pub address: u64,
}

/// Where a vcpu's kernel has asked to be entered; for who has the shim's memory alone. The guest can write it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// Handlers of traps, by vector.
    pub traps: Vec<TrapInfo>,
    /// Of events, of failures to return, of system calls from 64-bit and from 32-bit programs; 0: none.
    pub callbacks: [u64; 4],
}

impl Entries {
    /// What `callbacks` are called, in their order.
    pub const CALLBACKS: [&str; 4] = ["event", "failsafe", "syscall", "syscall32"];

    /// What this vcpu has registered.
    ///
    /// # Errors
    /// Memory without a window of this vcpu.
    pub fn registered(shim: &Region, vcpu: u32) -> Result<Entries, MemoryError> {
        // Windows lie where they lie whatever the domain's RAM.
        let area = Layout { ram_bytes: 0, vcpus: 1 }.window_gpa(vcpu).offset(window::AREA);
        let first = area.offset(offset_of!(AreaLayout, traps) as u64);
        let trap = |vector: u64| {
            let head = shim.read_u64(first.offset(16 * vector))?.to_le_bytes();
            Ok(TrapInfo {
                vector: head[0],
                flags: head[1],
                cs: u16::from_le_bytes([head[2], head[3]]),
                address: shim.read_u64(first.offset(16 * vector + 8))?,
            })
        };
        let traps = (0..256).map(trap).collect::<Result<_, MemoryError>>()?;
        let fields =
            [Field::CallbackEvent, Field::CallbackFailsafe, Field::CallbackSyscall, Field::CallbackSyscall32];
        let mut callbacks = [0; 4];
        for (callback, field) in callbacks.iter_mut().zip(fields) {
            *callback = shim.read_u64(area.offset(field.offset()))?;
        }
        Ok(Entries { traps, callbacks })
    }
}

#[repr(C)]
struct AreaLayout {
    regs: [u64; 18],
    nested: [u64; 18],
    exit_cs: u64,
    exit_cr3: u64,
    exit_fast: u64,
    vcpu_info: u64,
    call: [u64; 10],
    kernel_mode: u64,
    kernel_cr3: u64,
    user_cr3: u64,
    gs_kernel: u64,
    gs_user: u64,
    kernel_sp: u64,
    user_cs: u64,
    need_flush: u64,
    current_cr3: u64,
    callback_event: u64,
    callback_failsafe: u64,
    callback_syscall: u64,
    callback_syscall32: u64,
    callback_flags: u64,
    deadline: u64,
    armed: u64,
    tsc_base: u64,
    tsc_mul: u32,
    tsc_shift: i32,
    ram_bytes: u64,
    shared_gpa: u64,
    shared_bytes: u64,
    shared_info: u64,
    vcpus: u64,
    me: u64,
    window: u64,
    fs_base: u64,
    gs_base: u64,
    set_bases: u64,
    slots: [[u64; 2]; 3],
    counts: [u64; 14],
    resume_trap: u64,
    resume_error: u64,
    traps: [TrapInfo; 256],
    cpuid: [u8; 2048],
    pad: [u64; 156],
    flush_wanted: u64,
    flush_done: u64,
    in_guest: u64,
}

// The other half of these is in area.h.
const _: () = assert!(offset_of!(AreaLayout, exit_cs) == 288);
const _: () = assert!(offset_of!(AreaLayout, call) == 320);
const _: () = assert!(offset_of!(AreaLayout, kernel_mode) == 400);
const _: () = assert!(offset_of!(AreaLayout, callback_event) == 472);
const _: () = assert!(offset_of!(AreaLayout, deadline) == 512);
const _: () = assert!(offset_of!(AreaLayout, ram_bytes) == 544);
const _: () = assert!(offset_of!(AreaLayout, window) == 592);
const _: () = assert!(offset_of!(AreaLayout, slots) == 624);
const _: () = assert!(offset_of!(AreaLayout, counts) == 672);
const _: () = assert!(offset_of!(AreaLayout, resume_trap) == 784);
const _: () = assert!(offset_of!(AreaLayout, traps) == 800);
const _: () = assert!(offset_of!(AreaLayout, flush_wanted) == 8192);

macro_rules! fields {
    ($($variant:ident = $field:ident),* $(,)?) => {
        /// A 64-bit field of the area; `shim/area.h` says what each means.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "explained in shim/area.h")]
        pub enum Field { $($variant),* }

        impl Field {
            fn offset(self) -> u64 {
                (match self { $(Field::$variant => offset_of!(AreaLayout, $field)),* }) as u64
            }
        }
    };
}

fields! {
    ExitCr3 = exit_cr3, VcpuInfo = vcpu_info, KernelMode = kernel_mode, KernelCr3 = kernel_cr3, UserCr3 = user_cr3,
    GsKernel = gs_kernel, GsUser = gs_user, KernelSp = kernel_sp, UserCs = user_cs, NeedFlush = need_flush,
    CurrentCr3 = current_cr3, CallbackEvent = callback_event, CallbackFailsafe = callback_failsafe,
    CallbackSyscall = callback_syscall, CallbackSyscall32 = callback_syscall32, CallbackFlags = callback_flags,
    Deadline = deadline, Armed = armed, TscBase = tsc_base, TscScale = tsc_mul, RamBytes = ram_bytes, SharedGpa = shared_gpa,
    SharedBytes = shared_bytes, SharedInfo = shared_info, Vcpus = vcpus, Me = me, Window = window, FsBase = fs_base, GsBase = gs_base,
    SetBases = set_bases, ResumeTrap = resume_trap, ResumeError = resume_error, FlushWanted = flush_wanted, FlushDone = flush_done,
    InGuest = in_guest,
}

/// A general register, in `kvm_regs`' order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the processor's names")]
pub enum Register {
    Rax,
    Rbx,
    Rcx,
    Rdx,
    Rsi,
    Rdi,
    Rsp,
    Rbp,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    Rip,
    Rflags,
}

/// One vcpu's area and gate.
#[derive(Debug, Clone)]
pub struct Area {
    memory: GuestMemory,
    window: Gpa,
    window_va: Gva,
    backend: Backend,
}

impl Area {
    /// The area of this vcpu. The shim's memslot must hold its window.
    pub fn new(
        memory: &GuestMemory,
        layout: &Layout,
        backend: Backend,
        vcpu: u32,
    ) -> Result<Area, MemoryError> {
        let window = layout.window_gpa(vcpu);
        memory.read_u64(window.offset(window::STACKS_END))?;
        Ok(Area { memory: memory.clone(), window, window_va: layout.window_va(vcpu), backend })
    }

    /// The window's first byte.
    pub fn window(&self) -> Gpa {
        self.window
    }

    /// The address at which the guest sees it.
    pub fn window_va(&self) -> Gva {
        self.window_va
    }

    /// Which shim this is.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    fn at(&self, offset: u64) -> Gpa {
        self.window.offset(window::AREA + offset)
    }

    fn load(&self, at: Gpa) -> u64 {
        self.memory
            .load_u64(at, Ordering::Relaxed)
            .expect("the window was found in the memslot, and fields are aligned")
    }

    fn store(&self, at: Gpa, value: u64) {
        self.memory
            .store_u64(at, value, Ordering::Relaxed)
            .expect("the window was found in the memslot, and fields are aligned");
    }

    /// A field's value.
    pub fn get(&self, field: Field) -> u64 {
        self.load(self.at(field.offset()))
    }

    /// Sets a field.
    pub fn set(&self, field: Field, value: u64) {
        self.store(self.at(field.offset()), value);
    }

    /// A general register of the guest.
    pub fn register(&self, register: Register) -> u64 {
        self.load(self.at(8 * register as u64))
    }

    /// Sets a general register of the guest.
    pub fn set_register(&self, register: Register, value: u64) {
        self.store(self.at(8 * register as u64), value);
    }

    /// All general registers, in `kvm_regs`' order.
    pub fn registers(&self) -> [u64; 18] {
        std::array::from_fn(|i| self.load(self.at(8 * i as u64)))
    }

    /// Sets them all.
    pub fn set_registers(&self, values: &[u64; 18]) {
        for (i, value) in values.iter().enumerate() {
            self.store(self.at(8 * i as u64), *value);
        }
    }

    /// What the shim asks: operation, number, six arguments.
    pub fn call(&self) -> (u64, u64, [u64; 6]) {
        let word = |i: u64| self.load(self.at(offset_of!(AreaLayout, call) as u64 + 8 * i));
        (word(0), word(1), std::array::from_fn(|i| word(2 + i as u64)))
    }

    /// The answer to it.
    pub fn answer(&self, result: i64) {
        self.store(self.at(offset_of!(AreaLayout, call) as u64 + 64), result.cast_unsigned());
    }

    /// Sets the pair of L4 entries of a slot: kernel's view, user's view.
    pub fn set_slot(&self, slot: usize, entries: [u64; 2]) {
        let at = self.at((offset_of!(AreaLayout, slots) + slot * 16) as u64);
        self.store(at, entries[0]);
        self.store(at.offset(8), entries[1]);
    }

    /// Statistics of the shim, in the order of `COUNT_*`.
    pub fn counts(&self) -> [u64; 14] {
        std::array::from_fn(|i| self.load(self.at(offset_of!(AreaLayout, counts) as u64 + 8 * i as u64)))
    }

    /// A registered trap handler.
    pub fn trap(&self, vector: u8) -> TrapInfo {
        let at = self.at(offset_of!(AreaLayout, traps) as u64 + 16 * u64::from(vector));
        let head = self.load(at).to_le_bytes();
        TrapInfo {
            vector: head[0],
            flags: head[1],
            cs: u16::from_le_bytes([head[2], head[3]]),
            address: self.load(at.offset(8)),
        }
    }

    /// Registers a trap handler.
    pub fn set_trap(&self, trap: TrapInfo) {
        let at = self.at(offset_of!(AreaLayout, traps) as u64 + 16 * u64::from(trap.vector));
        let cs = trap.cs.to_le_bytes();
        self.store(at, u64::from_le_bytes([trap.vector, trap.flags, cs[0], cs[1], 0, 0, 0, 0]));
        self.store(at.offset(8), trap.address);
    }

    /// The instruction pointer that the last exception left on the CPL 0 stack (PVM).
    pub fn stack0_rip(&self) -> u64 {
        self.load(self.window.offset(window::STACK0 + 0x1000 - 40))
    }

    /// The rest of that frame: rflags and rsp.
    pub fn stack0_flags_and_sp(&self) -> (u64, u64) {
        let top = window::STACK0 + 0x1000;
        (self.load(self.window.offset(top - 24)), self.load(self.window.offset(top - 16)))
    }

    /// The CR3 that the way into the kernel loads (PVM).
    pub fn set_gate_cr3(&self, cr3: u64) {
        self.store(self.window.offset(window::GATE + 16), cr3);
    }
}
