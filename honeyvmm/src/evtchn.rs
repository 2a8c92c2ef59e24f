//! Event channels: one bit of "something happened" between a domain and its backends, or between its vcpus.
//!
//! Xen's `event_channel.h`, 2-level ABI only: pending and mask bits in `shared_info`, a selector word and the upcall flag in
//! each vcpu's `vcpu_info`. Guest and shim change the same words while we do, so all of them are changed atomically and in
//! Xen's order. The FIFO ABI is refused, which makes Linux take this one. Copying the arguments of the hypercall in and
//! out, and checking that its `dom` means the caller, is the hypercall layer's work.

mod pending;
mod state;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::errno::Errno;
use crate::memory::{Access, EvtchnPort, Gpa, GuestMemory, MemoryError, PAGE_SIZE};

pub use state::{ChannelsState, StateError};
pub use table::{BACKEND_DOMID, ChannelStatus, PORTS_MAX, VIRQS_MAX, virq};

use pending::PendingWords;
use table::{Channel, PortTable};

/// Vcpus that have a `vcpu_info` in `shared_info` (XEN_LEGACY_MAX_VCPUS); more are not offered.
pub const VCPUS_MAX: usize = 32;
/// Bytes of `struct vcpu_info` on x86.
pub const VCPU_INFO_BYTES: u64 = 64;

/// Told that an upcall became pending on a vcpu: it has to look before it goes on in the guest, or wake up.
pub trait Kick: Send + Sync {
    /// Called by any thread, with no lock of this module held.
    fn kick(&self, vcpu: usize);
}

/// The backend's end of a channel: rung when the guest sends.
pub trait Doorbell: Send + Sync {
    /// Called by the vcpu's thread, with no lock of this module held. It must not wait for the guest.
    fn ring(&self);
}

