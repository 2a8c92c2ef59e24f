//! What all devices of a domain have in common: they can be held still and counted, and they tell what a guest did wrong.

use std::error::Error;
use std::sync::Arc;

/// Reports that one connection of a device makes at most: a guest must not flood the sink with its own misdeeds.
pub const REPORTS_MAX: u32 = 16;

/// Takes reports of devices. Called from vcpu threads and workers; it must not wait.
pub trait Reports: Send + Sync {
    /// The guest broke the rules of `device` (`vbd-51712`, `vif-0`): the event `domain.violation`.
    fn violation(&self, device: &str, error: &(dyn Error + 'static));
    /// The host failed the guest (disk full, I/O error): for the operator's log.
    fn host_error(&self, device: &str, error: &(dyn Error + 'static));
}

/// A device from outside, while its frontend uses it.
pub trait Overseen: Send + Sync {
    /// Holds it still while the domain is paused: on return neither guest memory nor its disk or port is touched any more. What the guest asks for waits.
    fn pause(&self);
    /// Goes on with what waits.
    fn unpause(&self);
    /// What went through it so far, for `honeynet info`: names and numbers.
    fn counts(&self) -> Vec<(&'static str, u64)>;
}

/// A device's own way to report, with its limit.
#[derive(Clone)]
pub struct Reporter {
    device: String,
    reports: Arc<dyn Reports>,
    left: u32,
}

impl Reporter {
    /// For one device.
    #[must_use]
    pub fn new(device: String, reports: Arc<dyn Reports>) -> Self {
        Self { device, reports, left: REPORTS_MAX }
    }

    /// Begins to count anew: a frontend has connected.
    pub fn restart(&mut self) {
        self.left = REPORTS_MAX;
    }

    /// Reports a violation, unless there were too many.
    pub fn violation(&mut self, error: &(dyn Error + 'static)) {
        if self.take() {
            self.reports.violation(&self.device, error);
        }
    }

    /// Reports a failure of the host, unless there were too many.
    pub fn host_error(&mut self, error: &(dyn Error + 'static)) {
        if self.take() {
            self.reports.host_error(&self.device, error);
        }
    }

    fn take(&mut self) -> bool {
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}
