//! The VMM: Xen PV domains over KVM.

pub mod config;
pub mod memory;
