//! The VMM: Xen PV domains over KVM.
