//! The state of a saved domain, as a file may hold it: what is read is refused, or becomes a store and channels that work.
#![no_main]

use std::sync::Arc;

use honeyvmm::evtchn::{ChannelsState, EventChannels, Kick};
use honeyvmm::machine::DomainState;
use honeyvmm::memory::{EvtchnPort, Gpa, GuestMemory, PAGE_SIZE, Region};
use honeyvmm::shim::{Backend, Layout};
use honeyvmm::xenstore::{StoreState, Xenstore};

const VCPUS: u32 = 2;

struct Nothing;

impl Kick for Nothing {
    fn kick(&self, _vcpu: usize) {}
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(state) = serde_json::from_slice::<DomainState>(bytes) {
        let _ = state.check(Backend::Pvm, &Layout { ram_bytes: 1 << 20, vcpus: VCPUS });
    }
    if let Ok(state) = serde_json::from_slice::<StoreState>(bytes)
        && let Ok(store) = Xenstore::restore(1, &state)
    {
        let _ = store.write("/local/domain/1/name", "decoy");
        let _ = store.dump();
        let _ = store.save();
    }
    if let Ok(state) = serde_json::from_slice::<ChannelsState>(bytes) {
        let memory = GuestMemory::from(Region::anonymous(Gpa(0), 4 * PAGE_SIZE).expect("four pages"));
        let page = Gpa(PAGE_SIZE);
        if let Ok(channels) =
            EventChannels::restore(memory, page, VCPUS as usize, Arc::new(Nothing), &state)
        {
            (0..64).for_each(|port| channels.raise(EvtchnPort(port)));
            (0..VCPUS as usize).for_each(|vcpu| channels.raise_virq(vcpu, 0));
            let _ = channels.reset();
            let _ = channels.save();
        }
    }
});
