//! A virtual machine: its memslots and its vcpus.

use std::os::fd::RawFd;

use kvm_bindings::{
    CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};

use crate::memory::{GuestMemory, Region};

/// Why KVM refused.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The API is not the one that has been stable since Linux 2.6.22.
    #[error("kvm has API version {0}, need {KVM_API_VERSION}")]
    Version(i32),
    /// A capability that the VMM cannot do without.
    #[error("kvm lacks the capability {0}")]
    Capability(&'static str),
    /// An ioctl failed.
    #[error("kvm refused to {what}")]
    Ioctl {
        /// What was asked.
        what: &'static str,
        /// What it said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM_SET_MSRS stopped before the end.
    #[error("kvm set {set} of {wanted} model-specific registers")]
    Msrs {
        /// How many it took.
        set: usize,
        /// How many there were.
        wanted: usize,
    },
    /// KVM ran the probe to another end than its port access.
    #[error("kvm ended the probe's code with {0}")]
    Probe(String),
}

/// Names what an ioctl was for.
pub(super) fn ioctl<T>(what: &'static str, result: Result<T, kvm_ioctls::Error>) -> Result<T, KvmError> {
    result.map_err(|source| KvmError::Ioctl { what, source })
}

/// The memslots.
const RAM_SLOT: u32 = 0;
const SHIM_SLOT: u32 = 1;

/// `_IOW(KVMIO, 0x46, struct kvm_userspace_memory_region)`.
const KVM_SET_USER_MEMORY_REGION: u64 = 0x4020_ae46;
/// `_IOW(KVMIO, 0x42, struct kvm_dirty_log)`.
const KVM_GET_DIRTY_LOG: u64 = 0x4010_ae42;
/// The ioctls of a machine that runs. Changing a memslot gives who has broken into this process nothing new: all that it could map
/// into the guest is this process' memory, which he has.
pub const VM_RUN_TIME_IOCTLS: [u64; 2] = [KVM_SET_USER_MEMORY_REGION, KVM_GET_DIRTY_LOG];

/// Whether KVM notes which pages the guest writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logging {
    /// It does; the first write to each page costs a fault.
    On,
    /// It does not.
    Off,
}

/// A virtual machine. Closing it ends its vcpus.
pub struct Vm {
    kvm: Kvm,
    fd: VmFd,
    /// The memslots point into these mappings.
    memory: GuestMemory,
}

impl Vm {
    /// A machine with this memory. `kvm_fd` is `/dev/kvm`, owned by the caller and left open.
    pub fn new(kvm_fd: RawFd, memory: &GuestMemory) -> Result<Vm, KvmError> {
        // SAFETY:
        // - The descriptor is open: it was handed in for this and is duplicated, so that closing ours leaves the caller's.
        // - from_raw_fd takes ownership of the duplicate, which nothing else holds.
        let kvm = unsafe {
            let duplicate = libc::fcntl(kvm_fd, libc::F_DUPFD_CLOEXEC, 0);
            if duplicate < 0 {
                let source = kvm_ioctls::Error::last();
                return Err(KvmError::Ioctl { what: "hand over /dev/kvm", source });
            }
            <Kvm as std::os::fd::FromRawFd>::from_raw_fd(duplicate)
        };
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(KvmError::Version(version));
        }
        for (capability, name) in
            [(Cap::SyncRegs, "KVM_CAP_SYNC_REGS"), (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT")]
        {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Capability(name));
            }
        }
        let fd = ioctl("create a virtual machine", kvm.create_vm())?;
        set_memslot(&fd, RAM_SLOT, memory.ram(), Logging::Off)?;
        if let Some(shim) = memory.shim() {
            set_memslot(&fd, SHIM_SLOT, shim, Logging::Off)?;
        }
        Ok(Vm { kvm, fd, memory: memory.clone() })
    }

    /// A new vcpu.
    pub(super) fn create_vcpu(&self, id: u32) -> Result<VcpuFd, KvmError> {
        ioctl("create a vcpu", self.fd.create_vcpu(u64::from(id)))
    }

    /// Has KVM note which pages of RAM the guest writes, or not any more. The vcpus may run meanwhile.
    ///
    /// # Errors
    /// KVM refused.
    pub fn log_ram_writes(&self, logging: Logging) -> Result<(), KvmError> {
        set_memslot(&self.fd, RAM_SLOT, self.memory.ram(), logging)
    }

    /// Which pages of RAM the guest has written since this was last asked: a bit each. They are noted anew when they are written again.
    ///
    /// # Errors
    /// KVM refused, as it does while it notes none.
    pub fn ram_writes(&self) -> Result<Vec<u64>, KvmError> {
        let bytes = self.memory.ram().bytes() as usize;
        ioctl("tell which pages were written", self.fd.get_dirty_log(RAM_SLOT, bytes))
    }

    /// What CPUID may say here.
    pub(super) fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        ioctl("tell its CPUID", self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES))
    }
}

/// Makes a memslot, or changes the flags of one.
fn set_memslot(vm: &VmFd, slot: u32, region: &Region, logging: Logging) -> Result<(), KvmError> {
    let memslot = kvm_userspace_memory_region {
        slot,
        flags: match logging {
            Logging::On => KVM_MEM_LOG_DIRTY_PAGES,
            Logging::Off => 0,
        },
        guest_phys_addr: region.base().0,
        memory_size: region.bytes(),
        userspace_addr: region.host_addr(),
    };
    // SAFETY:
    // - The range is a live mapping of exactly this length, kept by `Vm::memory` as long as the machine is.
    // - Guest addresses of the two slots do not overlap: RAM ends below SHIM_GPA.
    ioctl("map guest memory", unsafe { vm.set_user_memory_region(memslot) })
}
