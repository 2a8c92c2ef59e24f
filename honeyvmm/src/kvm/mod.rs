//! Everything that knows KVM: the virtual machine, a vcpu, and the probe that tells the backends apart.

mod cpu_state;
mod probe;
mod saved;
mod vcpu;
mod vm;

pub use probe::probe;
pub use saved::SavedVcpu;
pub use vcpu::{Exit, Injected, RUN_TIME_IOCTLS, Stop, Vcpu};
pub use vm::{KvmError, Logging, VM_RUN_TIME_IOCTLS, Vm};
