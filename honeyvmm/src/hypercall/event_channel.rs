//! EVTCHNOP (event_channel.h): copies the structures in and out; what they mean is in [`crate::evtchn`].

use super::{After, Caller, Outcome, done, u32_at};
use crate::errno::Errno;
use crate::evtchn::ChannelStatus;
use crate::memory::EvtchnPort;

fn port(bytes: &[u8]) -> EvtchnPort {
    EvtchnPort(u32_at(bytes, 0))
}

/// `struct evtchn_status`: status, vcpu and the union's first words.
fn status(caller: &mut Caller<'_>, arg: u64) -> Outcome {
    let op: [u8; 24] = caller.read(arg)?;
    let (state, vcpu, word) = match caller.shared.events.status(EvtchnPort(u32_at(&op, 4)))? {
        ChannelStatus::Closed => (0u32, 0u32, 0u32),
        ChannelStatus::Unbound { vcpu } => (1, vcpu, 0),
        ChannelStatus::Interdomain { vcpu, port } => (2, vcpu, port.0 << 16),
        ChannelStatus::Virq { virq, vcpu } => (4, vcpu, virq),
        ChannelStatus::Ipi { vcpu } => (5, vcpu, 0),
    };
    let mut out = op;
    out[8..12].copy_from_slice(&state.to_le_bytes());
    out[12..16].copy_from_slice(&vcpu.to_le_bytes());
    out[16..20].copy_from_slice(&word.to_le_bytes());
    caller.write(arg, &out)?;
    done(0)
}

pub fn event_channel_op(caller: &mut Caller<'_>, command: u64, arg: u64) -> Outcome {
    let events = caller.shared.events.clone();
    match command {
        0 => {
            let op: [u8; 12] = caller.read(arg)?;
            let port = events.bind_interdomain(super::u16_at(&op, 0), EvtchnPort(u32_at(&op, 4)))?;
            caller.write(arg.wrapping_add(8), &port.0.to_le_bytes())?;
        }
        1 => {
            let op: [u8; 12] = caller.read(arg)?;
            let port = events.bind_virq(u32_at(&op, 0), u32_at(&op, 4))?;
            caller.write(arg.wrapping_add(8), &port.0.to_le_bytes())?;
        }
        3 => events.close(port(&caller.read::<4>(arg)?))?,
        4 => {
            let port = port(&caller.read::<4>(arg)?);
            events.send(port)?;
            // The sender of an IPI spins until it is answered: if the host runs something else instead, it is given the chance.
            let awaited = matches!(events.status(port)?, ChannelStatus::Ipi { vcpu } if caller.shared.vcpus.is_preempted(vcpu as usize));
            return Ok((0, if awaited { After::Yield } else { After::Continue }));
        }
        5 => return status(caller, arg),
        6 => {
            let op: [u8; 8] = caller.read(arg)?;
            let port = events.alloc_unbound(super::u16_at(&op, 2))?;
            caller.write(arg.wrapping_add(4), &port.0.to_le_bytes())?;
        }
        7 => {
            let port = events.bind_ipi(u32_at(&caller.read::<8>(arg)?, 0))?;
            caller.write(arg.wrapping_add(4), &port.0.to_le_bytes())?;
        }
        8 => {
            let op: [u8; 8] = caller.read(arg)?;
            events.bind_vcpu(port(&op), u32_at(&op, 4))?;
        }
        9 => events.unmask(port(&caller.read::<4>(arg)?))?,
        10 => events.reset()?,
        11..=13 => events.fifo()?, // init_control, expand_array, set_priority: the FIFO ABI
        _ => return Err(Errno::ENOSYS), // bind_pirq: no physical interrupts
    }
    done(0)
}
