//! Event channels as a saved domain keeps them. Pending and mask bits lie in the domain's memory; what is here is who is bound to what.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::table::{Bound, PortTable};
use super::{EventChannels, EvtchnSetupError, Kick};
use crate::memory::{Gpa, GuestMemory};

/// All channels of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelsState {
    /// Open ports: number, what it is bound to, the vcpu that is notified. A backend's end binds itself again.
    pub(super) ports: Vec<(u32, Bound, u32)>,
    /// Where each vcpu's `vcpu_info` lies.
    pub(super) vcpu_infos: Vec<u64>,
    /// One bit a vcpu: it has moved its `vcpu_info`.
    pub(super) registered: u64,
}

/// A saved table that no domain has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It has other vcpus than the domain.
    #[error("the saved event channels are of {saved} vcpus, the domain has {vcpus}")]
    Vcpus {
        /// In the table.
        saved: usize,
        /// In the domain.
        vcpus: usize,
    },
    /// A port that cannot be.
    #[error("saved port {0} is none")]
    Port(u32),
    /// A `vcpu_info` outside RAM.
    #[error("saved vcpu_info at {0:#x} is not in memory")]
    VcpuInfo(u64),
}

impl EventChannels {
    /// What is bound to what now.
    #[must_use]
    pub fn save(&self) -> ChannelsState {
        let vcpu_infos = self.shared.vcpu_infos.iter().map(|at| at.load(Ordering::Acquire)).collect();
        let table = self.table();
        ChannelsState { ports: table.bound(), vcpu_infos, registered: table.registered() }
    }

    /// The channels of a saved domain, whose memory this is.
    ///
    /// # Errors
    /// As [`EventChannels::new`]; [`StateError`] for a table that does not fit.
    pub fn restore(
        memory: GuestMemory,
        shared_info: Gpa,
        vcpus: usize,
        kick: Arc<dyn Kick>,
        state: &ChannelsState,
    ) -> Result<Self, EvtchnSetupError> {
        let channels = Self::new(memory, shared_info, vcpus, kick)?;
        if state.vcpu_infos.len() != vcpus {
            return Err(StateError::Vcpus { saved: state.vcpu_infos.len(), vcpus }.into());
        }
        for (vcpu, (place, now)) in channels.shared.vcpu_infos.iter().zip(&state.vcpu_infos).enumerate() {
            let moved = state.registered & (1 << vcpu) != 0;
            if moved && !channels.shared.words.in_ram(Gpa(*now), super::VCPU_INFO_BYTES) {
                return Err(StateError::VcpuInfo(*now).into());
            }
            if moved {
                place.store(*now, Ordering::Release);
            }
        }
        *channels.table() = PortTable::restore(vcpus, &state.ports, state.registered)?;
        Ok(channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evtchn::{Doorbell, virq};
    use crate::memory::{PAGE_SIZE, Region};

    struct Nothing;

    impl Kick for Nothing {
        fn kick(&self, _vcpu: usize) {}
    }

    impl Doorbell for Nothing {
        fn ring(&self) {}
    }

    const SHARED_INFO: Gpa = Gpa(0x1000);

    fn memory() -> GuestMemory {
        GuestMemory::from(Region::anonymous(Gpa(0), 8 * PAGE_SIZE).unwrap())
    }

    fn restored(memory: &GuestMemory, state: &ChannelsState) -> Result<EventChannels, EvtchnSetupError> {
        EventChannels::restore(memory.clone(), SHARED_INFO, 2, Arc::new(Nothing), state)
    }

    #[test]
    fn restored_channels_are_those_that_were_saved() {
        let memory = memory();
        let channels = EventChannels::new(memory.clone(), SHARED_INFO, 2, Arc::new(Nothing)).unwrap();
        let backend = channels.alloc_backend_port(Arc::new(Nothing)).unwrap();
        let gap = channels.bind_ipi(0).unwrap();
        let timer = channels.bind_virq(virq::TIMER, 1).unwrap();
        channels.close(gap).unwrap();
        channels.set_vcpu_info(1, Gpa(0x3040)).unwrap();
        let text = serde_json::to_string(&channels.save()).unwrap();
        let again = restored(&memory, &serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again.vcpu_info(1), Gpa(0x3040));
        assert_eq!(again.status(timer), channels.status(timer));
        assert_eq!(again.status(gap), channels.status(gap));
        assert!(again.set_vcpu_info(1, Gpa(0x3080)).is_err(), "it has moved once");
        again.raise_virq(1, virq::TIMER);
        assert!(again.is_pending(timer));
        again.bind_backend(backend.port(), Arc::new(Nothing)).unwrap();
        assert_eq!(again.alloc_unbound(0).unwrap(), gap, "the lowest free port");
    }

    #[test]
    fn a_table_that_no_domain_has_is_refused() {
        let memory = memory();
        let good = ChannelsState {
            ports: vec![(1, Bound::Ipi, 0)],
            vcpu_infos: vec![SHARED_INFO.0, SHARED_INFO.0 + 64],
            registered: 0,
        };
        assert!(restored(&memory, &good).is_ok());
        let ports = [
            vec![(0, Bound::Ipi, 0)],
            vec![(4096, Bound::Ipi, 0)],
            vec![(1, Bound::Ipi, 2)],
            vec![(1, Bound::Virq(24), 0)],
            vec![(1, Bound::Ipi, 0), (1, Bound::Unbound, 0)],
        ];
        for ports in ports {
            let wrong = ChannelsState { ports, ..good.clone() };
            assert!(restored(&memory, &wrong).is_err(), "{wrong:?}");
        }
        let elsewhere =
            ChannelsState { vcpu_infos: vec![SHARED_INFO.0, 1 << 40], registered: 2, ..good.clone() };
        assert!(restored(&memory, &elsewhere).is_err());
        assert!(restored(&memory, &ChannelsState { vcpu_infos: vec![0], ..good }).is_err());
    }
}