/// A domain's event channels cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum EvtchnSetupError {
    /// `shared_info` has room for 32 vcpus.
    #[error("domain has {0} vcpus, event channels serve 1 to {VCPUS_MAX}")]
    Vcpus(usize),
    /// `shared_info` is not where it was said to be.
    #[error("cannot reach shared_info")]
    SharedInfo(#[source] MemoryError),
    /// The channels of a saved domain do not fit.
    #[error(transparent)]
    State(#[from] StateError),
}

/// All event channels of a domain. Clones are the same channels.
#[derive(Clone)]
pub struct EventChannels {
    shared: Arc<Shared>,
}

struct Shared {
    words: PendingWords,
    /// Where each vcpu's `vcpu_info` is. Written under `table`'s lock; read without it by a vcpu for its own entry.
    vcpu_infos: Vec<AtomicU64>,
    /// Which port is what, and who polls. A leaf lock: [`Kick`], [`Doorbell`] and all else are called after it is released.
    table: Mutex<PortTable>,
    kick: Arc<dyn Kick>,
}

/// The host's end of one channel, held by a backend. Dropping it leaves the guest's port unbound.
pub struct BackendChannel {
    channels: EventChannels,
    port: EvtchnPort,
    binding: u64,
}

impl EventChannels {
    /// No port in use; each vcpu's `vcpu_info` in `shared_info`.
    ///
    /// # Errors
    /// More vcpus than [`VCPUS_MAX`] or none, `shared_info` outside memory.
    pub fn new(
        memory: GuestMemory,
        shared_info: Gpa,
        vcpus: usize,
        kick: Arc<dyn Kick>,
    ) -> Result<Self, EvtchnSetupError> {
        if vcpus == 0 || vcpus > VCPUS_MAX {
            return Err(EvtchnSetupError::Vcpus(vcpus));
        }
        memory.slice(shared_info, PAGE_SIZE).map_err(EvtchnSetupError::SharedInfo)?;
        let vcpu_infos =
            (0..vcpus as u64).map(|vcpu| AtomicU64::new(shared_info.0 + vcpu * VCPU_INFO_BYTES)).collect();
        let words = PendingWords::new(memory, shared_info);
        let table = Mutex::new(PortTable::new(vcpus));
        Ok(Self { shared: Arc::new(Shared { words, vcpu_infos, table, kick }) })
    }

    /// EVTCHNOP_alloc_unbound: a port that a backend in `remote` may bind.
    ///
    /// # Errors
    /// ESRCH for a domain other than 0, ENOSPC.
    pub fn alloc_unbound(&self, remote: u16) -> Result<EvtchnPort, Errno> {
        if remote != BACKEND_DOMID {
            return Err(Errno::ESRCH);
        }
        self.table().allocate(Channel::Unbound, 0)
    }

    /// EVTCHNOP_bind_interdomain. Backends bind to the guest's ports, never the other way round, so there is nothing to bind to.
    ///
    /// # Errors
    /// Always: EINVAL for domain 0 (no such unbound port), ESRCH for any other.
    pub fn bind_interdomain(&self, remote: u16, _remote_port: EvtchnPort) -> Result<EvtchnPort, Errno> {
        Err(if remote == BACKEND_DOMID { Errno::EINVAL } else { Errno::ESRCH })
    }

    /// EVTCHNOP_bind_virq.
    ///
    /// # Errors
    /// EINVAL for a number that is none, or a global one on another vcpu than 0; ENOENT for the vcpu; EEXIST; ENOSPC.
    pub fn bind_virq(&self, virq: u32, vcpu: u32) -> Result<EvtchnPort, Errno> {
        self.table().bind_virq(virq, vcpu)
    }

    /// EVTCHNOP_bind_ipi.
    ///
    /// # Errors
    /// ENOENT for the vcpu, ENOSPC.
    pub fn bind_ipi(&self, vcpu: u32) -> Result<EvtchnPort, Errno> {
        let mut table = self.table();
        let vcpu = table.vcpu(vcpu)?;
        table.allocate(Channel::Ipi, vcpu)
    }

    /// EVTCHNOP_bind_vcpu.
    ///
    /// # Errors
    /// ENOENT for the vcpu, EINVAL for a port that is closed or bound to its vcpu for good.
    pub fn bind_vcpu(&self, port: EvtchnPort, vcpu: u32) -> Result<(), Errno> {
        self.table().bind_vcpu(port, vcpu)
    }

    /// EVTCHNOP_close.
    ///
    /// # Errors
    /// EINVAL for a port that is not open.
    pub fn close(&self, port: EvtchnPort) -> Result<(), Errno> {
        // The channel, and with it a doorbell, is dropped after the lock is released.
        let closed = {
            let mut table = self.table();
            let closed = table.close(port)?;
            self.shared.words.clear(port);
            closed
        };
        drop(closed);
        Ok(())
    }

    /// EVTCHNOP_send: rings a backend, or raises an IPI. A port that no backend has bound yet swallows the event, as in Xen.
    ///
    /// # Errors
    /// EINVAL for a port that is closed or a virq.
    pub fn send(&self, port: EvtchnPort) -> Result<(), Errno> {
        let (channel, vcpu) = self.table().open_channel(port)?;
        match channel {
            Channel::Backend { doorbell, .. } => doorbell.ring(),
            Channel::Ipi => self.set_pending(port, vcpu),
            Channel::Unbound => {}
            Channel::Virq(_) => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// EVTCHNOP_status.
    ///
    /// # Errors
    /// EINVAL for a port past the last.
    pub fn status(&self, port: EvtchnPort) -> Result<ChannelStatus, Errno> {
        self.table().status(port)
    }

    /// EVTCHNOP_unmask: clears the mask bit, and makes the upcall up that was held back.
    ///
    /// # Errors
    /// EINVAL for a port that is not open.
    pub fn unmask(&self, port: EvtchnPort) -> Result<(), Errno> {
        let vcpu = {
            let table = self.table();
            let (_, vcpu) = table.open_channel(port)?;
            self.shared.words.unmask(port, self.vcpu_info(vcpu)).then_some(vcpu)
        };
        if let Some(vcpu) = vcpu {
            self.shared.kick.kick(vcpu);
        }
        Ok(())
    }

    /// EVTCHNOP_reset: closes every port.
    ///
    /// # Errors
    /// None today; Xen may refuse.
    pub fn reset(&self) -> Result<(), Errno> {
        let open = self.table().open_ports();
        for port in open {
            // Another vcpu may have closed it meanwhile; closed is what we want.
            let _ = self.close(port);
        }
        Ok(())
    }

    /// EVTCHNOP_init_control, expand_array and set_priority belong to the FIFO ABI.
    ///
    /// # Errors
    /// Always ENOSYS.
    pub fn fifo(&self) -> Result<(), Errno> {
        Err(Errno::ENOSYS)
    }

    /// VCPUOP_register_vcpu_info: moves a vcpu's `vcpu_info`, with all that is pending in it. As in Xen the vcpu then finds every
    /// selector bit set, so that nothing is lost that was raised meanwhile.
    ///
    /// # Errors
    /// ENOENT for the vcpu; EINVAL for a place that is not in RAM, crosses a page, is not aligned, or a second move.
    pub fn set_vcpu_info(&self, vcpu: usize, place: Gpa) -> Result<(), Errno> {
        let shared = &self.shared;
        {
            let mut table = self.table();
            let address = shared.vcpu_infos.get(vcpu).ok_or(Errno::ENOENT)?;
            let aligned = place.0.is_multiple_of(8) && place.page_offset() + VCPU_INFO_BYTES <= PAGE_SIZE;
            if !aligned || !shared.words.in_ram(place, VCPU_INFO_BYTES) || !table.register_vcpu_info(vcpu) {
                return Err(Errno::EINVAL);
            }
            shared.words.move_vcpu_info(Gpa(address.load(Ordering::Acquire)), place);
            address.store(place.0, Ordering::Release);
        }
        shared.kick.kick(vcpu);
        Ok(())
    }

    /// Where a vcpu's `vcpu_info` is; that of vcpu 0 for a number past the last.
    #[must_use]
    pub fn vcpu_info(&self, vcpu: usize) -> Gpa {
        let infos = &self.shared.vcpu_infos;
        Gpa(infos.get(vcpu).unwrap_or(&infos[0]).load(Ordering::Acquire))
    }

    /// Whether an upcall waits for the vcpu.
    #[must_use]
    pub fn upcall_pending(&self, vcpu: usize) -> bool {
        self.shared.words.upcall_pending(self.vcpu_info(vcpu))
    }

    /// Whether the vcpu takes no upcalls now.
    #[must_use]
    pub fn upcall_masked(&self, vcpu: usize) -> bool {
        self.shared.words.upcall_masked(self.vcpu_info(vcpu))
    }

    /// Whether a port's event is pending (masked or not); for SCHEDOP_poll.
    #[must_use]
    pub fn is_pending(&self, port: EvtchnPort) -> bool {
        self.shared.words.is_pending(port)
    }

    /// SCHEDOP_poll: from now on the vcpu is also kicked for events that are masked. Check [`EventChannels::is_pending`] after it.
    pub fn poll_begin(&self, vcpu: usize) {
        self.table().set_polling(vcpu);
    }

    /// The vcpu polls no more.
    pub fn poll_end(&self, vcpu: usize) {
        self.table().clear_polling(vcpu);
    }

    /// Raises a port for the guest, whatever it is bound to; a closed one is left alone.
    pub fn raise(&self, port: EvtchnPort) {
        let channel = self.table().open_channel(port);
        if let Ok((_, vcpu)) = channel {
            self.set_pending(port, vcpu);
        }
    }

    /// Raises a virtual interrupt, if the vcpu has bound it.
    pub fn raise_virq(&self, vcpu: usize, virq: u32) {
        let bound = self.table().virq_port(vcpu, virq);
        if let Some((port, notified)) = bound {
            self.set_pending(port, notified);
        }
    }

    /// A port that is bound to a backend from the start: console and xenstore, whose numbers are in `start_info`.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn alloc_backend_port(&self, doorbell: Arc<dyn Doorbell>) -> Result<BackendChannel, Errno> {
        let port = self.table().allocate(Channel::Unbound, 0)?;
        self.bind_backend(port, doorbell)
    }

    /// Binds a backend to a port that the frontend allocated and published as its `event-channel`.
    ///
    /// # Errors
    /// EINVAL for a port that is not open and unbound.
    pub fn bind_backend(
        &self,
        port: EvtchnPort,
        doorbell: Arc<dyn Doorbell>,
    ) -> Result<BackendChannel, Errno> {
        let binding = self.table().bind_backend(port, doorbell)?;
        Ok(BackendChannel { channels: self.clone(), port, binding })
    }

    fn table(&self) -> MutexGuard<'_, PortTable> {
        // The table is consistent after each of its methods, so a panic elsewhere does not spoil it.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_pending(&self, port: EvtchnPort, vcpu: usize) {
        let (raised, polling) = {
            // Held so that `vcpu_info` is not moved away under our hands.
            let table = self.table();
            let raised = self.shared.words.set_pending(port, self.vcpu_info(vcpu));
            (raised, table.polling())
        };
        if raised.upcall {
            self.shared.kick.kick(vcpu);
        }
        if raised.newly_pending && polling != 0 {
            // A poller may wait for a port that is masked. It looks at its ports itself, so one kick too many does no harm.
            for poller in (0..VCPUS_MAX).filter(|poller| polling & (1 << poller) != 0) {
                self.shared.kick.kick(poller);
            }
        }
    }
}

impl BackendChannel {
    /// The guest's number for it.
    #[must_use]
    pub fn port(&self) -> EvtchnPort {
        self.port
    }

    /// Sends the guest an event; nothing happens when the guest has closed its port.
    pub fn notify(&self) {
        let vcpu = self.channels.table().bound_vcpu(self.port, self.binding);
        if let Some(vcpu) = vcpu {
            self.channels.set_pending(self.port, vcpu);
        }
    }
}

impl Drop for BackendChannel {
    fn drop(&mut self) {
        let unbound = self.channels.table().unbind_backend(self.port, self.binding);
        drop(unbound);
    }
}

impl fmt::Debug for EventChannels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventChannels").field("vcpus", &self.shared.vcpu_infos.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for BackendChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendChannel").field("port", &self.port).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
