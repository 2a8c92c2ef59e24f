//! VCPUOP (vcpu.h): a vcpu's first registers, up and down, its timer, where its information lies.
//!
//! Numbers of vcpus and the context of a new one are the guest's: each value is checked, and a refused call has changed nothing.

use super::cpu::{DESCRIPTORS_PER_FRAME, GDT_ENTRIES_MAX, is_canonical, load_gdt};
use super::{After, Caller, Outcome, ShutdownReason, done, u16_at, u32_at, u64_at};
use crate::clock::TIME_INFO_BYTES;
use crate::errno::Errno;
use crate::memory::{Access, Gfn, Gpa, Gva, PAGE_SIZE};
use crate::shim::{Area, Field, Register, TrapInfo, install_slots};
use crate::vcpus::Down;

/// `struct vcpu_info`.
const VCPU_INFO_BYTES: u64 = 64;
const PHYSMAP: u64 = 0xffff_8180_0000_0000;

/// Offsets in `struct vcpu_guest_context` of arch-x86/xen.h, the 64-bit layout.
mod context {
    pub const BYTES: usize = 5168;
    pub const FLAGS: usize = 512;
    /// r15 to rdi, then rip, rflags and rsp: where each is.
    pub const REGISTERS: usize = 520;
    pub const TRAPS: usize = 720;
    pub const LDT_ENTRIES: usize = 4824;
    pub const GDT_FRAMES: usize = 4832;
    pub const GDT_ENTRIES: usize = 4960;
    pub const KERNEL_SP: usize = 4976;
    pub const CR1: usize = 4992;
    pub const CR3: usize = 5008;
    pub const CALLBACK_EVENT: usize = 5112;
    pub const CALLBACK_FAILSAFE: usize = 5120;
    pub const CALLBACK_SYSCALL: usize = 5128;
    pub const FS_BASE: usize = 5144;
    pub const GS_BASE_KERNEL: usize = 5152;
    pub const GS_BASE_USER: usize = 5160;
}
/// Flags of the context: it begins in the kernel; which callbacks mask events.
const IN_KERNEL: u64 = 1 << 2;
const FAILSAFE_MASKS: u64 = 1 << 3;
const SYSCALL_MASKS: u64 = 1 << 4;
/// What of RFLAGS a guest may set (arithmetic, TF, DF, AC, ID), and what is always set.
const RFLAGS_GUEST: u64 = 0x0025_0dd5;
const RFLAGS_ALWAYS: u64 = 0x202;
/// Where each register is, from `context::REGISTERS` on.
const REGISTER_OFFSETS: [(Register, usize); 17] = [
    (Register::R15, 0),
    (Register::R14, 8),
    (Register::R13, 16),
    (Register::R12, 24),
    (Register::Rbp, 32),
    (Register::Rbx, 40),
    (Register::R11, 48),
    (Register::R10, 56),
    (Register::R9, 64),
    (Register::R8, 72),
    (Register::Rax, 80),
    (Register::Rcx, 88),
    (Register::Rdx, 96),
    (Register::Rsi, 104),
    (Register::Rdi, 112),
    (Register::Rip, 128),
    (Register::Rsp, 152),
];
const RFLAGS_OFFSET: usize = 144;

/// A context that a vcpu can begin with.
#[derive(Debug, PartialEq, Eq)]
struct Context {
    registers: Vec<(Register, u64)>,
    traps: Vec<TrapInfo>,
    gdt_frames: Vec<Gfn>,
    cr3: Gpa,
    user_cr3: u64,
    fields: Vec<(Field, u64)>,
}

/// A frame number in a control register, as the address of a table in RAM.
fn table(cr3: u64, ram_bytes: u64) -> Result<u64, Errno> {
    if cr3.is_multiple_of(PAGE_SIZE) && cr3 < ram_bytes { Ok(cr3) } else { Err(Errno::EINVAL) }
}

fn traps(bytes: &[u8]) -> Result<Vec<TrapInfo>, Errno> {
    let entries = bytes.chunks_exact(16).map(|entry| {
        let address = u64_at(entry, 8);
        TrapInfo { vector: entry[0], flags: entry[1], cs: u16_at(entry, 2), address }
    });
    // As Xen's own list: by place, whatever the entry says that its vector is.
    let entries: Vec<TrapInfo> =
        entries.enumerate().map(|(vector, trap)| TrapInfo { vector: vector as u8, ..trap }).collect();
    if entries.iter().all(|trap| is_canonical(trap.address)) { Ok(entries) } else { Err(Errno::EINVAL) }
}

