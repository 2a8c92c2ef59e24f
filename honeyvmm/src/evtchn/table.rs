//! Which port is bound to what. Plain values: no guest memory is touched here.

use std::sync::Arc;

use crate::errno::Errno;
use crate::memory::EvtchnPort;

use super::{Doorbell, StateError};

/// Ports of the 2-level ABI on 64 bits (EVTCHN_2L_NR_CHANNELS): 64 words of 64 bits.
pub const PORTS_MAX: u32 = 4096;
/// Virtual interrupts that there are (NR_VIRQS).
pub const VIRQS_MAX: u32 = 24;
/// The domain in which backends live.
pub const BACKEND_DOMID: u16 = 0;

/// Virtual interrupts that a guest kernel binds (`xen.h`).
pub mod virq {
    /// Time for the vcpu's timer, or the time base has changed.
    pub const TIMER: u32 = 0;
    /// Someone wants a dump of the guest's state.
    pub const DEBUG: u32 = 1;
    /// Sampling profiler.
    pub const XENOPROF: u32 = 7;
    /// Performance counters.
    pub const XENPMU: u32 = 13;
}

/// EVTCHNOP_status' answer; numbers as EVTCHNSTAT_*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelStatus {
    /// 0: not in use.
    Closed,
    /// 1: waits for a backend of domain 0.
    Unbound {
        /// The vcpu notified.
        vcpu: u32,
    },
    /// 2: bound to a backend of domain 0.
    Interdomain {
        /// The vcpu notified.
        vcpu: u32,
        /// The backend's port; backends have no port numbers, so it is ours.
        port: EvtchnPort,
    },
    /// 4: a virtual interrupt.
    Virq {
        /// The vcpu notified.
        vcpu: u32,
        /// Which one.
        virq: u32,
    },
    /// 5: from vcpu to vcpu.
    Ipi {
        /// The vcpu notified.
        vcpu: u32,
    },
}

/// What an open port is bound to.
#[derive(Clone)]
pub(super) enum Channel {
    Unbound,
    Backend { doorbell: Arc<dyn Doorbell>, binding: u64 },
    Virq(u32),
    Ipi,
}

/// The same without who holds the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Bound {
    Unbound,
    Backend,
    Virq(u32),
    Ipi,
}

struct Port {
    channel: Channel,
    /// The vcpu that is notified.
    vcpu: usize,
}

pub(super) struct PortTable {
    /// By number; port 0 stays `None`.
    ports: Vec<Option<Port>>,
    /// Each vcpu's port for each virtual interrupt; 0 is none.
    virqs: Vec<[u32; VIRQS_MAX as usize]>,
    /// One bit a vcpu: it waits in SCHEDOP_poll.
    polling: u64,
    /// One bit a vcpu: it has moved its `vcpu_info`.
    registered: u64,
    bindings: u64,
}

impl PortTable {
    pub fn new(vcpus: usize) -> Self {
        let virqs = vec![[0; VIRQS_MAX as usize]; vcpus];
        Self { ports: vec![None], virqs, polling: 0, registered: 0, bindings: 0 }
    }

    /// What each open port is bound to, and whom it notifies.
    pub fn bound(&self) -> Vec<(u32, Bound, u32)> {
        let bound = |channel: &Channel| match channel {
            Channel::Unbound => Bound::Unbound,
            Channel::Backend { .. } => Bound::Backend,
            Channel::Virq(virq) => Bound::Virq(*virq),
            Channel::Ipi => Bound::Ipi,
        };
        let open = self.ports.iter().enumerate();
        open.filter_map(|(number, port)| port.as_ref().map(|port| (number, port)))
            .map(|(number, port)| (number as u32, bound(&port.channel), port.vcpu as u32))
            .collect()
    }

    pub fn registered(&self) -> u64 {
        self.registered
    }

