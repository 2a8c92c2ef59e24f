//! SCHEDOP and the old timer call (sched.h).

use super::{After, Caller, Outcome, ShutdownReason, u32_at, u64_at};
use crate::errno::Errno;
use crate::evtchn::PORTS_MAX;
use crate::memory::EvtchnPort;
use crate::shim::Field;

/// Ports of one poll (Xen's do_poll).
const POLL_PORTS_MAX: u32 = 128;

pub fn set_timer_op(caller: &mut Caller<'_>, deadline: u64) -> Outcome {
    caller.area.set(Field::Deadline, deadline);
    Ok((0, After::SetTimer))
}

/// `struct sched_poll`: list of ports, their number, timeout.
fn poll(caller: &Caller<'_>, arg: u64) -> Outcome {
    let op: [u8; 24] = caller.read(arg)?;
    let (list, count, timeout) = (u64_at(&op, 0), u32_at(&op, 8), u64_at(&op, 16));
    if count > POLL_PORTS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut ports = Vec::with_capacity(count as usize);
    for i in 0..u64::from(count) {
        let port = EvtchnPort(u32::from_le_bytes(caller.read(list.wrapping_add(4 * i))?));
        if port.0 >= PORTS_MAX {
            return Err(Errno::EINVAL);
        }
        ports.push(port);
    }
    Ok((0, After::Poll(ports, timeout)))
}

pub fn sched_op(caller: &mut Caller<'_>, command: u64, arg: u64) -> Outcome {
    match command {
        0 => Ok((0, After::Yield)),
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
        3 => poll(caller, arg),
        _ => Err(Errno::ENOSYS), // remote_shutdown, shutdown_code, watchdog, pin_override
    }
}
