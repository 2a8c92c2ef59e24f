use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::memory::Region;

const PAGE: Gpa = Gpa(0x3000);

/// The frontend's half, as Linux' `SHARED_RING_INIT` leaves it.
fn shared_page() -> GuestMemory {
    let memory = GuestMemory::from(Region::anonymous(Gpa(0), 8 * PAGE_SIZE).unwrap());
    memory.write_u32(PAGE.offset(REQ_EVENT), 1).unwrap();
    memory.write_u32(PAGE.offset(RSP_EVENT), 1).unwrap();
    memory
}

fn put_requests(memory: &GuestMemory, layout: RingLayout, from: u32, to: u32) {
    for index in from..to {
        let slot = u64::from(index % layout.entries) * u64::from(layout.entry_bytes);
        memory.write_u32(PAGE.offset(ENTRIES + slot), index).unwrap();
    }
    memory.store_u32(PAGE.offset(REQ_PROD), to, SeqCst).unwrap();
}

#[test]
fn requests_come_out_in_order_and_responses_go_in_their_place() {
    for layout in [BLKIF, NETIF_TX, NETIF_RX] {
        let memory = shared_page();
        let mut ring = ServerRing::attach(memory.clone(), PAGE, layout).unwrap();
        let mut next = 0;
        for end in [1, layout.entries, layout.entries + 3, 2 * layout.entries + 3] {
            put_requests(&memory, layout, next, end);
            while let Some(request) = ring.take_request::<4>().unwrap() {
                assert_eq!(u32::from_le_bytes(request), next);
                ring.push_response(&[0x5a; 4]).unwrap();
                next += 1;
            }
            assert_eq!(next, end);
            let _ = ring.publish().unwrap();
            assert_eq!(memory.read_u32(PAGE.offset(RSP_PROD)).unwrap(), end);
        }
        assert_eq!(memory.read_u32(PAGE.offset(ENTRIES)).unwrap(), 0x5a5a_5a5a);
    }
}

#[test]
fn the_entries_fit_the_page() {
    for layout in [BLKIF, NETIF_TX, NETIF_RX] {
        assert!(layout.entries.is_power_of_two());
        assert!(ENTRIES + u64::from(layout.entries * layout.entry_bytes) <= PAGE_SIZE);
    }
}

#[test]
fn a_producer_further_ahead_than_the_ring_is_an_error_and_nothing_is_taken() {
    for lie in [33, 1000, u32::MAX, 0x8000_0000] {
        let memory = shared_page();
        let mut ring = ServerRing::attach(memory.clone(), PAGE, BLKIF).unwrap();
        memory.write_u32(PAGE.offset(REQ_PROD), lie).unwrap();
        assert!(matches!(ring.take_request::<4>(), Err(RingError::RequestOverflow { .. })), "{lie}");
        assert!(ring.final_check().is_err());
        assert_eq!(ring.unanswered(), 0);
        assert!(ServerRing::attach(memory, PAGE, BLKIF).is_err());
    }
}

#[test]
fn a_producer_that_steps_back_is_an_error() {
    let memory = shared_page();
    let mut ring = ServerRing::attach(memory.clone(), PAGE, BLKIF).unwrap();
    put_requests(&memory, BLKIF, 0, 3);
    ring.take_request::<4>().unwrap().unwrap();
    ring.take_request::<4>().unwrap().unwrap();
    memory.write_u32(PAGE.offset(REQ_PROD), 1).unwrap();
    assert!(matches!(ring.pending_requests(), Err(RingError::RequestOverflow { .. })));
}

#[test]
fn unanswered_requests_hold_their_entries() {
    let memory = shared_page();
    let mut ring = ServerRing::attach(memory.clone(), PAGE, BLKIF).unwrap();
    put_requests(&memory, BLKIF, 0, 32);
    for _ in 0..32 {
        ring.take_request::<4>().unwrap().unwrap();
    }
    memory.write_u32(PAGE.offset(REQ_PROD), 33).unwrap();
    assert!(ring.take_request::<4>().is_err());
}