    /// The table that [`PortTable::bound`] told of; backends' ends are unbound until they bind themselves again.
    pub fn restore(vcpus: usize, ports: &[(u32, Bound, u32)], registered: u64) -> Result<Self, StateError> {
        let mut table = Self { registered, ..Self::new(vcpus) };
        for (number, bound, vcpu) in ports {
            let wrong = || StateError::Port(*number);
            let vcpu = table.vcpu(*vcpu).map_err(|_| wrong())?;
            if *number == 0 || *number >= PORTS_MAX {
                return Err(wrong());
            }
            let channel = match bound {
                Bound::Unbound | Bound::Backend => Channel::Unbound,
                Bound::Ipi => Channel::Ipi,
                Bound::Virq(virq) => {
                    let row = if is_per_vcpu(*virq) { vcpu } else { 0 };
                    *table.virqs[row].get_mut(*virq as usize).ok_or_else(wrong)? = *number;
                    Channel::Virq(*virq)
                }
            };
            let number = *number as usize;
            if table.ports.len() <= number {
                table.ports.resize_with(number + 1, || None);
            }
            if table.ports[number].replace(Port { channel, vcpu }).is_some() {
                return Err(wrong());
            }
        }
        Ok(table)
    }

    pub fn vcpu(&self, vcpu: u32) -> Result<usize, Errno> {
        Some(vcpu as usize).filter(|&vcpu| vcpu < self.virqs.len()).ok_or(Errno::ENOENT)
    }

    /// Takes the lowest free port.
    pub fn allocate(&mut self, channel: Channel, vcpu: usize) -> Result<EvtchnPort, Errno> {
        let free = self.ports.iter().skip(1).position(Option::is_none).map(|index| index + 1);
        let number = free.unwrap_or(self.ports.len());
        if number >= PORTS_MAX as usize {
            return Err(Errno::ENOSPC);
        }
        if number == self.ports.len() {
            self.ports.push(None);
        }
        self.ports[number] = Some(Port { channel, vcpu });
        Ok(EvtchnPort(number as u32))
    }

    pub fn bind_virq(&mut self, virq: u32, vcpu: u32) -> Result<EvtchnPort, Errno> {
        if virq >= VIRQS_MAX || (!is_per_vcpu(virq) && vcpu != 0) {
            return Err(Errno::EINVAL);
        }
        let vcpu = self.vcpu(vcpu)?;
        if self.virqs[vcpu][virq as usize] != 0 {
            return Err(Errno::EEXIST);
        }
        let port = self.allocate(Channel::Virq(virq), vcpu)?;
        self.virqs[vcpu][virq as usize] = port.0;
        Ok(port)
    }

    pub fn bind_vcpu(&mut self, port: EvtchnPort, vcpu: u32) -> Result<(), Errno> {
        let vcpu = self.vcpu(vcpu)?;
        let port = self.port_mut(port)?;
        match port.channel {
            Channel::Ipi => return Err(Errno::EINVAL),
            Channel::Virq(virq) if is_per_vcpu(virq) => return Err(Errno::EINVAL),
            Channel::Virq(_) | Channel::Unbound | Channel::Backend { .. } => port.vcpu = vcpu,
        }
        Ok(())
    }

    /// Frees the port; the caller drops what it was bound to.
    pub fn close(&mut self, port: EvtchnPort) -> Result<Channel, Errno> {
        let slot = self.ports.get_mut(port.0 as usize).ok_or(Errno::EINVAL)?;
        let closed = slot.take().ok_or(Errno::EINVAL)?;
        if let Channel::Virq(virq) = closed.channel {
            // A global one may have been moved to another vcpu since, but stays in the row of vcpu 0.
            let row = if is_per_vcpu(virq) { closed.vcpu } else { 0 };
            self.virqs[row][virq as usize] = 0;
        }
        Ok(closed.channel)
    }

