//! Privileged instructions of the guest kernel: it runs in ring 3, so each raises #GP (or #UD: CPUID with Xen's prefix) and is done here.
//!
//! Only what a PV kernel executes and the shim leaves to us (`shim/privileged.c` has the rest): rdmsr, wrmsr, in and out by number, cli, sti,
//! hlt, moves to and from control and debug registers, wbinvd, clts, rdpmc, xsetbv. Nothing reaches a device; there is none.

use crate::cpuid::{self, Place};
use crate::memory::{Gpa, Gva};
use crate::paging::AddressSpace;
use crate::shim::{Area, Field, Register};

/// Bytes of the longest instruction.
const INSTRUCTION_MAX: usize = 15;
const PREFIXES_MAX: usize = 4;
const CPUID_PREFIXED: &[u8; 7] = b"\x0f\x0bxen\x0f\xa2";
const OPCODE_INT_N: u8 = 0xcd;
const MSR_EFER: u32 = 0xc000_0080;
const MSR_FS_BASE: u32 = 0xc000_0100;
const MSR_GS_BASE: u32 = 0xc000_0101;
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
const MSR_PAT: u32 = 0x277;
const MSR_APIC_BASE: u32 = 0x1b;
/// IA32_MISC_ENABLE. Without its fast-string bit Linux clears ERMS but not FSRM, and its memmove then has no length check left (seen on a
/// processor with FSRM: the kernel crashed in the first printk after alternatives ran).
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const EFER_VALUE: u64 = 0xd01;
/// Xen's PAT: WB WT UC- UC WC WP UC UC.
const PAT_VALUE: u64 = 0x0007_0406_0007_0406;
const APIC_BASE_VALUE: u64 = 0xfee0_0900;
const CR0_VALUE: u64 = 0x8005_0033;
const CR4_VALUE: u64 = 0x5_0660;
const DR6_VALUE: u64 = 0xffff_0ff0;
const DR7_VALUE: u64 = 0x400;
/// The PIT's channel 2: Linux reads it 100,000 times at boot if it answers all ones.
const PORT_PIT2: u8 = 0x42;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulated {
    /// The instruction is done, rip is past it.
    Done,
    /// `int n` through a gate that the guest allows: deliver this vector, rip is past it.
    Interrupt(u8),
    /// Not an instruction that is emulated: the exception is the guest's.
    No,
}

