//! One vcpu: how it starts, runs and stops. Registers travel in the shared run page (KVM_CAP_SYNC_REGS): an ioctl for them
//! costs 5 us on PVM.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    CpuId, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, kvm_device_attr, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};

use super::cpu_state::{
    CodeSegment, Cr4Features, Tables, set_code_segment, set_system_registers, syscall_msrs,
};
use super::vm::{KvmError, Vm, ioctl};
use crate::cpuid::{self, Place};
use crate::memory::Gva;
use crate::shim::Backend;

/// The port of the shim's calls.
const CALL_PORT: u16 = 0x10;
/// `_IOW(KVMIO, 0x86, struct kvm_interrupt)`; kvm-ioctls does not have it.
const KVM_INTERRUPT: libc::c_ulong = 0x4004_ae86;
/// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`; kvm-ioctls has it for a vcpu on Arm only.
const KVM_SET_DEVICE_ATTR: libc::c_ulong = 0x4018_aee1;
/// `_IO(KVMIO, 0x80)`.
const KVM_RUN: u64 = 0xae80;
/// `_IOR(KVMIO, 0xa4, struct kvm_xsave)`.
const KVM_GET_XSAVE: u64 = 0x9000_aea4;
/// The ioctls of a vcpu that runs or is saved; all others belong to its making.
pub const RUN_TIME_IOCTLS: [u64; 3] = [KVM_RUN, KVM_INTERRUPT, KVM_GET_XSAVE];
/// The vector that means "look for events" (hardware backend).
const EVENT_VECTOR: u32 = 0xf0;
/// XCR0 bits that the guest may use, if KVM offers them: x87, SSE, AVX, AVX-512.
const XCR0_WANTED: u64 = 0xe7;

/// Why a vcpu left the guest.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit {
    /// The shim asks something.
    Call,
    /// A signal, or a request of ours, stopped it anywhere.
    Interrupted,
    /// The guest did what ends a machine: the text says what KVM reported.
    Dead(String),
}

/// When a vcpu takes the event vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {
    /// Before its next instruction.
    Now,
    /// It cannot yet, and will stop when it can.
    Later,
}

/// Where a vcpu stopped, from the run page.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// Instruction pointer.
    pub rip: u64,
    /// Code privilege level.
    pub cpl: u8,
    /// General registers in `kvm_regs`' order.
    pub registers: [u64; 18],
    /// FS base.
    pub fs_base: u64,
    /// GS base.
    pub gs_base: u64,
    /// CR3.
    pub cr3: u64,
}

/// One vcpu.
pub struct Vcpu {
    fd: VcpuFd,
    backend: Backend,
}

/// `kvm_regs` as an array in its own order.
fn to_array(r: &kvm_regs) -> [u64; 18] {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15, r.rip, r.rflags,
    ]
}

impl Vcpu {
    /// A vcpu whose descriptor tables are in this window, with this L4 table loaded, stopped.
    pub fn new(vm: &Vm, place: Place, backend: Backend, window: Gva, cr3: u64) -> Result<Vcpu, KvmError> {
        let fd = vm.create_vcpu(u32::from(place.vcpu))?;
        let supported = vm.supported_cpuid()?;
        let features = cr4_features(&supported);
        let filtered = cpuid::filter_for_user(&supported, backend, place);
        ioctl("set CPUID", fd.set_cpuid2(&filtered))?;
        if backend == Backend::Hardware {
            enable_xsave(&fd, &supported)?;
            share_tsc(&fd)?;
        }
        let mut sregs = ioctl("tell its special registers", fd.get_sregs())?;
        let at = |offset: u64| window.0 + offset;
        let tables = Tables { gdt: at(0x10000), idt: at(0x2000), tss: at(0x3000) };
        set_system_registers(&mut sregs, backend, tables, features, cr3);
        set_code_segment(&mut sregs, shim_segment(backend));
        ioctl("set the special registers", fd.set_sregs(&sregs))?;
        let msrs = syscall_msrs(backend, window.0);
        let list = Msrs::from_entries(&msrs).map_err(|_| KvmError::Msrs { set: 0, wanted: msrs.len() })?;
        let set = ioctl("set the model-specific registers", fd.set_msrs(&list))?;
        if set != msrs.len() {
            return Err(KvmError::Msrs { set, wanted: msrs.len() });
        }
        let mut vcpu = Vcpu { fd, backend };
        vcpu.fd.set_sync_valid_reg(SyncReg::Register);
        vcpu.fd.set_sync_valid_reg(SyncReg::SystemRegister);
        vcpu.fd.set_sync_valid_reg(SyncReg::VcpuEvents);
        let regs = ioctl("tell its registers", vcpu.fd.get_regs())?;
        let page = vcpu.fd.sync_regs_mut();
        (page.regs, page.sregs) = (regs, sregs);
        Ok(vcpu)
    }

    /// The frequency of the guest's time-stamp counter, in kHz.
    pub fn tsc_khz(&self) -> Result<u32, KvmError> {
        ioctl("tell the frequency of its time-stamp counter", self.fd.get_tsc_khz())
    }

    /// The address of the run page's `immediate_exit`, for signal handlers. Valid while the vcpu lives.
    pub fn immediate_exit(&mut self) -> *mut u8 {
        &raw mut self.fd.get_kvm_run().immediate_exit
    }