    pub fn open_channel(&self, port: EvtchnPort) -> Result<(Channel, usize), Errno> {
        let port = self.port(port).ok_or(Errno::EINVAL)?;
        Ok((port.channel.clone(), port.vcpu))
    }

    pub fn open_ports(&self) -> Vec<EvtchnPort> {
        (0..self.ports.len() as u32).map(EvtchnPort).filter(|&port| self.port(port).is_some()).collect()
    }

    pub fn status(&self, number: EvtchnPort) -> Result<ChannelStatus, Errno> {
        if number.0 >= PORTS_MAX {
            return Err(Errno::EINVAL);
        }
        let Some(port) = self.port(number) else { return Ok(ChannelStatus::Closed) };
        let vcpu = port.vcpu as u32;
        Ok(match port.channel {
            Channel::Unbound => ChannelStatus::Unbound { vcpu },
            Channel::Backend { .. } => ChannelStatus::Interdomain { vcpu, port: number },
            Channel::Virq(virq) => ChannelStatus::Virq { vcpu, virq },
            Channel::Ipi => ChannelStatus::Ipi { vcpu },
        })
    }

    /// The port bound to a vcpu's virtual interrupt, and the vcpu to notify.
    pub fn virq_port(&self, vcpu: usize, virq: u32) -> Option<(EvtchnPort, usize)> {
        let number = EvtchnPort(*self.virqs.get(vcpu)?.get(virq as usize)?);
        Some((number, self.port(number)?.vcpu))
    }

    pub fn bind_backend(&mut self, port: EvtchnPort, doorbell: Arc<dyn Doorbell>) -> Result<u64, Errno> {
        self.bindings += 1;
        let binding = self.bindings;
        let port = self.port_mut(port)?;
        if !matches!(port.channel, Channel::Unbound) {
            return Err(Errno::EINVAL);
        }
        port.channel = Channel::Backend { doorbell, binding };
        Ok(binding)
    }

    /// The vcpu to notify, if the port still is bound by this binding: the guest may have closed it and made another of it.
    pub fn bound_vcpu(&self, port: EvtchnPort, binding: u64) -> Option<usize> {
        let port = self.port(port)?;
        matches!(port.channel, Channel::Backend { binding: bound, .. } if bound == binding)
            .then_some(port.vcpu)
    }

    /// Makes the port unbound again; the caller drops what it was bound to.
    pub fn unbind_backend(&mut self, port: EvtchnPort, binding: u64) -> Option<Channel> {
        self.bound_vcpu(port, binding)?;
        let port = self.port_mut(port).ok()?;
        Some(std::mem::replace(&mut port.channel, Channel::Unbound))
    }

    /// Notes that a vcpu moves its `vcpu_info`; `false` the second time.
    pub fn register_vcpu_info(&mut self, vcpu: usize) -> bool {
        let first = self.registered & (1 << vcpu) == 0;
        self.registered |= 1 << vcpu;
        first
    }

    pub fn polling(&self) -> u64 {
        self.polling
    }

    pub fn set_polling(&mut self, vcpu: usize) {
        if vcpu < self.virqs.len() {
            self.polling |= 1 << vcpu;
        }
    }

    pub fn clear_polling(&mut self, vcpu: usize) {
        if vcpu < self.virqs.len() {
            self.polling &= !(1 << vcpu);
        }
    }

    fn port(&self, port: EvtchnPort) -> Option<&Port> {
        self.ports.get(port.0 as usize)?.as_ref()
    }

    fn port_mut(&mut self, port: EvtchnPort) -> Result<&mut Port, Errno> {
        self.ports.get_mut(port.0 as usize).and_then(Option::as_mut).ok_or(Errno::EINVAL)
    }
}

/// Xen's classes: these belong to one vcpu each, all others to the domain.
fn is_per_vcpu(virq: u32) -> bool {
    matches!(virq, virq::TIMER | virq::DEBUG | virq::XENOPROF | virq::XENPMU)
}
