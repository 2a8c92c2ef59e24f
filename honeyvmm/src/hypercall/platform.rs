//! What the platform is: xen_version, console_io before there is a console ring, physdev_op (version.h, physdev.h).

use super::{Caller, Outcome, done, u32_at};
use crate::errno::Errno;
use crate::memory::PAGE_SIZE;

/// 4.15, as the shim answers subop 0.
const EXTRAVERSION: &[u8; 16] = b".0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const CAPABILITIES: &[u8] = b"xen-3.0-x86_64\0";
/// Features (features.h) that Linux must find, or it panics before any console: mmu_pt_update_preserve_ad, gnttab_map_avail_bits;
/// and supervisor_mode_kernel's neighbour pae_pgdir_above_4gb.
const FEATURES: u32 = 1 << 4 | 1 << 5 | 1 << 7;
/// Where Xen's own addresses begin.
const VIRT_START: u64 = 0xffff_8000_0000_0000;

pub fn xen_version(caller: &mut Caller<'_>, command: u64, arg: u64) -> Outcome {
    match command {
        1 => caller.write(arg, EXTRAVERSION)?,
        3 => caller.write(arg, CAPABILITIES)?,
        4 => caller.write(arg, &[0; 64])?, // changeset
        5 => caller.write(arg, &VIRT_START.to_le_bytes())?,
        6 => {
            let index = u32_at(&caller.read::<4>(arg)?, 0);
            let features = if index == 0 { FEATURES } else { 0 };
            caller.write(arg.wrapping_add(4), &features.to_le_bytes())?;
        }
        7 => return done(PAGE_SIZE.cast_signed()),
        8 => caller.write(arg, &caller.shared.uuid)?,
        _ => return Err(Errno::ENOSYS), // compile_info, command line, build id: not the guest's business
    }
    done(0)
}

pub fn console_io(caller: &mut Caller<'_>, command: u64, count: u64, buffer: u64) -> Outcome {
    match command {
        0 => {
            let mut bytes = vec![0; count.min(PAGE_SIZE) as usize];
            caller.space().read(crate::memory::Gva(buffer), &mut bytes)?;
            caller.shared.early_console.write(&bytes);
            done(0)
        }
        1 => done(0), // read: nothing typed
        _ => Err(Errno::ENOSYS),
    }
}

pub fn physdev_op(command: u64) -> Outcome {
    match command {
        6 | 7 => done(0), // set_iopl, set_iobitmap: ring 3 reaches no port whatever it says
        _ => Err(Errno::ENOSYS),
    }
}
