//! What belongs to a vcpu: trap and descriptor tables, callbacks, debug registers, VCPUOP (xen.h, vcpu.h, callback.h).

use super::{After, Caller, Outcome, done, u16_at, u64_at};
use crate::clock::TIME_INFO_BYTES;
use crate::errno::Errno;
use crate::memory::{Access, Gfn, Gpa, Gva, PAGE_SIZE};
use crate::shim::{Backend, Field, TrapInfo, sanitized_descriptor};

/// Entries of a trap table: one a vector, and the end.
const TRAPS_MAX: u64 = 257;
/// Descriptors of a guest's GDT: what lies below Xen's own.
const GDT_ENTRIES_MAX: u64 = 14 * 512;
const DESCRIPTORS_PER_FRAME: u64 = 512;
const WINDOW_GDT: u64 = 0x10000;
/// `struct vcpu_info`.
const VCPU_INFO_BYTES: u64 = 64;
const PHYSMAP: u64 = 0xffff_8180_0000_0000;
/// DR6 with nothing to tell.
pub const DR6_INIT: u64 = 0xffff_0ff0;
const DR7_INIT: u64 = 0x400;

/// What the VMM keeps of a vcpu's tables.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuTables {
    /// Frames of the guest's GDT, in order.
    pub gdt_frames: Vec<Gfn>,
    /// DR0 to DR7 as the guest set them.
    pub debug: [u64; 8],
    /// A second `vcpu_time_info`, which user code reads (the vDSO).
    pub time_area: Option<u64>,
}

impl Default for CpuTables {
    fn default() -> Self {
        let mut debug = [0; 8];
        (debug[6], debug[7]) = (DR6_INIT, DR7_INIT);
        Self { gdt_frames: Vec::new(), debug, time_area: None }
    }
}

/// Would the processor load it as an instruction pointer?
fn is_canonical(address: u64) -> bool {
    ((address << 16).cast_signed() >> 16).cast_unsigned() == address
}

pub fn set_trap_table(caller: &mut Caller<'_>, list: u64) -> Outcome {
    if list == 0 {
        (0..=255).for_each(|vector| caller.area.set_trap(TrapInfo { vector, ..Default::default() }));
        return done(0);
    }
    // Read whole before any is set: a list that faults in its middle changes nothing.
    let mut traps = Vec::new();
    for i in 0..TRAPS_MAX {
        let entry: [u8; 16] = caller.read(list.wrapping_add(i * 16))?;
        let address = u64_at(&entry, 8);
        if address == 0 {
            traps.into_iter().for_each(|trap| caller.area.set_trap(trap));
            return done(0);
        }
        if !is_canonical(address) {
            return Err(Errno::EINVAL);
        }
        traps.push(TrapInfo { vector: entry[0], flags: entry[1], cs: u16_at(&entry, 2), address });
    }
    Err(Errno::EINVAL)
}

pub fn set_gdt(caller: &mut Caller<'_>, list: u64, entries: u64) -> Outcome {
    if entries > GDT_ENTRIES_MAX {
        return Err(Errno::EINVAL);
    }
    let mut frames = Vec::new();
    for i in 0..entries.div_ceil(DESCRIPTORS_PER_FRAME) {
        let frame = u64::from_le_bytes(caller.read(list.wrapping_add(8 * i))?);
        if frame >= caller.shared.layout.ram_bytes / PAGE_SIZE {
            return Err(Errno::EINVAL);
        }
        frames.push(Gfn(frame));
    }
    let gdt = caller.area.window().offset(WINDOW_GDT);
    for (i, frame) in frames.iter().enumerate() {
        for at in (0..PAGE_SIZE).step_by(8) {
            let descriptor = caller.shared.memory.ram().read_u64(Gpa(frame.0 * PAGE_SIZE + at))?;
            caller
                .shared
                .memory
                .write_u64(gdt.offset(i as u64 * PAGE_SIZE + at), sanitized_descriptor(descriptor))?;
        }
    }
    caller.tables.gdt_frames = frames;
    done(0)
}

