//! Evidence: a domain's memory and disks as a case that anybody can verify, offline.
//!
//! ```text
//! pause ─▶ copy_paused (RAM, layers) ─▶ unpause ─▶ finish ─▶ STATE/evidence/<case>/
//!                                                             memory.elf memory.lime disk-<name>.raw disk-<name>.qcow2
//!                                                             linux-<build id>.json.xz volatility.json
//!                                                             manifest.json manifest.sig custody.jsonl
//! ```
//!
//! A case appears whole or not at all: it is written under a hidden name, synced, and then renamed.

mod acquire;
pub mod archive;
mod canonical;
pub mod case;
pub mod custody;
mod digest;
mod disk;
pub mod elf_core;
pub mod lime;
mod manifest;
pub mod qcow2;
mod search;
mod signature;
mod sparse;
mod vcpu;
mod verify;
pub mod vmcoreinfo;
pub mod volatility;

pub use acquire::{
    AcquireError, Acquisition, CaseOptions, DiskReader, DiskSource, Frozen, OpenDisk, OpenedDisk, Progress,
    copied, copy_paused, finish, write_core,
};
pub use elf_core::RamRange;
pub use manifest::{DomainInfo, Item, Manifest, ManifestError, VmcoreinfoHint};
pub use search::{Hit, NEEDLE_BYTES_MAX, SearchError, search};
pub use signature::{CaseKey, KeyError, SignatureVerdict};
pub use vcpu::VcpuRegs;
pub use verify::{ItemVerdict, VerifyReport, verify};
