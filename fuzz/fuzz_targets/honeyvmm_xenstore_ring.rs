//! The xenstore page: requests of any content, indices of any value.
#![no_main]

use std::sync::Arc;

use honeyvmm::evtchn::{Doorbell, EventChannels, Kick};
use honeyvmm::memory::{Access, Gpa, GuestMemory, PAGE_SIZE, Region};
use honeyvmm::xenstore::Xenstore;

struct Nothing;

impl Kick for Nothing {
    fn kick(&self, _vcpu: usize) {}
}

impl Doorbell for Nothing {
    fn ring(&self) {}
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let memory = GuestMemory::from(Region::anonymous(Gpa(0), 2 * PAGE_SIZE).expect("two pages"));
    let events = EventChannels::new(memory.clone(), Gpa(0), 1, Arc::new(Nothing)).expect("one vcpu");
    let channel = events.alloc_backend_port(Arc::new(Nothing)).expect("a free port");
    let store = Xenstore::new(1);
    let page = Gpa(PAGE_SIZE);
    store.attach(memory.clone(), page, channel).expect("the page is in memory");
    for piece in bytes.chunks(1024) {
        let producer = memory.read_u32(page.offset(2052)).expect("in memory");
        for (index, &byte) in (producer..).zip(piece) {
            memory.write_u8(page.offset(u64::from(index & 1023)), byte).expect("in memory");
        }
        memory.write_u32(page.offset(2052), producer.wrapping_add(piece.len() as u32)).expect("in memory");
        let _ = store.service();
        let answers = memory.read_u32(page.offset(2060)).expect("in memory");
        memory.write_u32(page.offset(2056), answers).expect("in memory");
    }
});
