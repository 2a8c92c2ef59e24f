//! XENMEM (memory.h): how much RAM there is, and where the machine-to-phys table is.

use super::{Caller, Outcome, done, u32_at, u64_at};
use crate::errno::Errno;
use crate::memory::PAGE_SIZE;
use crate::shim::M2P_VA;

const E820_RAM: u32 = 1;

fn memory_map(caller: &mut Caller<'_>, arg: u64) -> Outcome {
    let op: [u8; 16] = caller.read(arg)?;
    if u32_at(&op, 0) == 0 {
        return Err(Errno::EINVAL);
    }
    let mut entry = [0u8; 20];
    entry[8..16].copy_from_slice(&caller.shared.layout.ram_bytes.to_le_bytes());
    entry[16..].copy_from_slice(&E820_RAM.to_le_bytes());
    caller.write(u64_at(&op, 8), &entry)?;
    caller.write(arg, &1u32.to_le_bytes())?;
    done(0)
}

fn machphys_mapping(caller: &mut Caller<'_>, arg: u64) -> Outcome {
    let frames = caller.shared.layout.ram_bytes / PAGE_SIZE;
    let mapping = [M2P_VA.0, M2P_VA.0 + frames * 8, frames - 1].map(u64::to_le_bytes).concat();
    caller.write(arg, &mapping)?;
    done(0)
}

pub fn memory_op(caller: &mut Caller<'_>, command: u64, arg: u64) -> Outcome {
    match command {
        // maximum_ram_page is the highest frame, the reservations are counts.
        2 => done((caller.shared.layout.ram_bytes / PAGE_SIZE - 1).cast_signed()),
        3 | 4 => done((caller.shared.layout.ram_bytes / PAGE_SIZE).cast_signed()),
        9 => memory_map(caller, arg),
        12 => machphys_mapping(caller, arg),
        _ => Err(Errno::ENOSYS), // ballooning and exchange: memory is what the domain file says
    }
}
