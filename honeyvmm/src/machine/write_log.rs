//! The dirty log of a running domain: on, gathered, off.

use std::sync::Arc;

use crate::dirty::{DirtyLog, LogRequest};
use crate::kvm::{KvmError, Logging, Vm};
use crate::memory::Region;

/// Why the log did not do it.
#[derive(Debug, thiserror::Error)]
pub enum WriteLogError {
    /// The domain was built without.
    #[error("the domain has no dirty log")]
    None,
    /// KVM refused.
    #[error("kvm does not log what the guest writes")]
    Kvm(#[from] KvmError),
}

/// Who notes what is written.
#[derive(Clone)]
pub struct WriteLog {
    vm: Arc<Vm>,
    log: Option<DirtyLog>,
}

impl WriteLog {
    /// Of a machine with this RAM, whose writes by this process are noted as well.
    pub fn new(vm: Arc<Vm>, log: Option<DirtyLog>, ram: &Region) -> Self {
        if let Some(log) = &log {
            ram.log_writes(log.ram());
        }
        Self { vm, log }
    }

    /// One step of it; each may be asked for twice.
    pub fn ask(&self, request: LogRequest) -> Result<(), WriteLogError> {
        let log = self.log.as_ref().ok_or(WriteLogError::None)?;
        match request {
            LogRequest::Start => {
                log.switch_on();
                self.vm.log_ram_writes(Logging::On)?;
            }
            LogRequest::Collect => log.ram().merge(&self.vm.ram_writes()?),
            LogRequest::Stop => {
                self.vm.log_ram_writes(Logging::Off)?;
                log.switch_off();
            }
        }
        Ok(())
    }
}
