//! SCHEDOP and the old timer call (sched.h).

use super::{After, Caller, Outcome, ShutdownReason, done, u32_at};
use crate::errno::Errno;
use crate::shim::Field;

pub fn set_timer_op(caller: &mut Caller<'_>, deadline: u64) -> Outcome {
    caller.area.set(Field::Deadline, deadline);
    Ok((0, After::SetTimer))
}

pub fn sched_op(caller: &mut Caller<'_>, command: u64, arg: u64) -> Outcome {
    match command {
        0 | 3 => done(0), // yield; poll: a guest of one vcpu polls in its spin loop and looks again
        1 => Ok((0, After::Block)),
        2 => {
            let reason = match u32_at(&caller.read::<4>(arg)?, 0) {
                0 => ShutdownReason::Poweroff,
                1 => ShutdownReason::Reboot,
                2 => ShutdownReason::Suspend,
                3 => ShutdownReason::Crash,
                4 => ShutdownReason::Watchdog,
                _ => return Err(Errno::EINVAL),
            };
            Ok((0, After::Shutdown(reason)))
        }
        _ => Err(Errno::ENOSYS), // remote_shutdown, shutdown_code, watchdog, pin_override
    }
}
