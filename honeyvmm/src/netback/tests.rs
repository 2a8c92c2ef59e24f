//! A frontend on plain memory at one end, the switch's end of a real port at the other.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use vifport::{FLAG_DATA_VALID, FLAG_NEEDS_CSUM, FrameMeta, GsoType, Port, PortFds, Side};

use super::*;
use crate::device::Reports;
use crate::evtchn::{EventChannels, Kick};
use crate::memory::{Access, EvtchnPort, Gpa, PAGE_SIZE, Region};
use crate::xenbus::{Backend, BackendError};

const RAM_PAGES: u64 = 320;
const TABLE: Gpa = Gpa(0x1000_0000);
const SHARED_INFO: Gpa = Gpa(TABLE.0 + PAGE_SIZE);
const TX: Gpa = Gpa(0x1000);
const RX: Gpa = Gpa(0x2000);
/// Pages that the frontend sends from, and that it receives into.
const SEND_PAGE: u32 = 16;
const RECEIVE_PAGE: u32 = 50;

struct Frontend {
    memory: GuestMemory,
    backend: Netback,
    switch: Endpoint,
    tx_prod: u32,
    rx_prod: u32,
}

fn copies(fds: &PortFds) -> PortFds {
    PortFds {
        memory: fds.memory.try_clone().unwrap(),
        to_switch: fds.to_switch.try_clone().unwrap(),
        from_switch: fds.from_switch.try_clone().unwrap(),
    }
}

const ABLE: [(&str, &str); 6] = [
    ("tx-ring-ref", "1"),
    ("rx-ring-ref", "2"),
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
];

/// Grant `n` is page `n`.
fn frontend(nodes: &[(&str, &str)]) -> Frontend {
    let shim = Region::anonymous(TABLE, 2 * PAGE_SIZE).unwrap();
    let memory = GuestMemory::new(Region::anonymous(Gpa(0), RAM_PAGES * PAGE_SIZE).unwrap(), Some(shim));
    for page in 0..RAM_PAGES as u32 {
        let entry = TABLE.offset(u64::from(page) * 8);
        memory.write_u32(entry.offset(4), page).unwrap();
        memory.write_u16(entry, 1).unwrap();
    }
    for ring in [TX, RX] {
        memory.write_u32(ring.offset(4), 1).unwrap();
        memory.write_u32(ring.offset(12), 1).unwrap();
    }
    let fds = Port::create().unwrap();
    let switch = Endpoint::attach(copies(&fds), Side::Switch).unwrap();
    let backend = Netback::new(Endpoint::attach(fds, Side::Backend).unwrap());
    let mut frontend = Frontend { memory, backend, switch, tx_prod: 0, rx_prod: 0 };
    let (view, _) = frontend.view(nodes);
    let tx = view.map_ring("tx-ring-ref", crate::ring::NETIF_TX).unwrap();
    let rx = view.map_ring("rx-ring-ref", crate::ring::NETIF_RX).unwrap();
    frontend.backend.connect(tx, rx, &view);
    frontend
}

fn slot(page: u32, offset: u16, flags: u16, id: u16, size: u16) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&page.to_le_bytes());
    for (field, place) in [offset, flags, id, size].iter().zip(bytes[4..].chunks_exact_mut(2)) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

fn gso_extra(kind: u8, size: u16) -> [u8; 12] {
    let [low, high] = size.to_le_bytes();
    [1, 0, low, high, kind, 0, 0, 0, 0, 0, 0, 0]
}

fn tcp_v4(payload_bytes: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload_bytes).map(|i| (i / 3) as u8).collect();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    builder.tcp(1000, 80, 7, 512).write(&mut frame, &payload).unwrap();
    frame
}

impl Frontend {
    fn view(&self, nodes: &[(&str, &str)]) -> (FrontendView, EventChannels) {
        let memory = self.memory.clone();
        let events = EventChannels::new(memory.clone(), SHARED_INFO, 1, Arc::new(Quiet)).unwrap();
        let nodes: BTreeMap<_, _> = nodes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let grants = GrantTable::new(memory.clone(), TABLE, 1);
        (FrontendView::new(nodes, memory, grants, events.clone()), events)
    }

    fn put_tx(&mut self, slots: &[[u8; 12]]) {
        for slot in slots {
            let at = TX.offset(64 + u64::from(self.tx_prod % 256) * 12);
            self.memory.write(at, slot).unwrap();
            self.tx_prod += 1;
        }
        self.memory.store_u32(TX, self.tx_prod, SeqCst).unwrap();
    }