    /// Runs until something stops it.
    pub fn run(&mut self) -> Exit {
        let exit = match self.fd.run() {
            Ok(VcpuExit::IoOut(CALL_PORT, [_])) => Exit::Call,
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen) => Exit::Interrupted,
            Ok(other) => Exit::Dead(format!("{other:?}")),
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => Exit::Interrupted,
            Err(e) => Exit::Dead(format!("KVM_RUN failed: {e}")),
        };
        if exit != Exit::Call {
            self.fd.set_kvm_immediate_exit(0);
        }
        self.fd.get_kvm_run().request_interrupt_window = 0;
        exit
    }

    /// Lets KVM finish what its last exit left (a port access ends with the next run) and take up changed registers, without a step of the guest.
    pub(super) fn settle(&mut self) {
        self.fd.set_kvm_immediate_exit(1);
        // It is to end at once, with EINTR.
        let _ = self.fd.run();
        self.fd.set_kvm_immediate_exit(0);
    }

    pub(super) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Registers that were set by ioctl are what the run page has.
    pub(super) fn note_registers(&mut self, regs: kvm_regs, sregs: kvm_sregs, events: kvm_vcpu_events) {
        let page = self.fd.sync_regs_mut();
        (page.regs, page.sregs, page.events) = (regs, sregs, events);
    }

    /// Where it stopped.
    pub fn stop(&self) -> Stop {
        let page = self.fd.sync_regs();
        Stop {
            rip: page.regs.rip,
            cpl: page.sregs.cs.dpl,
            registers: to_array(&page.regs),
            fs_base: page.sregs.fs.base,
            gs_base: page.sregs.gs.base,
            cr3: page.sregs.cr3,
        }
    }

    /// Is an exception on its way to the guest? It is delivered at the next run, so the registers must not be changed.
    pub fn exception_pending(&self) -> bool {
        let events = self.fd.sync_regs().events;
        events.exception.injected != 0 || events.exception.pending != 0
    }

    /// Lets the vcpu go on in the shim, at this address with this stack. `cr3`: load it, with the shim's segments.
    pub fn enter_shim(&mut self, rip: u64, rsp: u64, cr3: Option<u64>) {
        let segment = shim_segment(self.backend);
        let page = self.fd.sync_regs_mut();
        page.regs.rip = rip;
        page.regs.rsp = rsp;
        page.regs.rflags = 2;
        if let Some(cr3) = cr3 {
            page.sregs.cr3 = cr3;
            set_code_segment(&mut page.sregs, segment);
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
        }
        self.fd.set_sync_dirty_reg(SyncReg::Register);
    }

    /// Makes a vcpu of the hardware backend take the event vector, now or as soon as it can.
    pub fn inject_event(&mut self) -> Result<Injected, KvmError> {
        let run = self.fd.get_kvm_run();
        if run.ready_for_interrupt_injection == 0 || run.if_flag == 0 {
            run.request_interrupt_window = 1;
            return Ok(Injected::Later);
        }
        let vector = EVENT_VECTOR;
        // SAFETY:
        // - The descriptor is this vcpu's and open.
        // - The argument points to a struct kvm_interrupt, one u32, which KVM only reads.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), KVM_INTERRUPT, &raw const vector) };
        if result < 0 {
            return Err(KvmError::Ioctl { what: "inject an interrupt", source: kvm_ioctls::Error::last() });
        }
        Ok(Injected::Now)
    }

    /// The special registers, for a dump.
    pub fn special_registers(&self) -> kvm_sregs {
        self.fd.sync_regs().sregs
    }
}

fn shim_segment(backend: Backend) -> CodeSegment {
    match backend {
        Backend::Pvm => CodeSegment::Ring3,
        Backend::Hardware => CodeSegment::Ring0,
    }
}

fn cr4_features(cpuid: &CpuId) -> Cr4Features {
    let leaf = |function| cpuid.as_slice().iter().find(|e| e.function == function && e.index == 0);
    Cr4Features {
        leaf7_ebx: leaf(7).map_or(0, |e| e.ebx),
        leaf7_ecx: leaf(7).map_or(0, |e| e.ecx),
        leaf1_ecx: leaf(1).map_or(0, |e| e.ecx),
    }
}

fn enable_xsave(fd: &VcpuFd, cpuid: &CpuId) -> Result<(), KvmError> {
    let leaf_d = cpuid.as_slice().iter().find(|e| e.function == 0xd && e.index == 0);
    let Some(offered) = leaf_d.map(|e| u64::from(e.eax) | u64::from(e.edx) << 32) else { return Ok(()) };
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = offered & XCR0_WANTED;
    ioctl("set XCR0", fd.set_xcrs(&xcrs))
}

/// Gives the guest the host's time-stamp counter: a new vcpu's begins at 0, and the domain's clock is reckoned from ours.
fn share_tsc(fd: &VcpuFd) -> Result<(), KvmError> {
    let offset = 0u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw const offset).addr() as u64,
        flags: 0,
    };
    // SAFETY:
    // - The descriptor is this vcpu's and open.
    // - The argument points to a struct kvm_device_attr, whose `addr` points to the u64 that the attribute is; KVM only reads both.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) };
    if result < 0 {
        return Err(KvmError::Ioctl {
            what: "share its time-stamp counter",
            source: kvm_ioctls::Error::last(),
        });
    }
    Ok(())
}
