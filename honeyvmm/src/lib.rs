//! The VMM: Xen PV domains over KVM.

pub mod blkback;
pub mod builder;
pub mod clock;
pub mod config;
mod confine;
pub mod console;
mod control;
pub mod cpuid;
pub mod device;
pub mod dirty;
pub mod disk;
pub mod emulate;
pub mod errno;
pub mod evtchn;
pub mod grant;
pub mod hypercall;
pub mod kernel_image;
pub mod kick;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod netback;
pub mod page_map;
pub mod paging;
mod report;
pub mod ring;
mod run;
pub mod run_loop;
mod server;
pub mod shim;
pub mod vcpus;
pub mod xenbus;
pub mod xenstore;

pub use run::{RunError, run};