    /// Puts a frame into pages of its own, as a chain of requests with ids from 100 on.
    fn put_frame(&mut self, frame: &[u8], flags: u16, extra: Option<[u8; 12]>) {
        let mut slots = Vec::new();
        let last = frame.len().div_ceil(4096) - 1;
        for (index, chunk) in frame.chunks(4096).enumerate() {
            let page = SEND_PAGE + index as u32;
            self.memory.write(Gpa(u64::from(page) * 4096), chunk).unwrap();
            let more = if index < last { 4 } else { 0 };
            let id = 100 + index as u16;
            if index == 0 {
                let extra_flag = if extra.is_some() { 8 } else { 0 };
                slots.push(slot(page, 0, flags | more | extra_flag, id, frame.len() as u16));
                slots.extend(extra);
            } else {
                slots.push(slot(page, 0, more, id, chunk.len() as u16));
            }
        }
        self.put_tx(&slots);
    }

    fn give_pages(&mut self, count: u32) {
        for _ in 0..count {
            let (id, page) = (self.rx_prod as u16, RECEIVE_PAGE + self.rx_prod);
            let at = RX.offset(64 + u64::from(self.rx_prod % 256) * 8);
            self.memory.write_u16(at, id).unwrap();
            self.memory.write_u32(at.offset(4), page).unwrap();
            self.rx_prod += 1;
        }
        self.memory.store_u32(RX, self.rx_prod, SeqCst).unwrap();
    }

    /// Response `index` of the transmit ring: id, status.
    fn sent(&self, index: u64) -> (u16, i16) {
        let at = TX.offset(64 + index * 12);
        (self.memory.read_u16(at).unwrap(), self.memory.read_u16(at.offset(2)).unwrap() as i16)
    }

    fn responses(&self, ring: Gpa) -> u32 {
        self.memory.load_u32(ring.offset(8), SeqCst).unwrap()
    }

    /// Response `index` of the receive ring: flags, status.
    fn received(&self, index: u64) -> (u16, i16) {
        let at = RX.offset(64 + index * 8);
        (self.memory.read_u16(at.offset(4)).unwrap(), self.memory.read_u16(at.offset(6)).unwrap() as i16)
    }

    fn page(&self, page: u32, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.memory.read(Gpa(u64::from(page) * 4096), &mut out).unwrap();
        out
    }

    fn at_switch(&mut self) -> Option<(FrameMeta, Vec<u8>)> {
        let mut frame = Vec::new();
        self.switch.recv(&mut frame).unwrap().map(|meta| (meta, frame))
    }
}

#[test]
fn a_plain_frame_reaches_the_switch_and_is_answered() {
    let mut f = frontend(&ABLE);
    let frame = tcp_v4(100);
    f.put_frame(&frame, 0, None);
    let serviced = f.backend.service();
    assert!(serviced.notify && !serviced.more && serviced.violation.is_none());
    assert_eq!((f.responses(TX), f.sent(0)), (1, (100, 0)));
    assert_eq!(f.at_switch(), Some((FrameMeta::default(), frame)));
    assert_eq!(
        f.memory.read_u16(TABLE.offset(u64::from(SEND_PAGE) * 8)).unwrap(),
        1,
        "the grant is free again"
    );
}

#[test]
fn a_gso_frame_of_many_pieces_keeps_its_bytes_and_gets_its_offsets() {
    let mut f = frontend(&ABLE);
    let frame = tcp_v4(65_000);
    f.put_frame(&frame, 3, Some(gso_extra(1, 1448)));
    assert!(f.backend.service().violation.is_none());
    let expected = FrameMeta {
        flags: FLAG_NEEDS_CSUM | FLAG_DATA_VALID,
        gso_type: GsoType::TcpV4,
        gso_size: 1448,
        hdr_len: 54,
        csum_start: 34,
        csum_offset: 16,
    };
    let (meta, bytes) = f.at_switch().unwrap();
    assert_eq!(meta, expected);
    assert!(bytes == frame);
    assert_eq!(f.responses(TX), 17);
    assert_eq!((f.sent(0), f.sent(1), f.sent(2), f.sent(16)), ((100, 0), (0, 1), (101, 0), (115, 0)));
}

