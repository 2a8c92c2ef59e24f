//! Both ends in one process: frames through, lies refused, wakeups not lost.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::layout::{DATA_BYTES, DESCRIPTORS, FRAME_BYTES_MAX};
use crate::{FLAG_DATA_VALID, FLAG_NEEDS_CSUM, GsoType, MetaError};

struct Pair {
    backend: Endpoint,
    switch: Endpoint,
    memory: File,
}

fn copies(fds: &PortFds) -> PortFds {
    let copy = |fd: &OwnedFd| fd.try_clone().unwrap();
    PortFds {
        memory: copy(&fds.memory),
        to_switch: copy(&fds.to_switch),
        from_switch: copy(&fds.from_switch),
    }
}

fn pair() -> Pair {
    let fds = Port::create().unwrap();
    let memory = File::from(fds.memory.try_clone().unwrap());
    let backend = Endpoint::attach(copies(&fds), Side::Backend).unwrap();
    Pair { backend, switch: Endpoint::attach(fds, Side::Switch).unwrap(), memory }
}

fn plain() -> FrameMeta {
    FrameMeta::default()
}

fn signalled(endpoint: &Endpoint) -> bool {
    let fd = endpoint.wait_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

#[test]
fn frames_arrive_in_order_with_their_fields_both_ways() {
    let mut p = pair();
    let gso = FrameMeta {
        flags: FLAG_NEEDS_CSUM | FLAG_DATA_VALID,
        gso_type: GsoType::TcpV4,
        gso_size: 1448,
        hdr_len: 66,
        csum_start: 34,
        csum_offset: 16,
    };
    p.backend.send(&gso, &[&[1; 66], &[2; 40_000]]).unwrap();
    p.backend.send(&plain(), &[&[3; 60]]).unwrap();
    p.switch.send(&plain(), &[&[4; 61]]).unwrap();
    let mut frame = vec![9; 10];
    assert_eq!(p.switch.recv(&mut frame), Ok(Some(gso)));
    assert_eq!(frame.len(), 40_066);
    assert_eq!((frame[65], frame[66]), (1, 2));
    assert_eq!(p.switch.recv(&mut frame), Ok(Some(plain())));
    assert_eq!(frame, [3; 60]);
    assert_eq!(p.switch.recv(&mut frame), Ok(None));
    assert_eq!(p.backend.recv(&mut frame), Ok(Some(plain())));
    assert_eq!(frame, [4; 61]);
}

#[test]
fn a_full_ring_refuses_counts_and_takes_frames_again_once_emptied() {
    for (len, fits) in [(FRAME_BYTES_MAX, DATA_BYTES / FRAME_BYTES_MAX), (60, DESCRIPTORS)] {
        let mut p = pair();
        let big = vec![7; len as usize];
        for _ in 0..fits {
            p.backend.send(&plain(), &[&big]).unwrap();
        }
        assert_eq!(p.backend.send(&plain(), &[&big]), Err(SendError::Full));
        assert_eq!(p.backend.frames_dropped(), 1);
        assert_eq!(p.backend.room_or_wait(len), Ok(false));
        let mut frame = Vec::new();
        assert!(p.switch.recv(&mut frame).unwrap().is_some());
        p.switch.notify().unwrap();
        assert!(signalled(&p.backend));
        assert_eq!(p.backend.room_or_wait(len), Ok(true));
        p.backend.send(&plain(), &[&big]).unwrap();
    }
}

#[test]
fn frames_that_break_the_rules_are_not_sent() {
    let mut p = pair();
    let long = vec![0; FRAME_BYTES_MAX as usize + 1];
    assert_eq!(p.backend.send(&plain(), &[&long]), Err(SendError::Length(long.len())));
    assert_eq!(p.backend.send(&plain(), &[]), Err(SendError::Length(0)));
    let bad = FrameMeta { hdr_len: 61, ..plain() };
    let refused = SendError::Meta(MetaError::HdrLen { hdr_len: 61, len: 60 });
    assert_eq!(p.backend.send(&bad, &[&[0; 60]]), Err(refused));
    assert_eq!(p.switch.recv(&mut Vec::new()), Ok(None));
}

#[test]
fn signals_only_a_side_that_sleeps() {
    let mut p = pair();
    p.backend.send(&plain(), &[&[0; 60]]).unwrap();
    p.backend.notify().unwrap();
    assert!(!signalled(&p.switch));
    assert_eq!(p.switch.prepare_wait(), Ok(false));
    p.switch.recv(&mut Vec::new()).unwrap();
    assert_eq!(p.switch.prepare_wait(), Ok(true));
    p.backend.send(&plain(), &[&[0; 60]]).unwrap();
    p.backend.notify().unwrap();
    assert!(signalled(&p.switch));
    p.switch.clear_wait().unwrap();
    assert!(!signalled(&p.switch));
}

#[test]
fn hostile_words_poison_the_port_and_nothing_else() {
    let ring = RingLayout::TO_SWITCH;
    let descriptor = ring.descriptor(0);
    let table: [(usize, u32, Violation); 6] = [
        (ring.produced(), DESCRIPTORS + 1, Violation::Index { theirs: DESCRIPTORS + 1, ours: 0 }),
        (ring.produced(), u32::MAX, Violation::Index { theirs: u32::MAX, ours: 0 }),
        (descriptor, DATA_BYTES, Violation::Offset(DATA_BYTES)),
        (descriptor + 4, 0, Violation::Length(0)),
        (descriptor + 4, FRAME_BYTES_MAX + 1, Violation::Length(FRAME_BYTES_MAX + 1)),
        (descriptor + 8, 0x3_0000, Violation::Meta(MetaError::GsoType(3))),
    ];
    for (offset, value, expected) in table {
        let mut p = pair();
        p.backend.send(&plain(), &[&[5; 60]]).unwrap();
        p.memory.write_all_at(&value.to_le_bytes(), offset as u64).unwrap();
        let mut frame = Vec::new();
        assert_eq!(p.switch.recv(&mut frame), Err(expected));
        p.memory.write_all_at(&0u32.to_le_bytes(), offset as u64).unwrap();
        assert_eq!(p.switch.recv(&mut frame), Err(expected), "stays poisoned");
        assert_eq!(p.switch.send(&plain(), &[&[0; 60]]), Err(SendError::Broken(expected)));
    }
}

#[test]
fn a_consumer_that_claims_frames_never_sent_is_found_out() {
    let mut p = pair();
    p.memory.write_all_at(&5u32.to_le_bytes(), RingLayout::TO_SWITCH.consumed() as u64).unwrap();
    let violation = Violation::Index { theirs: 5, ours: 0 };
    assert_eq!(p.backend.room_or_wait(60), Err(violation));
    assert_eq!(p.backend.violation(), Some(violation));
}

#[test]
fn a_frame_at_the_areas_end_wraps() {
    let mut p = pair();
    let mut frame = Vec::new();
    for round in 0..40u8 {
        let sent: Vec<u8> = (0..FRAME_BYTES_MAX).map(|i| (i as u8) ^ round).collect();
        p.switch.send(&plain(), &[&sent[..100], &sent[100..]]).unwrap();
        p.backend.recv(&mut frame).unwrap();
        assert!(frame == sent, "round {round}");
    }
}

#[test]
fn only_a_sealed_memfd_with_our_header_is_a_port() {
    let fds = Port::create().unwrap();
    File::from(fds.memory.try_clone().unwrap()).write_all_at(b"x", 0).unwrap();
    assert!(matches!(Endpoint::attach(fds, Side::Switch), Err(AttachError::Header(_))));

    let mut fds = Port::create().unwrap();
    fds.memory = memfd_create("bare", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fds.memory, PORT_BYTES as u64).unwrap();
    assert!(matches!(Endpoint::attach(copies(&fds), Side::Switch), Err(AttachError::NotSealed)));
    ftruncate(&fds.memory, 4096).unwrap();
    assert!(matches!(Endpoint::attach(fds, Side::Switch), Err(AttachError::Size(4096))));
}

#[test]
fn a_backend_started_again_goes_on_where_the_ring_stands() {
    let fds = Port::create().unwrap();
    let mut switch = Endpoint::attach(copies(&fds), Side::Switch).unwrap();
    let mut first = Endpoint::attach(copies(&fds), Side::Backend).unwrap();
    first.send(&plain(), &[&[1; 60]]).unwrap();
    first.send(&plain(), &[&[2; 60]]).unwrap();
    drop(first);
    let mut second = Endpoint::attach(fds, Side::Backend).unwrap();
    assert_eq!(second.send(&plain(), &[&[3; 60]]), Err(SendError::Full));
    let mut frame = Vec::new();
    for expected in [[1; 60], [2; 60]] {
        switch.recv(&mut frame).unwrap();
        assert_eq!(frame, expected);
    }
    second.send(&plain(), &[&[3; 60]]).unwrap();
    switch.recv(&mut frame).unwrap();
    assert_eq!(frame, [3; 60]);
}

/// Bytes of frame `number`: its length and its content follow from the number.
fn numbered(number: u32) -> Vec<u8> {
    let len = 4 + (number.wrapping_mul(2_654_435_761) % 9_000) as usize;
    let mut frame: Vec<u8> = (0..len).map(|i| (i as u32).wrapping_mul(number | 1) as u8).collect();
    frame[..4].copy_from_slice(&number.to_le_bytes());
    frame
}

fn sleep_on(endpoint: &Endpoint) {
    let fd = endpoint.wait_fd();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
    endpoint.clear_wait().unwrap();
}

#[test]
fn two_threads_lose_no_frame_and_no_wakeup() {
    const FRAMES: u32 = 60_000;
    let Pair { mut backend, mut switch, .. } = pair();
    let producer = std::thread::spawn(move || {
        for number in 0..FRAMES {
            let frame = numbered(number);
            while !backend.room_or_wait(frame.len() as u32).unwrap() {
                backend.notify().unwrap();
                sleep_on(&backend);
            }
            backend.send(&plain(), &[&frame]).unwrap();
            if number % 7 == 0 || number == FRAMES - 1 {
                backend.notify().unwrap();
            }
        }
        backend.frames_dropped()
    });
    let mut frame = Vec::new();
    for number in 0..FRAMES {
        while switch.recv(&mut frame).unwrap().is_none() {
            switch.notify().unwrap();
            if switch.prepare_wait().unwrap() {
                sleep_on(&switch);
            }
        }
        assert!(frame == numbered(number), "frame {number} differs");
    }
    assert_eq!(producer.join().unwrap(), 0);
}
