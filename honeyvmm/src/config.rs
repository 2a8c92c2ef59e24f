//! What a domain process is told and handed: plain values and descriptor numbers. It opens nothing by itself.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::shim::Backend;

/// Everything that one domain process needs. The toolstack writes it as JSON; descriptors are inherited.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainConfig {
    /// Name, as in the domain file.
    pub name: String,
    /// Number, from 1; 0 is the host.
    pub domid: u32,
    /// UUID in its usual text form, shown to the guest in xenstore.
    pub uuid: String,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Number of vcpus that the guest is told to use at its start.
    pub vcpus: u32,
    /// Number of vcpus that it may ever have.
    pub maxvcpus: u32,
    /// Kernel command line (`root` and `extra` of the domain file joined).
    pub cmdline: String,
    /// `/dev/kvm`.
    pub kvm_fd: RawFd,
    /// What it was found to be.
    pub backend: Backend,
    /// The kernel: bzImage or ELF.
    pub kernel_fd: RawFd,
    /// The initramfs.
    pub ramdisk_fd: Option<RawFd>,
    /// Of a saved domain, its state (JSON); RAM and the shim's memory hold what they held then, and kernel and initramfs are not looked at.
    pub state_fd: Option<RawFd>,
    /// Of a clone: RAM that random bytes are written over before its first instruction, by guest-physical address and length.
    pub renewed: Vec<(u64, u64)>,
    /// The vcpus do not run until they are told to.
    pub parked: bool,
    /// RAM, of `memory_mib` MiB.
    pub ram_fd: RawFd,
    /// What that is.
    pub ram: RamKind,
    /// Diffs that are read into RAM before it goes on, the oldest first; with `state_fd` only.
    pub ram_diffs: Vec<RamDiff>,
    /// The shim's memory: a memfd of [`crate::shim::Layout::shim_bytes`] bytes.
    pub shim_fd: RawFd,
    /// The eventfd that has the observer look at the trace.
    pub trace_bell_fd: Option<RawFd>,
    /// Where it is noted what is written, when that is asked for: a memfd of [`crate::dirty::DirtyLayout`]'s length.
    pub dirty_fd: Option<RawFd>,
    /// Control socket (JSON lines).
    pub control_fd: RawFd,
    /// Console socket (raw bytes of hvc0).
    pub console_fd: RawFd,
    /// Stream socket to logsink.
    pub events_fd: Option<RawFd>,
    /// So long a domain that crashed stays in memory, to be read, unless it is told to go before.
    pub linger_ms: u64,
    /// Disks, in the order of the domain file.
    pub disks: Vec<DiskConfig>,
    /// Network interfaces, in the order of the domain file.
    pub vifs: Vec<VifConfig>,
    /// The domain's own user and group, taken after start. `None` keeps the caller's (tests without root only).
    pub uid: Option<u32>,
}

/// What a domain's RAM is handed in as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RamKind {
    /// A memfd of the domain's own.
    Own,
    /// The file of a snapshot: it is mapped privately and never written.
    Snapshot,
}

/// Pages of RAM that differ from what lies below.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RamDiff {
    /// The pages, each at its place.
    pub data_fd: RawFd,
    /// Which ones ([`crate::page_map`]).
    pub map_fd: RawFd,
}

/// One disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The name in the guest: `xvda`, `sda1`, `hda`.
    pub vdev: String,
    /// The base image, raw, opened read-only. Opened read-write where there is no layer and the disk is writable.
    pub base_fd: RawFd,
    /// Frozen layers over the image, the lowest first: those of the snapshot that the domain goes on from.
    pub frozen_fds: Vec<RawFd>,
    /// The private copy-on-write layer.
    pub layer_fd: Option<RawFd>,
    /// The guest may not write.
    pub read_only: bool,
}

/// One network interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VifConfig {
    /// MAC address, `00:16:3e:xx:xx:xx`.
    pub mac: String,
    /// The port's memory (`vifport`).
    pub port_fd: RawFd,
    /// Eventfd that the switch waits on.
    pub to_switch_fd: RawFd,
    /// Eventfd that the backend waits on.
    pub from_switch_fd: RawFd,
}
