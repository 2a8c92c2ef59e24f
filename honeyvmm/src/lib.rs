//! The VMM: Xen PV domains over KVM.

pub mod config;
pub mod disk;
pub mod errno;
pub mod evtchn;
pub mod grant;
pub mod memory;
pub mod ring;
pub mod xenbus;
