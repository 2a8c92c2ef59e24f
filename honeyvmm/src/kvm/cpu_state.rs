//! The special registers that a vcpu starts with (Intel SDM volume 3, chapters 2 and 3; AMD APM volume 2, chapters 3 and 4).

use kvm_bindings::{kvm_dtable, kvm_msr_entry, kvm_segment, kvm_sregs};

use crate::memory::Gpa;
use crate::shim::{Backend, TR_ACCESS_BUSY};

const CR0: u64 = 0x8005_0033; // PG AM WP NE ET MP PE
const CR4_PVM: u64 = 0x620; // OSXMMEXCPT OSFXSR PAE
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_SMEP: u64 = 1 << 20;
const CR4_UMIP: u64 = 1 << 11;
const EFER: u64 = 0xd01; // NXE LMA LME SCE
const GDT_LIMIT: u16 = 0xefff;
const IDT_LIMIT: u16 = 0xfff;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_SFMASK: u32 = 0xc000_0084;
const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
const KVM_STEAL_TIME_ENABLED: u64 = 1;
const SFMASK: u64 = 0x4_7700; // AC NT IOPL DF IF TF
const SFMASK_IF: u64 = 0x200;
const TYPE_CODE: u8 = 11;
const TYPE_DATA: u8 = 3;

/// Which mode a code segment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeSegment {
    /// 64-bit, ring 3: guest kernel, guest user, and the shim on PVM.
    Ring3,
    /// 64-bit, ring 0: the shim on hardware.
    Ring0,
}

fn flat(selector: u16, dpl: u8, kind: u8) -> kvm_segment {
    let code = kind == TYPE_CODE;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}

/// Sets CS and SS for this mode.
pub fn set_code_segment(sregs: &mut kvm_sregs, mode: CodeSegment) {
    (sregs.cs, sregs.ss) = match mode {
        CodeSegment::Ring3 => (flat(0x33, 3, TYPE_CODE), flat(0x2b, 3, TYPE_DATA)),
        CodeSegment::Ring0 => (flat(0xe008, 0, TYPE_CODE), flat(0xe010, 0, TYPE_DATA)),
    };
}

/// Where a vcpu's descriptor tables are, as the guest sees them.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    /// GDT.
    pub gdt: u64,
    /// IDT.
    pub idt: u64,
    /// TSS.
    pub tss: u64,
}

/// What of CR4 KVM lets the guest have, by its CPUID leaf 7.
#[derive(Debug, Clone, Copy)]
pub struct Cr4Features {
    /// EBX of leaf 7.
    pub leaf7_ebx: u32,
    /// ECX of leaf 7.
    pub leaf7_ecx: u32,
    /// ECX of leaf 1.
    pub leaf1_ecx: u32,
}

fn cr4(backend: Backend, features: Cr4Features) -> u64 {
    if backend == Backend::Pvm {
        return CR4_PVM; // CR4 of a native ring 3 is the host's
    }
    let mut cr4 = CR4_PVM;
    for (present, bit) in [
        (features.leaf1_ecx & 1 << 26 != 0, CR4_OSXSAVE),
        (features.leaf7_ebx & 1 != 0, CR4_FSGSBASE),
        (features.leaf7_ebx & 1 << 7 != 0, CR4_SMEP),
        (features.leaf7_ecx & 1 << 2 != 0, CR4_UMIP),
    ] {
        if present {
            cr4 |= bit;
        }
    }
    cr4
}

/// Fills in the registers that stay as they are while the vcpu lives, and CR3.
pub fn set_system_registers(
    sregs: &mut kvm_sregs,
    backend: Backend,
    tables: Tables,
    features: Cr4Features,
    cr3: u64,
) {
    sregs.cr0 = CR0;
    sregs.cr3 = cr3;
    sregs.cr4 = cr4(backend, features);
    sregs.efer = EFER;
    let data = flat(0x2b, 3, TYPE_DATA);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs) = (data, data, data, data);
    sregs.gdt = kvm_dtable { base: tables.gdt, limit: GDT_LIMIT, ..Default::default() };
    sregs.idt = kvm_dtable { base: tables.idt, limit: IDT_LIMIT, ..Default::default() };
    sregs.tr = kvm_segment {
        base: tables.tss,
        limit: 0x67,
        selector: 0xe040,
        present: 1,
        type_: TR_ACCESS_BUSY,
        ..Default::default()
    };
    sregs.ldt = kvm_segment { unusable: 1, ..Default::default() };
}

/// The model-specific registers of SYSCALL. `trampoline` is LSTAR; CSTAR is 16 bytes further.
pub fn syscall_msrs(backend: Backend, trampoline: u64) -> [kvm_msr_entry; 4] {
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    // On PVM the shim cannot be interrupted but by KVM itself, and IF = 0 in ring 3 would never be set again.
    let mask = if backend == Backend::Pvm { SFMASK & !SFMASK_IF } else { SFMASK };
    [
        entry(MSR_STAR, 0x23 << 48 | 0xe008 << 32),
        entry(MSR_LSTAR, trampoline),
        entry(MSR_CSTAR, trampoline + 16),
        entry(MSR_SFMASK, mask),
    ]
}

/// Where KVM is to tell that the host has put the vcpu aside.
pub fn steal_time_msr(at: Gpa) -> kvm_msr_entry {
    kvm_msr_entry { index: MSR_KVM_STEAL_TIME, data: at.0 | KVM_STEAL_TIME_ENABLED, ..Default::default() }
}