#[test]
fn frames_wait_on_the_ring_while_the_port_is_full() {
    let mut f = frontend(&ABLE);
    let frame = tcp_v4(60_000);
    let fit = (vifport::DATA_BYTES as usize / frame.len()) as u32;
    for _ in 0..fit + 1 {
        f.tx_prod = f.responses(TX);
        f.put_frame(&frame, 0, None);
        let serviced = f.backend.service();
        assert!(!serviced.more && serviced.violation.is_none());
    }
    let done = f.responses(TX);
    assert!(done < f.tx_prod, "the last frame has no response");
    assert_eq!(f.backend.counters().sent_dropped, 0);
    assert!(f.at_switch().is_some());
    f.backend.service();
    assert_eq!(f.responses(TX), f.tx_prod);
    assert_eq!(f.backend.counters().sent_frames, u64::from(fit + 1));
}

#[test]
fn nonsense_is_answered_with_an_error_and_does_not_reach_the_switch() {
    let arp = {
        let mut arp = vec![0xff; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        arp
    };
    let mut f = frontend(&ABLE);
    let short = [slot(SEND_PAGE, 0, 0, 7, 13)];
    let longer_than_the_whole = [slot(SEND_PAGE, 0, 4, 8, 100), slot(SEND_PAGE, 0, 0, 9, 101)];
    let puts: [&dyn Fn(&mut Frontend); 5] = [
        &|f| f.put_frame(&arp, 1, None),
        &|f| f.put_frame(&tcp_v4(10), 0, Some(gso_extra(1, 1448))),
        &|f| f.put_frame(&tcp_v4(10), 3, Some(gso_extra(2, 1448))),
        &|f| f.put_tx(&short),
        &|f| f.put_tx(&longer_than_the_whole),
    ];
    for put in puts {
        put(&mut f);
        let serviced = f.backend.service();
        assert!(serviced.violation.is_none(), "{serviced:?}");
    }
    f.put_tx(&[slot(9999, 0, 0, 10, 60)]);
    assert!(matches!(f.backend.service().violation, Some(Violation::Grant(_))));
    let statuses: Vec<i16> = (0..9).map(|index| f.sent(index).1).collect();
    assert_eq!(statuses, [-1, -1, 1, -1, 1, -1, -1, -1, -1]);
    assert_eq!(f.at_switch(), None);
    assert_eq!(f.backend.counters().sent_dropped, 6);
}

#[test]
fn lies_close_the_rings() {
    let long: Vec<[u8; 12]> = (0..30).map(|id| slot(SEND_PAGE, 0, 4, id, 60)).collect();
    let table: [(&str, Vec<[u8; 12]>); 7] = [
        ("cut off", vec![slot(SEND_PAGE, 0, 4, 0, 100)]),
        ("cut off before its extra", vec![slot(SEND_PAGE, 0, 8, 0, 100)]),
        ("endless", long),
        ("leaves its page", vec![slot(SEND_PAGE, 4090, 0, 0, 60)]),
        ("piece leaves its page", vec![slot(SEND_PAGE, 0, 4, 0, 100), slot(SEND_PAGE, 4090, 0, 0, 60)]),
        ("segments of nothing", vec![slot(SEND_PAGE, 0, 8, 0, 100), gso_extra(1, 0)]),
        ("unknown extra", vec![slot(SEND_PAGE, 0, 8, 0, 100), [2; 12]]),
    ];
    for (what, slots) in table {
        let mut f = frontend(&ABLE);
        f.put_tx(&slots);
        assert!(matches!(f.backend.service().violation, Some(Violation::Chain(_))), "{what}");
        assert_eq!(f.at_switch(), None, "{what}");
        let after = f.backend.service();
        assert!(after.violation.is_none() && !after.more && !after.notify, "{what}");
    }
    for ring in [TX, RX] {
        let mut f = frontend(&ABLE);
        f.switch.send(&FrameMeta::default(), &[&[1; 60]]).unwrap();
        f.memory.store_u32(ring, 300, SeqCst).unwrap();
        assert!(matches!(f.backend.service().violation, Some(Violation::Ring(_))));
    }
}

#[test]
fn a_large_frame_fills_several_pages_with_its_extra_in_between() {
    let mut f = frontend(&ABLE);
    f.give_pages(20);
    let frame = tcp_v4(9000);
    let meta = FrameMeta {
        flags: FLAG_NEEDS_CSUM,
        gso_type: GsoType::TcpV4,
        gso_size: 1400,
        csum_start: 34,
        csum_offset: 16,
        ..Default::default()
    };
    f.switch.send(&meta, &[&frame]).unwrap();
    let serviced = f.backend.service();
    assert!(serviced.notify && serviced.violation.is_none());
    assert_eq!(f.responses(RX), 4);
    assert_eq!(f.received(0), (1 | 2 | 4 | 8, 4096));
    let mut extra = [0; 8];
    f.memory.read(RX.offset(72), &mut extra).unwrap();
    assert_eq!(extra, [1, 0, 0x78, 5, 1, 0, 0, 0]);
    assert_eq!((f.received(2), f.received(3)), ((4, 4096), (0, frame.len() as i16 - 8192)));
    let seen = [f.page(50, 4096), f.page(52, 4096), f.page(53, frame.len() - 8192)].concat();
    assert!(seen == frame);
}

#[test]
fn a_frame_waits_until_the_guest_has_given_enough_pages() {
    let mut f = frontend(&ABLE);
    f.give_pages(2);
    f.switch.send(&FrameMeta::default(), &[&[7; 9000]]).unwrap();
    assert!(!f.backend.service().more);
    assert_eq!(f.responses(RX), 0);
    assert_eq!(f.memory.read_u32(RX.offset(4)).unwrap(), 3, "an event is asked for at the third page");
    f.give_pages(1);
    assert!(f.backend.service().notify);
    assert_eq!(f.responses(RX), 3);
}

#[test]
fn only_tcp_and_udp_come_with_a_blank_checksum() {
    let needs = |csum_start, csum_offset| FrameMeta {
        flags: FLAG_NEEDS_CSUM,
        csum_start,
        csum_offset,
        ..Default::default()
    };
    let mut icmp = Vec::new();
    let echo = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    echo.icmpv4_echo_request(1, 2).write(&mut icmp, &[5; 20]).unwrap();
    let right = icmp.clone();
    icmp[36..38].fill(0);

    let mut f = frontend(&ABLE);
    f.give_pages(4);
    f.switch.send(&needs(34, 16), &[&tcp_v4(5)]).unwrap();
    f.switch.send(&needs(34, 2), &[&icmp]).unwrap();
    f.switch.send(&FrameMeta { flags: FLAG_DATA_VALID, ..Default::default() }, &[&tcp_v4(5)]).unwrap();
    f.switch.send(&FrameMeta::default(), &[&tcp_v4(5)]).unwrap();
    f.backend.service();
    let flags: Vec<u16> = (0..4).map(|index| f.received(index).0).collect();
    assert_eq!(flags, [3, 1, 1, 0]);
    assert_eq!(f.page(51, right.len()), right, "the checksum was filled in here");
}

#[test]
fn a_frontend_that_can_little_gets_what_it_can() {
    let little = [("tx-ring-ref", "1"), ("rx-ring-ref", "2"), ("feature-no-csum-offload", "1")];
    let mut f = frontend(&little);
    f.give_pages(20);
    let whole = tcp_v4(11);
    let mut blank = whole.clone();
    let pseudo = 0x0a00u32 + 1 + 0x0a00 + 2 + 6 + (whole.len() as u32 - 34);
    blank[50..52].copy_from_slice(&(pseudo as u16).to_be_bytes());
    let csum = FrameMeta { flags: FLAG_NEEDS_CSUM, csum_start: 34, csum_offset: 16, ..Default::default() };
    let gso = FrameMeta { gso_type: GsoType::TcpV4, gso_size: 1400, ..csum };
    f.switch.send(&gso, &[&tcp_v4(3000)]).unwrap();
    f.switch.send(&FrameMeta::default(), &[&tcp_v4(5000)]).unwrap();
    f.switch.send(&csum, &[&blank]).unwrap();
    f.backend.service();
    assert_eq!(f.backend.counters().received_dropped, 2);
    assert_eq!(f.received(0), (1, whole.len() as i16));
    assert!(f.page(50, whole.len()) == whole);
}

#[test]
fn a_bad_page_spoils_its_frame_only() {
    let mut f = frontend(&ABLE);
    f.give_pages(3);
    f.memory.write_u32(RX.offset(64 + 8 + 4), 0xffff_ffff).unwrap();
    f.switch.send(&FrameMeta::default(), &[&[7; 5000]]).unwrap();
    f.switch.send(&FrameMeta::default(), &[&[8; 60]]).unwrap();
    assert!(matches!(f.backend.service().violation, Some(Violation::Grant(_))));
    assert_eq!((f.received(0), f.received(1), f.received(2)), ((4, 4096), (0, -1), (0, 60)));
    let counters = f.backend.counters();
    assert_eq!((counters.received_frames, counters.received_dropped), (1, 1));
}

#[test]
fn a_call_moves_its_share_and_says_that_more_waits() {
    let mut f = frontend(&ABLE);
    for _ in 0..FRAMES_PER_CALL_MAX + 5 {
        f.put_frame(&tcp_v4(1), 0, None);
    }
    assert!(f.backend.service().more);
    assert_eq!(f.responses(TX), FRAMES_PER_CALL_MAX);
    assert!(!f.backend.service().more);
    assert_eq!(f.responses(TX), FRAMES_PER_CALL_MAX + 5);
}

struct Quiet;

impl Kick for Quiet {
    fn kick(&self, _vcpu: usize) {}
}

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Reports for Heard {
    fn violation(&self, device: &str, error: &(dyn Error + 'static)) {
        self.0.lock().unwrap().push(format!("{device}: {error}"));
    }

    fn host_error(&self, device: &str, error: &(dyn Error + 'static)) {
        self.0.lock().unwrap().push(format!("{device} failed: {error}"));
    }
}

/// A device with its worker, connected, its frontend's port, and the switch's end.
fn device(f: &mut Frontend) -> (NetDevice, EventChannels, EvtchnPort, Arc<Heard>) {
    let fds = Port::create().unwrap();
    f.switch = Endpoint::attach(copies(&fds), Side::Switch).unwrap();
    f.backend.disconnect();
    let heard = Arc::new(Heard::default());
    let backend = Netback::new(Endpoint::attach(fds, Side::Backend).unwrap());
    let mut device = NetDevice::new(0, backend, heard.clone()).unwrap();
    let (_, events) = f.view(&[]);
    let port = events.alloc_unbound(0).unwrap();
    let nodes = ABLE.iter().copied().chain([("request-rx-copy", "1")]);
    let mut nodes: BTreeMap<_, _> = nodes.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    nodes.insert("event-channel".to_owned(), port.0.to_string());
    let grants = GrantTable::new(f.memory.clone(), TABLE, 1);
    let view = FrontendView::new(nodes, f.memory.clone(), grants, events.clone());
    assert_eq!(device.connect(&view).unwrap(), Nodes::new());
    (device, events, port, heard)
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_device_serves_the_guests_event_at_once_and_the_switchs_by_its_worker() {
    let mut f = frontend(&ABLE);
    let (device, events, port, heard) = device(&mut f);
    f.give_pages(4);
    f.put_frame(&tcp_v4(50), 0, None);
    events.send(port).unwrap();
    assert_eq!(f.responses(TX), 1);
    assert!(f.at_switch().is_some() && events.is_pending(port));
    for count in 1..=4 {
        f.switch.send(&FrameMeta::default(), &[&[count as u8; 60]]).unwrap();
        f.switch.notify().unwrap();
        wait_until("frame is not delivered", || f.responses(RX) == count);
    }
    assert_eq!(device.counters().received_frames, 4);
    assert_eq!(*heard.0.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn a_paused_device_leaves_frames_where_they_are() {
    let mut f = frontend(&ABLE);
    let (device, events, port, _) = device(&mut f);
    device.overseen().pause();
    f.put_frame(&tcp_v4(50), 0, None);
    events.send(port).unwrap();
    assert_eq!((f.responses(TX), f.at_switch()), (0, None));
    device.overseen().unpause();
    assert!(f.at_switch().is_some());
}

#[test]
fn frontends_that_cannot_be_served_are_refused() {
    let f = frontend(&ABLE);
    let fds = Port::create().unwrap();
    let backend = Netback::new(Endpoint::attach(fds, Side::Backend).unwrap());
    let mut device = NetDevice::new(3, backend, Arc::new(Heard::default())).unwrap();
    let copy = ("request-rx-copy", "1");
    let rings = [ABLE[0], ABLE[1], copy];
    let several = [ABLE[0], ABLE[1], copy, ("multi-queue-num-queues", "2")];
    let table: [(&[(&str, &str)], &str); 4] = [
        (&ABLE, "frontend's request-rx-copy is not supported: \"\""),
        (&[copy], "frontend has no tx-ring-ref"),
        (&several, "frontend's multi-queue-num-queues is not supported: \"2\""),
        (&rings, "frontend has no event-channel"),
    ];
    for (nodes, expected) in table {
        let (view, _events) = f.view(nodes);
        let refused: BackendError = device.connect(&view).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
}