fn parse(bytes: &[u8; context::BYTES], ram_bytes: u64) -> Result<Context, Errno> {
    let word = |at: usize| u64_at(bytes, at);
    let address = |at: usize| Some(word(at)).filter(|at| is_canonical(*at)).ok_or(Errno::EINVAL);
    let flags = word(context::FLAGS);
    let (entries, ldt_entries) = (word(context::GDT_ENTRIES), word(context::LDT_ENTRIES));
    // No kernel starts a vcpu in a program, and there are no LDTs.
    if flags & IN_KERNEL == 0 || ldt_entries != 0 || entries > GDT_ENTRIES_MAX {
        return Err(Errno::EINVAL);
    }
    let frame = |i: u64| Gfn(word(context::GDT_FRAMES + 8 * i as usize));
    let gdt_frames: Vec<Gfn> = (0..entries.div_ceil(DESCRIPTORS_PER_FRAME)).map(frame).collect();
    if gdt_frames.iter().any(|frame| frame.0 >= ram_bytes / PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let cr3 = table(word(context::CR3), ram_bytes)?;
    let user_cr3 = table(word(context::CR1), ram_bytes)?;
    if user_cr3 == cr3 {
        return Err(Errno::EINVAL);
    }
    address(context::REGISTERS + 128)?;
    let mut registers: Vec<(Register, u64)> =
        REGISTER_OFFSETS.iter().map(|(register, at)| (*register, word(context::REGISTERS + at))).collect();
    let rflags = word(context::REGISTERS + RFLAGS_OFFSET) & RFLAGS_GUEST | RFLAGS_ALWAYS;
    registers.push((Register::Rflags, rflags));
    let mask = |flag: u64, callback: u32| if flags & flag != 0 { 1u64 << callback } else { 0 };
    let fields = vec![
        (Field::KernelMode, 1),
        (Field::KernelSp, word(context::KERNEL_SP)),
        (Field::CallbackEvent, address(context::CALLBACK_EVENT)?),
        (Field::CallbackFailsafe, address(context::CALLBACK_FAILSAFE)?),
        (Field::CallbackSyscall, address(context::CALLBACK_SYSCALL)?),
        (Field::CallbackFlags, mask(FAILSAFE_MASKS, 1) | mask(SYSCALL_MASKS, 2)),
        (Field::FsBase, address(context::FS_BASE)?),
        (Field::GsBase, address(context::GS_BASE_KERNEL)?),
        (Field::GsKernel, address(context::GS_BASE_KERNEL)?),
        (Field::GsUser, address(context::GS_BASE_USER)?),
        (Field::SetBases, 3),
    ];
    let traps = traps(&bytes[context::TRAPS..context::LDT_ENTRIES - 8])?;
    Ok(Context { registers, traps, gdt_frames, cr3: Gpa(cr3), user_cr3, fields })
}

/// Gives a vcpu that has never run its first registers.
fn load(caller: &Caller<'_>, vcpu: usize, context: &Context) -> Result<(), Errno> {
    let shared = caller.shared;
    let area = shared.vcpus.area(vcpu);
    load_gdt(&shared.memory, area, &context.gdt_frames)?;
    install_slots(&shared.memory, &shared.layout, area.backend(), context.cr3)?;
    context.traps.iter().for_each(|trap| area.set_trap(*trap));
    context.registers.iter().for_each(|(register, value)| area.set_register(*register, *value));
    context.fields.iter().for_each(|(field, value)| area.set(*field, *value));
    for field in [Field::KernelCr3, Field::CurrentCr3] {
        area.set(field, context.cr3.0);
    }
    area.set(Field::UserCr3, context.user_cr3);
    area.set_gate_cr3(context.cr3.0);
    shared.vcpus.tables(vcpu).gdt_frames.clone_from(&context.gdt_frames);
    Ok(())
}

fn initialise(caller: &Caller<'_>, vcpu: usize, arg: u64) -> Outcome {
    let mut bytes = [0; context::BYTES];
    caller.space().read(Gva(arg), &mut bytes)?;
    let vcpus = &caller.shared.vcpus;
    vcpus.initialise(vcpu, || load(caller, vcpu, &parse(&bytes, caller.shared.layout.ram_bytes)?))?;
    done(0)
}

fn register_vcpu_info(caller: &Caller<'_>, vcpu: usize, arg: u64) -> Outcome {
    let op: [u8; 16] = caller.read(arg)?;
    let (frame, offset) = (u64_at(&op, 0), u64::from(u32_at(&op, 8)));
    if offset % 8 != 0
        || offset + VCPU_INFO_BYTES > PAGE_SIZE
        || frame >= caller.shared.layout.ram_bytes / PAGE_SIZE
    {
        return Err(Errno::EINVAL);
    }
    let place = Gpa(frame * PAGE_SIZE + offset);
    let area: &Area = caller.shared.vcpus.area(vcpu);
    let register = || {
        caller.shared.events.set_vcpu_info(vcpu, place)?;
        area.set(Field::VcpuInfo, PHYSMAP + place.0);
        done(0)
    };
    // The shim of another one might be looking at the old place.
    if vcpu == caller.vcpu as usize { register() } else { caller.shared.vcpus.while_down(vcpu, register) }
}

fn down(caller: &Caller<'_>, vcpu: usize) -> Outcome {
    match caller.shared.vcpus.down(vcpu) {
        Down::Done => done(0),
        Down::Last => Ok((0, After::Shutdown(ShutdownReason::Poweroff))),
    }
}

pub fn vcpu_op(caller: &mut Caller<'_>, command: u64, vcpu: u64, arg: u64) -> Outcome {
    let vcpus = &caller.shared.vcpus;
    let number = vcpus.number(vcpu)?;
    let own = number == caller.vcpu as usize;
    match command {
        0 => initialise(caller, number, arg),
        1 => {
            vcpus.up(number)?;
            done(0)
        }
        2 => down(caller, number),
        3 => done(i64::from(vcpus.is_up(number))),
        4 => {
            caller.write(arg, &[0; 48])?; // get_runstate_info: running since the start, nothing stolen
            done(0)
        }
        5 => {
            let at = u64::from_le_bytes(caller.read(arg)?);
            caller.write(at, &[0; 48])?; // register_runstate_memory_area
            done(0)
        }
        6 => Err(Errno::ENOSYS), // set_periodic_timer: Linux stops it, never sets it
        7 => done(0),            // stop_periodic_timer: none runs
        8 | 9 if !own => Err(Errno::EINVAL), // the timer is the vcpu's own affair
        8 => {
            let deadline = u64::from_le_bytes(caller.read(arg)?);
            caller.area.set(Field::Deadline, deadline.max(1));
            Ok((0, After::SetTimer))
        }
        9 => {
            caller.area.set(Field::Deadline, 0);
            done(0)
        }
        10 => register_vcpu_info(caller, number, arg),
        13 => {
            // register_vcpu_time_memory_area: at an address of the kernel's, in one page.
            let at = u64::from_le_bytes(caller.read(arg)?);
            let place = caller.space().translate(Gva(at))?;
            if place.page_offset() + TIME_INFO_BYTES as u64 > PAGE_SIZE {
                return Err(Errno::EINVAL);
            }
            caller.shared.memory.ram().write(place, &caller.shared.clock.time_info())?;
            vcpus.tables(number).time_area = Some(place.0);
            done(0)
        }
        _ => Err(Errno::ENOSYS), // get_physid, send_nmi: no use
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAM_BYTES: u64 = 16 << 20;

    fn put(bytes: &mut [u8; context::BYTES], at: usize, value: u64) {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// As Linux makes it (cpu_initialize_context).
    fn sound() -> [u8; context::BYTES] {
        let mut bytes = [0; context::BYTES];
        for (at, value) in [
            (context::FLAGS, IN_KERNEL),
            (context::REGISTERS + 128, 0xffff_ffff_8100_0000),
            (context::REGISTERS + RFLAGS_OFFSET, 0x1000),
            (context::REGISTERS + 152, 0xffff_c900_0000_3f58),
            (context::TRAPS + 14 * 16 + 8, 0xffff_ffff_8200_0000),
            (context::GDT_FRAMES, 0x123),
            (context::GDT_ENTRIES, 16),
            (context::CR3, 0x20_0000),
            (context::GS_BASE_KERNEL, 0xffff_8880_0000_0000),
        ] {
            put(&mut bytes, at, value);
        }
        bytes
    }

    #[test]
    fn linux_context_is_taken() {
        let context = parse(&sound(), RAM_BYTES).unwrap();
        assert_eq!((context.cr3, context.user_cr3), (Gpa(0x20_0000), 0));
        assert_eq!(context.gdt_frames, [Gfn(0x123)]);
        assert_eq!(context.traps[14].address, 0xffff_ffff_8200_0000);
        let register = |wanted| context.registers.iter().find(|(register, _)| *register == wanted).unwrap().1;
        assert_eq!(register(Register::Rip), 0xffff_ffff_8100_0000);
        // IOPL is Xen's to give, and events are masked in vcpu_info.
        assert_eq!(register(Register::Rflags), RFLAGS_ALWAYS);
    }

    #[test]
    fn a_forged_context_is_refused() {
        const NOT_CANONICAL: u64 = 0x8000_0000_0000;
        for (at, value) in [
            (context::FLAGS, 0),
            (context::REGISTERS + 128, NOT_CANONICAL),
            (context::TRAPS + 255 * 16 + 8, NOT_CANONICAL),
            (context::LDT_ENTRIES, 1),
            (context::GDT_FRAMES, RAM_BYTES / PAGE_SIZE),
            (context::GDT_FRAMES, u64::MAX),
            (context::GDT_ENTRIES, GDT_ENTRIES_MAX + 1),
            (context::GDT_ENTRIES, u64::MAX),
            (context::CR3, RAM_BYTES),
            (context::CR3, 0x20_0008),
            (context::CR3, u64::MAX),
            (context::CR1, 0x20_0000),
            (context::CR1, u64::MAX),
            (context::CALLBACK_EVENT, NOT_CANONICAL),
            (context::CALLBACK_FAILSAFE, NOT_CANONICAL),
            (context::CALLBACK_SYSCALL, NOT_CANONICAL),
            (context::FS_BASE, NOT_CANONICAL),
            (context::GS_BASE_KERNEL, NOT_CANONICAL),
            (context::GS_BASE_USER, NOT_CANONICAL),
        ] {
            let mut bytes = sound();
            put(&mut bytes, at, value);
            assert_eq!(parse(&bytes, RAM_BYTES), Err(Errno::EINVAL), "{at}: {value:#x}");
        }
    }
}
