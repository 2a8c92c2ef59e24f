//! What KVM holds of a vcpu, saved and loaded again. All else of it lies in the shim's memory.

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xsave};
use serde::{Deserialize, Serialize};

use super::vcpu::Vcpu;
use super::vm::{KvmError, ioctl};

/// A vcpu's registers, as KVM has them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVcpu {
    regs: kvm_regs,
    sregs: kvm_sregs,
    events: kvm_vcpu_events,
    xsave: kvm_xsave,
}

impl Vcpu {
    /// Everything, from the vcpu's own thread. What KVM has to finish after its last exit is finished first; nothing of the guest runs.
    ///
    /// # Errors
    /// KVM refused.
    pub fn save(&mut self) -> Result<SavedVcpu, KvmError> {
        self.settle();
        let xsave = ioctl("tell its floating-point registers", self.fd().get_xsave())?;
        let page = self.fd().sync_regs();
        Ok(SavedVcpu { regs: page.regs, sregs: page.sregs, events: page.events, xsave })
    }

    /// Makes a new vcpu what the saved one was.
    ///
    /// # Errors
    /// KVM refused: saved on another processor, or changed since.
    pub fn load(&mut self, saved: &SavedVcpu) -> Result<(), KvmError> {
        // SAFETY: the state is of the default size, 4096 bytes: no feature of a larger one was asked for (KVM_CAP_XSAVE2, AMX).
        ioctl("set its floating-point registers", unsafe { self.fd().set_xsave(&saved.xsave) })?;
        ioctl("set its special registers", self.fd().set_sregs(&saved.sregs))?;
        ioctl("set its registers", self.fd().set_regs(&saved.regs))?;
        ioctl("set its pending exceptions", self.fd().set_vcpu_events(&saved.events))?;
        self.note_registers(saved.regs, saved.sregs, saved.events);
        Ok(())
    }
}