#[test]
fn a_response_without_a_request_is_refused() {
    let memory = shared_page();
    let mut ring = ServerRing::attach(memory.clone(), PAGE, NETIF_TX).unwrap();
    assert!(matches!(ring.push_response(&[0; 4]), Err(RingError::NoEntry { .. })));
    put_requests(&memory, NETIF_TX, 0, 1);
    ring.take_request::<12>().unwrap().unwrap();
    assert!(matches!(ring.push_response(&[0; 13]), Err(RingError::NoEntry { .. })));
    ring.push_response(&[0; 4]).unwrap();
    assert!(ring.push_response(&[0; 4]).is_err());
}

#[test]
fn the_frontend_is_notified_only_when_its_event_index_is_passed() {
    let memory = shared_page();
    let mut ring = ServerRing::attach(memory.clone(), PAGE, BLKIF).unwrap();
    put_requests(&memory, BLKIF, 0, 3);
    let mut answer = |rsp_event: u32| {
        memory.write_u32(PAGE.offset(RSP_EVENT), rsp_event).unwrap();
        ring.take_request::<4>().unwrap().unwrap();
        ring.push_response(&[0; 4]).unwrap();
        ring.publish().unwrap()
    };
    assert_eq!(answer(1), Notify::Needed);
    assert_eq!(answer(3), Notify::HeldOff);
    assert_eq!(answer(3), Notify::Needed);
}

#[test]
fn the_final_check_asks_for_an_event_and_sees_what_came_meanwhile() {
    let memory = shared_page();
    let mut ring = ServerRing::attach(memory.clone(), PAGE, NETIF_RX).unwrap();
    assert!(!ring.final_check().unwrap());
    assert_eq!(memory.read_u32(PAGE.offset(REQ_EVENT)).unwrap(), 1);
    put_requests(&memory, NETIF_RX, 0, 2);
    assert!(ring.final_check().unwrap());
    assert!(!ring.await_requests(5).unwrap());
    assert_eq!(memory.read_u32(PAGE.offset(REQ_EVENT)).unwrap(), 5);
}

#[test]
fn peeking_leaves_the_request() {
    let memory = shared_page();
    let mut ring = ServerRing::attach(memory.clone(), PAGE, NETIF_TX).unwrap();
    put_requests(&memory, NETIF_TX, 0, 2);
    assert_eq!(ring.peek_request::<4>(1).unwrap(), Some([1, 0, 0, 0]));
    assert_eq!(ring.peek_request::<4>(2).unwrap(), None);
    assert_eq!(ring.take_request::<4>().unwrap(), Some([0; 4]));
}

#[test]
fn a_ring_whose_indices_wrap_goes_on() {
    let memory = shared_page();
    let start = u32::MAX - 1;
    for index in [REQ_PROD, RSP_PROD] {
        memory.write_u32(PAGE.offset(index), start).unwrap();
    }
    let mut ring = ServerRing::attach(memory.clone(), PAGE, BLKIF).unwrap();
    memory.write_u32(PAGE.offset(REQ_PROD), 3).unwrap();
    for _ in 0..5 {
        ring.take_request::<4>().unwrap().unwrap();
        ring.push_response(&[0; 4]).unwrap();
    }
    assert_eq!(ring.take_request::<4>().unwrap(), None);
    let _ = ring.publish().unwrap();
    assert_eq!(memory.read_u32(PAGE.offset(RSP_PROD)).unwrap(), 3);
}

#[test]
fn a_ring_outside_memory_or_across_pages_is_refused() {
    for page in [0x3001, 8 * PAGE_SIZE, u64::MAX - 0xfff] {
        assert!(matches!(ServerRing::attach(shared_page(), Gpa(page), BLKIF), Err(RingError::BadPage(_))));
    }
}