/// `kvm_regs`' index of the register that ModRM names by this number.
const BY_NUMBER: [Register; 16] = [
    Register::Rax,
    Register::Rcx,
    Register::Rdx,
    Register::Rbx,
    Register::Rsp,
    Register::Rbp,
    Register::Rsi,
    Register::Rdi,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// The instruction at rip. A shorter read at the end of mapped memory leaves zeros.
fn fetch(area: &Area, memory: &crate::memory::GuestMemory) -> [u8; INSTRUCTION_MAX] {
    let rip = area.register(Register::Rip);
    let space = AddressSpace::new(memory, Gpa(area.get(Field::KernelCr3)));
    let mut code = [0; INSTRUCTION_MAX];
    let to_page_end = (0x1000 - (rip & 0xfff)) as usize;
    let first = to_page_end.min(INSTRUCTION_MAX);
    if space.read(Gva(rip), &mut code[..first]).is_err() {
        return [0; INSTRUCTION_MAX];
    }
    if first < INSTRUCTION_MAX && space.read(Gva(rip.wrapping_add(first as u64)), &mut code[first..]).is_err()
    {
        code[first..].fill(0);
    }
    code
}

fn advance(area: &Area, bytes: usize) -> Emulated {
    area.set_register(Register::Rip, area.register(Register::Rip).wrapping_add(bytes as u64));
    Emulated::Done
}

/// #UD: CPUID with Xen's prefix (`ud2; .ascii "xen"; cpuid`) from the kernel or a user program that knows it is on Xen; `int n` of
/// 32-bit code, which PVM reports so.
pub fn invalid_opcode(area: &Area, memory: &crate::memory::GuestMemory) -> Emulated {
    let code = fetch(area, memory);
    if code[0] == OPCODE_INT_N {
        return software_interrupt(area, &code, u64::from(code[1]) << 3);
    }
    if code[..7] != *CPUID_PREFIXED {
        return Emulated::No;
    }
    let (leaf, subleaf) = (area.register(Register::Rax) as u32, area.register(Register::Rcx) as u32);
    let place = Place { vcpu: area.get(Field::Me) as u8, vcpus: area.get(Field::Vcpus) as u8 };
    let answer = cpuid::guest_view(leaf, subleaf, place, cpuid::host(leaf, subleaf));
    for (register, value) in
        [Register::Rax, Register::Rbx, Register::Rcx, Register::Rdx].into_iter().zip(answer)
    {
        area.set_register(register, u64::from(value));
    }
    advance(area, CPUID_PREFIXED.len())
}

fn rdmsr(area: &Area, gs_base: u64, fs_base: u64) -> u64 {
    match area.register(Register::Rcx) as u32 {
        MSR_EFER => EFER_VALUE,
        MSR_FS_BASE => fs_base,
        MSR_GS_BASE => gs_base,
        MSR_KERNEL_GS_BASE => area.get(Field::GsUser),
        MSR_PAT => PAT_VALUE,
        MSR_APIC_BASE => APIC_BASE_VALUE,
        MSR_MISC_ENABLE => MISC_ENABLE_FAST_STRING,
        _ => 0, // microcode, thermal, performance counters: Linux reads with care and believes 0
    }
}

fn wrmsr(area: &Area) {
    let value = area.register(Register::Rax) & 0xffff_ffff | area.register(Register::Rdx) << 32;
    let canonical = ((value << 16).cast_signed() >> 16).cast_unsigned() == value;
    if !canonical {
        return;
    }
    let (field, bit) = match area.register(Register::Rcx) as u32 {
        MSR_FS_BASE => (Field::FsBase, 1),
        MSR_GS_BASE => (Field::GsBase, 2),
        MSR_KERNEL_GS_BASE => {
            area.set(Field::GsUser, value);
            return;
        }
        _ => return, // as Xen: a write that it does not allow is dropped
    };
    area.set(field, value);
    area.set(Field::SetBases, area.get(Field::SetBases) | bit);
}

/// mov to and from CR0, CR2, CR3, CR4, DR6, DR7. Writes are dropped: the kernel uses hypercalls for those that matter.
fn move_special(area: &Area, opcode: u8, modrm: u8, rex: u8, cr2: u64) {
    let special = (modrm >> 3 & 7) | (rex & 4) << 1;
    let register = BY_NUMBER[usize::from((modrm & 7) | (rex & 1) << 3)];
    let value = match (opcode, special) {
        (0x20, 0) => CR0_VALUE,
        (0x20, 2) => cr2,
        (0x20, 3) => area.get(Field::KernelCr3),
        (0x20, 4) => CR4_VALUE,
        (0x21, 6) => DR6_VALUE,
        (0x21, 7) => DR7_VALUE,
        (0x20 | 0x21, _) => 0,
        _ => return,
    };
    area.set_register(register, value);
}

fn set_low(area: &Area, value: u64, bytes: u32) {
    let rax = area.register(Register::Rax);
    let kept = match bytes {
        1 => rax & !0xff,
        2 => rax & !0xffff,
        _ => 0,
    };
    area.set_register(Register::Rax, kept | value);
}

fn software_interrupt(area: &Area, code: &[u8], error: u64) -> Emulated {
    let vector = (error >> 3) as u8;
    let trap = area.trap(vector);
    let privilege = if area.get(Field::KernelMode) != 0 { 1 } else { 3 };
    let length = match code[0] {
        // QEMU's emulated processors give 16 times the vector for 8 times; then it is not what the program asked for.
        OPCODE_INT_N if code[1] == vector => 2,
        0xcc => 1,
        _ => return Emulated::No,
    };
    if error >> 3 > 255 || trap.address == 0 || trap.flags & 3 < privilege {
        return Emulated::No;
    }
    advance(area, length);
    Emulated::Interrupt(vector)
}

/// #GP with this error code. `bases` are the live GS and FS base.
pub fn general_protection(
    area: &Area,
    memory: &crate::memory::GuestMemory,
    error: u64,
    cr2: u64,
    bases: impl Fn() -> (u64, u64),
) -> Emulated {
    let code = fetch(area, memory);
    if error & 2 != 0 {
        return software_interrupt(area, &code, error);
    }
    if area.get(Field::KernelMode) == 0 {
        return Emulated::No;
    }
    let (mut at, mut rex, mut word) = (0, 0, false);
    while at < PREFIXES_MAX && matches!(code[at], 0x66 | 0xf3 | 0xf2 | 0x2e | 0x3e) {
        word |= code[at] == 0x66;
        at += 1;
    }
    if code[at] & 0xf0 == 0x40 {
        rex = code[at];
        at += 1;
    }
    let (opcode, second, third) = (code[at], code[at + 1], code[at + 2]);
    let all_ones = if word { 0xffff } else { 0xffff_ffff };
    match (opcode, second) {
        (0xfa | 0xfb | 0xf4, _) => advance(area, at + 1), // cli, sti, hlt: events are masked in vcpu_info
        (0xe4, port) => {
            set_low(area, if port == PORT_PIT2 { 0 } else { 0xff }, 1);
            advance(area, at + 2)
        }
        (0xe5, _) => {
            set_low(area, all_ones, if word { 2 } else { 4 });
            advance(area, at + 2)
        }
        (0xe6 | 0xe7, _) => advance(area, at + 2),
        (0x0f, 0x30) => {
            wrmsr(area);
            advance(area, at + 2)
        }
        (0x0f, 0x32 | 0x33) => {
            let (gs_base, fs_base) = bases();
            let value = if second == 0x32 { rdmsr(area, gs_base, fs_base) } else { 0 };
            area.set_register(Register::Rax, value & 0xffff_ffff);
            area.set_register(Register::Rdx, value >> 32);
            advance(area, at + 2)
        }
        (0x0f, 0x06 | 0x08 | 0x09) => advance(area, at + 2), // clts, invd, wbinvd
        (0x0f, 0x20..=0x23) => {
            move_special(area, second, third, rex, cr2);
            advance(area, at + 3)
        }
        (0x0f, 0x01) if third == 0xd1 => advance(area, at + 3), // xsetbv: XCR0 is set already
        _ => Emulated::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Access, GuestMemory, Region};
    use crate::shim::{Backend, Layout, SHIM_GPA, TrapInfo};

    /// A kernel-mode vcpu at 0x1000 of an identity-mapped 2 MiB, with this code there.
    fn vcpu(code: &[u8]) -> (Area, GuestMemory) {
        let layout = Layout { ram_bytes: 4 << 20, vcpus: 1 };
        let ram = Region::anonymous(Gpa(0), layout.ram_bytes).unwrap();
        let memory = GuestMemory::new(ram, Some(Region::anonymous(SHIM_GPA, layout.shim_bytes()).unwrap()));
        for (at, entry) in [(0x2000, 0x3007), (0x3000, 0x4007), (0x4000, 0xe7u64)] {
            memory.write_u64(Gpa(at), entry).unwrap();
        }
        memory.write(Gpa(0x1000), code).unwrap();
        let area = Area::new(&memory, &layout, Backend::Pvm, 0).unwrap();
        area.set(Field::KernelMode, 1);
        area.set(Field::KernelCr3, 0x2000);
        area.set_register(Register::Rip, 0x1000);
        (area, memory)
    }

    fn gp(area: &Area, memory: &GuestMemory, error: u64) -> Emulated {
        general_protection(area, memory, error, 0x77, || (0x1111, 0x2222))
    }

    #[test]
    fn each_instruction_moves_rip_past_itself() {
        let cases: [(&[u8], u64); 12] = [
            (b"\xfa", 1),
            (b"\xfb", 1),
            (b"\xe4\x42", 2),
            (b"\x66\xe5\x42", 3),
            (b"\xe6\x42", 2),
            (b"\x0f\x30", 2),
            (b"\x0f\x32", 2),
            (b"\x0f\x09", 2),
            (b"\x0f\x20\xd0", 3),
            (b"\x44\x0f\x20\xc0", 4),
            (b"\x0f\x23\xf8", 3),
            (b"\x0f\x01\xd1", 3),
        ];
        for (code, bytes) in cases {
            let (area, memory) = vcpu(code);
            assert_eq!(gp(&area, &memory, 0), Emulated::Done, "{code:x?}");
            assert_eq!(area.register(Register::Rip), 0x1000 + bytes, "{code:x?}");
        }
    }

    #[test]
    fn a_user_program_gets_its_exception() {
        let (area, memory) = vcpu(b"\xfa");
        area.set(Field::KernelMode, 0);
        assert_eq!(gp(&area, &memory, 0), Emulated::No);
        assert_eq!(area.register(Register::Rip), 0x1000);
    }

    #[test]
    fn mov_from_cr2_with_rex_names_r8() {
        let (area, memory) = vcpu(b"\x41\x0f\x20\xd0");
        gp(&area, &memory, 0);
        assert_eq!(area.register(Register::R8), 0x77);
    }

    #[test]
    fn wrmsr_of_gs_base_is_left_for_the_shim() {
        let (area, memory) = vcpu(b"\x0f\x30");
        area.set_register(Register::Rcx, u64::from(MSR_GS_BASE));
        area.set_register(Register::Rax, 0x8000_1000);
        area.set_register(Register::Rdx, 0xffff_ffff);
        gp(&area, &memory, 0);
        assert_eq!((area.get(Field::GsBase), area.get(Field::SetBases)), (0xffff_ffff_8000_1000, 2));
    }

    #[test]
    fn wrmsr_of_an_address_that_is_not_canonical_changes_nothing() {
        let (area, memory) = vcpu(b"\x0f\x30");
        area.set_register(Register::Rcx, u64::from(MSR_FS_BASE));
        area.set_register(Register::Rdx, 0x1234_5678);
        gp(&area, &memory, 0);
        assert_eq!(area.get(Field::SetBases), 0);
    }

    #[test]
    fn int_n_needs_a_gate_that_user_code_may_use() {
        let (area, memory) = vcpu(b"\xcd\x80");
        area.set(Field::KernelMode, 0);
        let error = 0x80 << 3 | 2;
        area.set_trap(TrapInfo { vector: 0x80, flags: 0, cs: 0, address: 0x5000 });
        assert_eq!(gp(&area, &memory, error), Emulated::No);
        area.set_trap(TrapInfo { vector: 0x80, flags: 3, cs: 0, address: 0x5000 });
        assert_eq!(gp(&area, &memory, error), Emulated::Interrupt(0x80));
        assert_eq!(area.register(Register::Rip), 0x1002);
    }

    #[test]
    fn int_n_that_is_reported_as_an_invalid_opcode_is_int_n() {
        let (area, memory) = vcpu(b"\xcd\x80");
        area.set(Field::KernelMode, 0);
        assert_eq!(invalid_opcode(&area, &memory), Emulated::No);
        area.set_trap(TrapInfo { vector: 0x80, flags: 3, cs: 0, address: 0x5000 });
        assert_eq!(invalid_opcode(&area, &memory), Emulated::Interrupt(0x80));
        assert_eq!(area.register(Register::Rip), 0x1002);
    }

    #[test]
    fn an_instruction_that_is_not_mapped_is_not_emulated() {
        let (area, memory) = vcpu(b"\xfa");
        area.set_register(Register::Rip, 0x7fff_0000_0000);
        assert_eq!(gp(&area, &memory, 0), Emulated::No);
    }
}
