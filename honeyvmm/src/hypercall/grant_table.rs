//! GNTTABOP (grant_table.h): where the grant table is. Mapping and copying are domain 0's.

use super::{Caller, Outcome, done, u32_at, u64_at};
use crate::errno::Errno;
use crate::memory::PAGE_SIZE;
use crate::shim::GRANT_FRAMES;

const GNTST_OKAY: i16 = 0;
const GNTST_GENERAL_ERROR: i16 = -1;

fn setup_table(caller: &mut Caller<'_>, arg: u64) -> Outcome {
    let op: [u8; 24] = caller.read(arg)?;
    let (frames, list) = (u64::from(u32_at(&op, 4)), u64_at(&op, 16));
    let status = if frames > GRANT_FRAMES { GNTST_GENERAL_ERROR } else { GNTST_OKAY };
    if status == GNTST_OKAY {
        let first = caller.shared.layout.grant_table().0 / PAGE_SIZE;
        let numbers: Vec<u8> = (first..first + frames).flat_map(u64::to_le_bytes).collect();
        caller.write(list, &numbers)?;
    }
    caller.write(arg.wrapping_add(8), &status.to_le_bytes())?;
    done(0)
}

pub fn grant_table_op(caller: &mut Caller<'_>, command: u64, arg: u64, count: u64) -> Outcome {
    if count != 1 {
        return Err(Errno::EINVAL);
    }
    match command {
        2 => setup_table(caller, arg),
        6 => {
            let sizes = [GRANT_FRAMES as u32, GRANT_FRAMES as u32].map(u32::to_le_bytes).concat();
            caller.write(arg.wrapping_add(4), &sizes)?; // query_size: frames now, frames at most
            caller.write(arg.wrapping_add(12), &GNTST_OKAY.to_le_bytes())?;
            done(0)
        }
        8 => {
            caller.write(arg, &1u32.to_le_bytes())?; // set_version: there is 1 alone
            done(0)
        }
        10 => {
            caller.write(arg.wrapping_add(4), &1u32.to_le_bytes())?; // get_version
            done(0)
        }
        _ => Err(Errno::ENOSYS),
    }
}
