//! What belongs to a vcpu: trap and descriptor tables, callbacks, debug registers (xen.h, callback.h).

use super::{Caller, Outcome, done, u16_at, u64_at};
use crate::errno::Errno;
use crate::memory::{Access, Gfn, Gpa, GuestMemory, MemoryError, PAGE_SIZE};
use crate::shim::{Area, Backend, Field, TrapInfo, sanitized_descriptor};

/// Entries of a trap table: one a vector, and the end.
const TRAPS_MAX: u64 = 257;
/// Descriptors of a guest's GDT: what lies below Xen's own.
pub(super) const GDT_ENTRIES_MAX: u64 = 14 * 512;
pub(super) const DESCRIPTORS_PER_FRAME: u64 = 512;
const WINDOW_GDT: u64 = 0x10000;
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
pub(super) fn is_canonical(address: u64) -> bool {
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
    load_gdt(&caller.shared.memory, caller.area, &frames)?;
    caller.shared.vcpus.tables(caller.vcpu as usize).gdt_frames = frames;
    done(0)
}

/// Copies a guest's descriptors to where a vcpu has its own.
pub(super) fn load_gdt(memory: &GuestMemory, area: &Area, frames: &[Gfn]) -> Result<(), MemoryError> {
    let gdt = area.window().offset(WINDOW_GDT);
    for (i, frame) in frames.iter().enumerate() {
        for at in (0..PAGE_SIZE).step_by(8) {
            let descriptor = memory.ram().read_u64(Gpa(frame.0 * PAGE_SIZE + at))?;
            memory.write_u64(gdt.offset(i as u64 * PAGE_SIZE + at), sanitized_descriptor(descriptor))?;
        }
    }
    Ok(())
}

pub fn update_descriptor(caller: &mut Caller<'_>, at: u64, descriptor: u64) -> Outcome {
    if !at.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let memory = &caller.shared.memory;
    memory.ram().write_u64(Gpa(at), descriptor)?;
    let vcpus = &caller.shared.vcpus;
    for vcpu in 0..vcpus.count() {
        let index = vcpus.tables(vcpu).gdt_frames.iter().position(|frame| frame.0 == at / PAGE_SIZE);
        if let Some(index) = index {
            let offset = WINDOW_GDT + index as u64 * PAGE_SIZE + at % PAGE_SIZE;
            memory.write_u64(vcpus.area(vcpu).window().offset(offset), sanitized_descriptor(descriptor))?;
        }
    }
    done(0)
}

pub fn set_debugreg(caller: &mut Caller<'_>, register: u64, value: u64) -> Outcome {
    match register {
        0..=3 | 6 | 7 => {
            caller.shared.vcpus.tables(caller.vcpu as usize).debug[register as usize] = value;
            done(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

pub fn get_debugreg(caller: &mut Caller<'_>, register: u64) -> Outcome {
    match register {
        0..=3 | 6 | 7 => {
            done(caller.shared.vcpus.tables(caller.vcpu as usize).debug[register as usize].cast_signed())
        }
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