pub fn update_descriptor(caller: &mut Caller<'_>, at: u64, descriptor: u64) -> Outcome {
    if !at.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let memory = &caller.shared.memory;
    memory.ram().write_u64(Gpa(at), descriptor)?;
    if let Some(index) = caller.tables.gdt_frames.iter().position(|frame| frame.0 == at / PAGE_SIZE) {
        let live = caller.area.window().offset(WINDOW_GDT + index as u64 * PAGE_SIZE + at % PAGE_SIZE);
        memory.write_u64(live, sanitized_descriptor(descriptor))?;
    }
    done(0)
}

pub fn set_debugreg(caller: &mut Caller<'_>, register: u64, value: u64) -> Outcome {
    match register {
        0..=3 | 6 | 7 => {
            caller.tables.debug[register as usize] = value;
            done(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

pub fn get_debugreg(caller: &mut Caller<'_>, register: u64) -> Outcome {
    match register {
        0..=3 | 6 | 7 => done(caller.tables.debug[register as usize].cast_signed()),
        _ => Err(Errno::EINVAL),
    }
}

pub fn callback_op(caller: &mut Caller<'_>, command: u64, arg: u64) -> Outcome {
    let (kind, flags, address) = match command {
        0 => {
            let op: [u8; 16] = caller.read(arg)?;
            (u16_at(&op, 0), u16_at(&op, 2), u64_at(&op, 8))
        }
        1 => (u16::from_le_bytes(caller.read(arg)?), 0, 0),
        _ => return Err(Errno::ENOSYS),
    };
    let field = match kind {
        0 => Some(Field::CallbackEvent),
        1 => Some(Field::CallbackFailsafe),
        2 => Some(Field::CallbackSyscall),
        4 => None, // NMI is never sent
        // SYSCALL of 32-bit code needs a processor that has it, which PVM does not tell: `int $0x80` always works. Linux takes what is left.
        7 if caller.area.backend() == Backend::Hardware => Some(Field::CallbackSyscall32),
        _ => return Err(Errno::EINVAL), // SYSENTER among them
    };
    if !is_canonical(address) {
        return Err(Errno::EINVAL);
    }
    if let Some(field) = field {
        caller.area.set(field, address);
        let bit = 1 << kind;
        let masks = caller.area.get(Field::CallbackFlags);
        caller.area.set(Field::CallbackFlags, if flags & 1 != 0 { masks | bit } else { masks & !bit });
    }
    done(0)
}

fn register_vcpu_info(caller: &mut Caller<'_>, vcpu: u64, arg: u64) -> Outcome {
    let op: [u8; 16] = caller.read(arg)?;
    let (frame, offset) = (u64_at(&op, 0), u64::from(super::u32_at(&op, 8)));
    if offset % 8 != 0
        || offset + VCPU_INFO_BYTES > PAGE_SIZE
        || frame >= caller.shared.layout.ram_bytes / PAGE_SIZE
    {
        return Err(Errno::EINVAL);
    }
    // One vcpu a domain for now, and dispatch has checked that it is this one.
    let place = Gpa(frame * PAGE_SIZE + offset);
    caller.shared.events.set_vcpu_info(vcpu as usize, place)?;
    caller.area.set(Field::VcpuInfo, PHYSMAP + place.0);
    done(0)
}

pub fn vcpu_op(caller: &mut Caller<'_>, command: u64, vcpu: u64, arg: u64) -> Outcome {
    if vcpu >= u64::from(caller.shared.layout.vcpus) {
        return Err(Errno::ENOENT);
    }
    match command {
        3 => done(1), // is_up
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
        8 => {
            let deadline = u64::from_le_bytes(caller.read(arg)?);
            caller.area.set(Field::Deadline, deadline.max(1));
            Ok((0, After::SetTimer))
        }
        9 => {
            caller.area.set(Field::Deadline, 0);
            done(0)
        }
        10 => register_vcpu_info(caller, vcpu, arg),
        13 => {
            let at = u64::from_le_bytes(caller.read(arg)?);
            // register_vcpu_time_memory_area: at an address of the kernel's, in one page.
            let place = caller.space().translate(Gva(at))?;
            if place.page_offset() + TIME_INFO_BYTES as u64 > PAGE_SIZE {
                return Err(Errno::EINVAL);
            }
            caller.shared.memory.ram().write(place, &caller.shared.clock.time_info())?;
            caller.tables.time_area = Some(place.0);
            done(0)
        }
        _ => Err(Errno::ENOSYS), // initialise, up, down: no second vcpu; get_physid, send_nmi: no use
    }
}
