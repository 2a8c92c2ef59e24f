//! Where a vcpu stands still: for an event (SCHEDOP_block, SCHEDOP_poll), until it is up, until others have flushed.
//!
//! Its thread sleeps each time, so that a host with fewer cores than the domain has vcpus runs another one meanwhile.

use std::time::{Duration, Instant};

use super::{End, Running};
use crate::memory::EvtchnPort;

/// A vcpu that waits looks at its state at least this often, should a kick be lost.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How often a vcpu looks whether others have flushed, which tell it when they leave the guest, but not when they flush by themselves.
const FLUSH_LOOK_EVERY: Duration = Duration::from_micros(200);
/// Looks after which a vcpu is taken out of the guest once more: it may have been a few instructions from there.
const LOOKS_PER_KICK: u32 = 10;
/// A vcpu that does not leave the guest for so long never will: its area was written over.
const FLUSH_MAX: Duration = Duration::from_secs(30);

impl Running {
    fn until(&self, deadline: u64) -> Duration {
        match deadline {
            0 => WAIT_MAX,
            deadline => {
                Duration::from_nanos(deadline.saturating_sub(self.it.shared.clock.now_ns())).min(WAIT_MAX)
            }
        }
    }

    /// Has the run loop to be asked before this vcpu goes on?
    pub(super) fn called_off(&self) -> bool {
        self.it.requests.pending() || !self.it.shared.vcpus.is_up(self.it.index as usize)
    }

    /// SCHEDOP_block: until an upcall is pending.
    pub(super) fn block(&mut self) {
        let vcpu = self.it.index as usize;
        loop {
            self.check_timer();
            let done = || self.it.shared.events.upcall_pending(vcpu) || self.called_off();
            if done() {
                return;
            }
            let timeout = self.until(self.it.area.get(crate::shim::Field::Deadline));
            self.it.kicks.0[vcpu].wait(timeout, done);
        }
    }

    /// SCHEDOP_poll: until one of the ports is pending, or an upcall that the vcpu would take.
    pub(super) fn poll(&mut self, ports: &[EvtchnPort], deadline: u64) {
        let vcpu = self.it.index as usize;
        self.it.shared.events.poll_begin(vcpu);
        loop {
            self.check_timer();
            let events = &self.it.shared.events;
            let over = deadline != 0 && self.it.shared.clock.now_ns() >= deadline;
            let done = || {
                ports.iter().any(|port| events.is_pending(*port))
                    || (events.upcall_pending(vcpu) && !events.upcall_masked(vcpu))
                    || self.called_off()
            };
            if over || done() {
                break;
            }
            let timer = self.it.area.get(crate::shim::Field::Deadline);
            self.it.kicks.0[vcpu].wait(self.until(deadline).min(self.until(timer)), done);
        }
        self.it.shared.events.poll_end(vcpu);
    }

    /// VCPUOP_up of another one ends it. False: the domain has ended.
    pub(super) fn wait_until_up(&mut self) -> bool {
        let vcpu = self.it.index as usize;
        while !self.it.shared.vcpus.is_up(vcpu) {
            if self.it.requests.pending() && !self.stand_still() {
                return false;
            }
            let done = || self.it.shared.vcpus.is_up(vcpu) || self.it.requests.pending();
            self.it.kicks.0[vcpu].wait(WAIT_MAX, done);
        }
        true
    }

    /// Takes these vcpus out of the guest, and waits until each has flushed or is about to before its next instruction there.
    pub(super) fn flush(&mut self, mask: u64) -> Option<End> {
        let own = self.it.index as usize;
        let vcpus = self.it.shared.vcpus.clone();
        self.it.area.answer(0);
        let tickets = vcpus.flush_tickets(mask & !(1 << own));
        vcpus.flush_begin(own);
        let mut looks = 0;
        let mut begun = Instant::now();
        let mut end = None;
        while tickets.iter().any(|ticket| vcpus.must_flush(*ticket)) {
            if self.it.requests.pending() {
                if !self.stand_still() {
                    end = Some(End::Stopped);
                    break;
                }
                begun = Instant::now();
            }
            if begun.elapsed() > FLUSH_MAX {
                end = Some(End::Crash("a vcpu does not leave the guest to flush".to_owned()));
                break;
            }
            if looks % LOOKS_PER_KICK == 0 {
                let late = tickets.iter().filter(|ticket| vcpus.must_flush(**ticket));
                late.for_each(|(vcpu, _)| vcpus.kick(*vcpu));
            }
            looks += 1;
            let done = || !tickets.iter().any(|ticket| vcpus.must_flush(*ticket));
            self.it.kicks.0[own].wait(FLUSH_LOOK_EVERY, done);
        }
        vcpus.flush_end(own);
        end
    }
}
