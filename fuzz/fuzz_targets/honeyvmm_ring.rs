//! A shared ring whose page holds anything: the server side takes at most one ring's worth and never panics.
#![no_main]

use honeyvmm::memory::{Access, Gpa, GuestMemory, PAGE_SIZE, Region};
use honeyvmm::ring::{BLKIF, NETIF_RX, NETIF_TX, ServerRing};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let memory = GuestMemory::from(Region::anonymous(Gpa(0), PAGE_SIZE).expect("one page"));
    let page = &bytes[..bytes.len().min(PAGE_SIZE as usize)];
    memory.write(Gpa(0), page).expect("it fits the page");
    for layout in [BLKIF, NETIF_TX, NETIF_RX] {
        let Ok(mut ring) = ServerRing::attach(memory.clone(), Gpa(0), layout) else { continue };
        let mut taken = 0;
        while let Ok(Some(_)) = ring.take_request::<8>() {
            taken += 1;
            assert!(taken <= ring.entries());
        }
        for _ in 0..taken {
            ring.push_response(&[0; 4]).expect("each request has an entry");
        }
        assert!(ring.push_response(&[0; 4]).is_err());
        let _ = ring.publish();
        memory.write(Gpa(0), page).expect("it fits the page");
    }
});
