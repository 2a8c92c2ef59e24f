//! The VMM: Xen PV domains over KVM.

pub mod config;
pub mod grant;
pub mod memory;
pub mod ring;
