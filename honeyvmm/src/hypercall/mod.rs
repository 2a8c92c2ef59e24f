//! Hypercalls that leave the guest: one screen of dispatch, one signature. The hot ones are answered in the shim (`shim/hypercall.c`).
//!
//! Numbers and structures are those of Xen's public headers, the 64-bit layout. Nothing here knows KVM.

mod cpu;
mod event_channel;
mod grant_table;
mod memory;
mod platform;
mod sched;
mod vcpu_op;

use std::sync::Arc;

pub use cpu::{CpuTables, DR6_INIT};

use crate::clock::Clock;
use crate::errno::Errno;
use crate::evtchn::EventChannels;
use crate::memory::{EvtchnPort, Gpa, GuestMemory, Gva};
use crate::paging::{AddressSpace, PageFault};
use crate::shim::{Area, Field, Layout};
use crate::vcpus::Vcpus;

/// Why a domain shut down, as SCHEDOP_shutdown names it (xen/sched.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownReason {
    /// Powered off.
    Poweroff,
    /// Wants to start again.
    Reboot,
    /// Ready to be saved.
    Suspend,
    /// Its kernel panicked.
    Crash,
    /// Its watchdog rang.
    Watchdog,
}

/// What the vcpu does after a hypercall, beside going on with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// Nothing more.
    Continue,
    /// Wait for an event.
    Block,
    /// Wait until one of these ports is pending, masked or not, or until this system time, in ns; 0: without limit.
    Poll(Vec<EvtchnPort>, u64),
    /// Let other threads of the host run.
    Yield,
    /// The timer's deadline changed.
    SetTimer,
    /// The domain is at its end.
    Shutdown(ShutdownReason),
}

/// Takes what the guest writes with HYPERVISOR_console_io, before it has a console ring.
pub trait EarlyConsole: Send + Sync {
    /// Bytes as the guest wrote them, at most a page.
    fn write(&self, bytes: &[u8]);
}

/// What the hypercalls of all vcpus share.
#[derive(Clone)]
pub struct Shared {
    /// RAM and shim.
    pub memory: GuestMemory,
    /// Addresses.
    pub layout: Layout,
    /// Event channels.
    pub events: EventChannels,
    /// The vcpus, as they see each other.
    pub vcpus: Arc<Vcpus>,
    /// System time.
    pub clock: Clock,
    /// Where early output goes.
    pub early_console: Arc<dyn EarlyConsole>,
    /// The domain's UUID, for XENVER_guest_handle.
    pub uuid: [u8; 16],
}

/// One vcpu's view while it makes a call.
pub struct Caller<'a> {
    /// What all share.
    pub shared: &'a Shared,
    /// This vcpu's area.
    pub area: &'a Area,
    /// Its number.
    pub vcpu: u32,
}

/// A result, and what comes after.
pub type Outcome = Result<(i64, After), Errno>;

const fn done(value: i64) -> Outcome {
    Ok((value, After::Continue))
}

impl From<PageFault> for Errno {
    fn from(_: PageFault) -> Errno {
        Errno::EFAULT
    }
}

impl From<crate::memory::MemoryError> for Errno {
    fn from(_: crate::memory::MemoryError) -> Errno {
        Errno::EINVAL
    }
}

impl Caller<'_> {
    /// The guest kernel's address space.
    fn space(&self) -> AddressSpace<'_> {
        AddressSpace::new(&self.shared.memory, Gpa(self.area.get(Field::KernelCr3)))
    }

    fn read<const N: usize>(&self, at: u64) -> Result<[u8; N], Errno> {
        Ok(self.space().read_array(Gva(at))?)
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), Errno> {
        Ok(self.space().write(Gva(at), data)?)
    }
}

/// Does what the guest asks. An error becomes the negative number that Xen would return, and has changed nothing.
pub fn dispatch(caller: &mut Caller<'_>, nr: u64, args: &[u64; 6]) -> (i64, After) {
    let [a, b, c, ..] = *args;
    let outcome = match nr {
        0 => cpu::set_trap_table(caller, a),
        2 => cpu::set_gdt(caller, a, b),
        7 => Err(Errno::ENOSYS), // platform_op: for domain 0
        8 => cpu::set_debugreg(caller, a, b),
        9 => cpu::get_debugreg(caller, a),
        10 => cpu::update_descriptor(caller, a, b),
        12 => memory::memory_op(caller, a, b),
        15 => sched::set_timer_op(caller, a),
        17 => platform::xen_version(caller, a, b),
        18 => platform::console_io(caller, a, b, c),
        20 => grant_table::grant_table_op(caller, a, b, c),
        21 => done(0), // vm_assist: what Linux asks for concerns page tables that Xen would guard
        24 => vcpu_op::vcpu_op(caller, a, b, c),
        28 => done(0), // nmi_op: no NMI is ever sent
        29 => sched::sched_op(caller, a, b),
        30 => cpu::callback_op(caller, a, b),
        32 => event_channel::event_channel_op(caller, a, b),
        33 => platform::physdev_op(a),
        _ => Err(Errno::ENOSYS),
    };
    outcome.unwrap_or_else(|errno| (errno.hypercall_result(), After::Continue))
}

/// Little-endian words out of a structure of the guest's.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
