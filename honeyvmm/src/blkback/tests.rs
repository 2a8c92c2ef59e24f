//! A frontend on plain memory: its ring, its grant table, its pages; and the lies that it might tell.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::*;
use crate::device::Reports;
use crate::disk::Layer;
use crate::evtchn::{EventChannels, Kick};
use crate::memory::{EvtchnPort, GrantRef, Region};
use crate::ring;
use crate::xenbus::{Backend, BackendError, FrontendView};

const DISK_SECTORS: u64 = 4096;
const RAM_PAGES: u64 = 300;
const TABLE: Gpa = Gpa(0x1000_0000);
const RING: Gpa = Gpa(0x1000);
const RING_REF: GrantRef = GrantRef(8);
/// Grant `n` is page `n` of RAM, writable, up to this one; after it read-only ones of the same pages.
const READ_ONLY_FROM: u32 = 512;
const TABLE_PAGES: u64 = 2;
const SHARED_INFO: Gpa = Gpa(TABLE.0 + TABLE_PAGES * PAGE_SIZE);

struct Frontend {
    _dir: tempfile::TempDir,
    memory: GuestMemory,
    backend: Blkback,
    req_prod: u32,
}

fn frontend(mode: Mode) -> Frontend {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..DISK_SECTORS * SECTOR_BYTES).map(|i| (i / SECTOR_BYTES) as u8).collect();
    std::fs::write(dir.path().join("base"), content).unwrap();
    let layer =
        File::options().read(true).write(true).create_new(true).open(dir.path().join("layer")).unwrap();
    let layer = Layer::create(layer, DISK_SECTORS * SECTOR_BYTES, [0; 32]).unwrap();
    let base = File::open(dir.path().join("base")).unwrap();
    let disk = Disk::new("test", base, Some(layer), mode).unwrap();

    let ram = Region::anonymous(Gpa(0), RAM_PAGES * PAGE_SIZE).unwrap();
    let memory =
        GuestMemory::new(ram, Some(Region::anonymous(TABLE, (TABLE_PAGES + 1) * PAGE_SIZE).unwrap()));
    for page in 0..RAM_PAGES as u32 {
        grant(&memory, page, 1, page);
        grant(&memory, READ_ONLY_FROM + page, 1 | 4, page);
    }
    grant(&memory, RING_REF.0, 1, RING.gfn().0 as u32);
    memory.write_u32(RING.offset(4), 1).unwrap();
    memory.write_u32(RING.offset(12), 1).unwrap();
    let mut frontend = Frontend { _dir: dir, memory, backend: Blkback::new(disk), req_prod: 0 };
    frontend.connect();
    frontend
}

fn grant(memory: &GuestMemory, reference: u32, flags: u16, frame: u32) {
    let at = TABLE.offset(u64::from(reference) * 8);
    memory.write_u32(at.offset(4), frame).unwrap();
    memory.write_u16(at, flags).unwrap();
}

/// A request of up to 11 segments of (grant, first, last).
fn direct(op: u8, id: u64, sector: u64, segments: &[(u32, u8, u8)]) -> [u8; REQUEST_BYTES] {
    let mut entry = [0; REQUEST_BYTES];
    entry[0] = op;
    entry[1] = segments.len() as u8;
    entry[8..16].copy_from_slice(&id.to_le_bytes());
    entry[16..24].copy_from_slice(&sector.to_le_bytes());
    for (segment, place) in segments.iter().zip(entry[24..].chunks_exact_mut(8)) {
        place[..4].copy_from_slice(&segment.0.to_le_bytes());
        place[4..6].copy_from_slice(&[segment.1, segment.2]);
    }
    entry
}

fn indirect(inner: u8, id: u64, sector: u64, count: u16, page: u32) -> [u8; REQUEST_BYTES] {
    let mut entry = direct(6, id, sector, &[]);
    entry[1] = inner;
    entry[2..4].copy_from_slice(&count.to_le_bytes());
    entry[28..32].copy_from_slice(&page.to_le_bytes());
    entry
}

impl Frontend {
    fn view(&self, nodes: &[(&str, &str)]) -> (FrontendView, EventChannels) {
        let memory = self.memory.clone();
        let events = EventChannels::new(memory.clone(), SHARED_INFO, 1, Arc::new(Quiet)).unwrap();
        let nodes: BTreeMap<_, _> = nodes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let grants = GrantTable::new(memory.clone(), TABLE, TABLE_PAGES as u32);
        (FrontendView::new(nodes, memory, grants, events.clone()), events)
    }

    fn connect(&mut self) {
        let (view, _) = self.view(&[("ring-ref", &RING_REF.0.to_string())]);
        let ring = view.map_ring("ring-ref", ring::BLKIF).unwrap();
        self.backend.connect(ring, view.memory().clone(), view.grants().clone());
    }

    fn put(&mut self, entry: &[u8; REQUEST_BYTES]) {
        let at = RING.offset(64 + u64::from(self.req_prod % 32) * 112);
        self.memory.write(at, entry).unwrap();
        self.req_prod += 1;
        self.memory.store_u32(RING, self.req_prod, SeqCst).unwrap();
    }

    /// The latest response: id, operation, status.
    fn response(&self) -> (u64, u8, i16) {
        let rsp_prod = self.memory.read_u32(RING.offset(8)).unwrap();
        let at = RING.offset(64 + u64::from((rsp_prod - 1) % 32) * 112);
        let status = self.memory.read_u16(at.offset(10)).unwrap() as i16;
        (self.memory.read_u64(at).unwrap(), self.memory.read_u8(at.offset(8)).unwrap(), status)
    }

    fn ask(&mut self, entry: &[u8; REQUEST_BYTES]) -> (Serviced, (u64, u8, i16)) {
        self.put(entry);
        let serviced = self.backend.service(Patience::Long);
        (serviced, self.response())
    }

    fn bytes(&self, gpa: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read(Gpa(gpa), &mut bytes).unwrap();
        bytes
    }
}

#[test]
fn what_is_written_is_read_back_and_the_frontend_is_told() {
    let mut f = frontend(Mode::ReadWrite);
    f.memory.write(Gpa(0x14000), &[0xab; 4096]).unwrap();
    f.memory.write(Gpa(0x15400), &[0xcd; 1024]).unwrap();
    let (serviced, response) = f.ask(&direct(1, 77, 100, &[(READ_ONLY_FROM + 0x14, 0, 7), (0x15, 2, 3)]));
    assert!(serviced.notify && serviced.violation.is_none() && serviced.host_error.is_none());
    assert_eq!(response, (77, 1, 0));
    let (_, response) = f.ask(&direct(0, 78, 99, &[(0x20, 0, 7), (0x21, 0, 3)]));
    assert_eq!(response, (78, 0, 0));
    assert_eq!(f.bytes(0x20000, 512), [99; 512]);
    assert_eq!(f.bytes(0x20200, 4096), [0xab; 4096]);
    assert_eq!(f.bytes(0x21200, 1024), [0xcd; 1024]);
    let counters = f.backend.counters();
    assert_eq!((counters.reads, counters.writes, counters.written_bytes), (1, 1, 5120));
}

#[test]
fn an_indirect_request_moves_a_mebibyte_and_echoes_its_inner_operation() {
    let mut f = frontend(Mode::ReadWrite);
    for segment in 0..256u64 {
        f.memory.write_u32(Gpa(0x2000 + segment * 8), 32 + segment as u32).unwrap();
        f.memory.write(Gpa(0x2004 + segment * 8), &[0, 7, 0, 0]).unwrap();
    }
    let (serviced, response) = f.ask(&indirect(0, 5, 1000, 256, 2));
    assert!(serviced.violation.is_none());
    assert_eq!(response, (5, 0, 0));
    for sector in 0..2048u64 {
        assert_eq!(f.memory.read_u8(Gpa(32 * 4096 + sector * 512)).unwrap(), (1000 + sector) as u8);
    }
}

#[test]
fn a_call_ends_after_its_share_and_says_that_more_waits() {
    let mut f = frontend(Mode::ReadWrite);
    for segment in 0..256u64 {
        f.memory.write_u32(Gpa(0x2000 + segment * 8), 32).unwrap();
        f.memory.write(Gpa(0x2004 + segment * 8), &[0, 7, 0, 0]).unwrap();
    }
    for id in 0..3 {
        f.put(&indirect(0, id, 0, 256, 2));
    }
    for (id, more) in [(0, true), (1, true), (2, false)] {
        let serviced = f.backend.service(Patience::Long);
        assert_eq!((serviced.more, f.response().0), (more, id));
    }
}

#[test]
fn flush_barrier_and_discard_are_carried_out() {
    let mut f = frontend(Mode::ReadWrite);
    assert_eq!(f.ask(&direct(3, 1, 0, &[])).1, (1, 3, 0));
    f.memory.write(Gpa(0x14000), &[0xab; 512]).unwrap();
    assert_eq!(f.ask(&direct(2, 2, 8, &[(0x14, 0, 0)])).1, (2, 2, 0));
    assert_eq!(f.backend.counters().flushes, 2);
    assert_eq!(f.ask(&direct(0, 3, 8, &[(0x15, 0, 0)])).1, (3, 0, 0));
    assert_eq!(f.bytes(0x15000, 512), [0xab; 512]);
    let mut discard = direct(5, 4, 8, &[]);
    discard[24] = 16;
    assert_eq!(f.ask(&discard).1, (4, 5, 0));
    f.ask(&direct(0, 5, 8, &[(0x15, 0, 7)]));
    assert_eq!(f.bytes(0x15000, 4096), [0; 4096]);
}

#[test]
fn lies_get_an_error_response_a_violation_and_no_data() {
    let one = |op, sector, segment| direct(op, 9, sector, &[segment]);
    let mut wild = one(0, 0, (0, 0, 0));
    wild[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut crowded = one(0, 0, (0x20, 0, 0));
    crowded[1] = 12;
    let mut far = direct(5, 9, u64::MAX, &[]);
    far[24..32].fill(0xff);
    let table = [
        ("unknown operation", direct(9, 9, 0, &[(0x20, 0, 0)]), -2),
        ("packet", direct(4, 9, 0, &[]), -2),
        ("no segment", direct(0, 9, 0, &[]), -1),
        ("too many segments", crowded, -1),
        ("last before first", one(0, 0, (0x20, 3, 2)), -1),
        ("past the page", one(0, 0, (0x20, 0, 8)), -1),
        ("wild grant", wild, -1),
        ("not granted", one(0, 0, (RAM_PAGES as u32, 0, 0)), -1),
        ("read into read-only page", one(0, 0, (READ_ONLY_FROM + 0x20, 0, 0)), -1),
        ("past the disk", one(0, DISK_SECTORS, (0x20, 0, 0)), -1),
        ("over the disk's end", one(1, DISK_SECTORS - 1, (0x20, 0, 1)), -1),
        ("sector overflow", one(1, u64::MAX / 512, (0x20, 0, 0)), -1),
        ("discard overflow", far, -1),
        ("indirect of indirect", indirect(6, 9, 0, 1, 2), -2),
        ("indirect of nothing", indirect(0, 9, 0, 0, 2), -1),
        ("indirect of too much", indirect(0, 9, 0, 257, 2), -1),
        ("indirect wild page", indirect(0, 9, 0, 1, 0xffff), -1),
    ];
    let mut f = frontend(Mode::ReadWrite);
    f.memory.fill(Gpa(0x20000), 0x77, 4096).unwrap();
    for (what, entry, status) in table {
        let (serviced, response) = f.ask(&entry);
        assert_eq!((response.0, response.2), (9, status), "{what}");
        assert!(serviced.violation.is_some() && serviced.host_error.is_none(), "{what}");
        assert_eq!(f.bytes(0x20000, 4096), [0x77; 4096], "{what}");
    }
    assert_eq!(f.ask(&one(0, 5, (0x20, 0, 0))).1, (9, 0, 0), "the honest request after them");
}

#[test]
fn a_bad_ring_index_closes_the_ring_and_nothing_else() {
    let mut f = frontend(Mode::ReadWrite);
    f.memory.store_u32(RING, 34, SeqCst).unwrap();
    assert!(matches!(f.backend.service(Patience::Long).violation, Some(Violation::Ring(_))));
    let after = f.backend.service(Patience::Long);
    assert!(after.violation.is_none() && !after.notify && !after.more);
    f.memory.store_u32(RING, 0, SeqCst).unwrap();
    f.connect();
    assert_eq!(f.ask(&direct(0, 1, 0, &[(0x20, 0, 0)])).1, (1, 0, 0));
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let mut f = frontend(Mode::ReadOnly);
    assert!(f.backend.properties().contains(&("info".to_owned(), "4".to_owned())));
    assert!(!f.backend.features().iter().any(|(name, _)| *name == "feature-discard"));
    let (serviced, response) = f.ask(&direct(1, 3, 0, &[(0x20, 0, 0)]));
    assert_eq!(response, (3, 1, -1));
    assert!(matches!(serviced.violation, Some(Violation::Disk(DiskError::ReadOnly))));
}

#[test]
fn a_vcpu_leaves_a_flush_to_the_worker_and_what_follows_it_too() {
    let mut f = frontend(Mode::ReadWrite);
    f.put(&direct(0, 1, 0, &[(0x20, 0, 0)]));
    f.put(&direct(3, 2, 0, &[]));
    f.put(&direct(0, 3, 0, &[(0x20, 0, 0)]));
    let serviced = f.backend.service(Patience::Short);
    assert_eq!((serviced.more, f.response()), (true, (1, 0, 0)));
    assert!(f.backend.service(Patience::Long).more);
    assert_eq!(f.response(), (2, 3, 0));
    assert!(!f.backend.service(Patience::Short).more);
    assert_eq!(f.response(), (3, 0, 0));
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

/// A device with its worker, connected, and the frontend's port to it.
fn device(f: &mut Frontend) -> (BlkDevice, EventChannels, EvtchnPort, Arc<Heard>) {
    let spare = File::open(f._dir.path().join("base")).unwrap();
    let spare = Disk::new("spare", spare, None, Mode::ReadOnly).unwrap();
    let backend = std::mem::replace(&mut f.backend, Blkback::new(spare));
    let heard = Arc::new(Heard::default());
    let mut device = BlkDevice::new(Vdev(51712), backend, heard.clone()).unwrap();
    let (_, events) = f.view(&[]);
    let port = events.alloc_unbound(0).unwrap();
    let nodes = BTreeMap::from([
        ("ring-ref".to_owned(), RING_REF.0.to_string()),
        ("event-channel".to_owned(), port.0.to_string()),
        ("protocol".to_owned(), "x86_64-abi".to_owned()),
    ]);
    let grants = GrantTable::new(f.memory.clone(), TABLE, TABLE_PAGES as u32);
    let view = FrontendView::new(nodes, f.memory.clone(), grants, events.clone());
    let properties = device.connect(&view).unwrap();
    assert!(properties.contains(&("sectors".to_owned(), DISK_SECTORS.to_string())));
    (device, events, port, heard)
}

fn wait_for_responses(f: &Frontend, count: u32) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while f.memory.load_u32(RING.offset(8), SeqCst).unwrap() != count {
        assert!(Instant::now() < deadline, "no response {count}");
        std::thread::yield_now();
    }
}

#[test]
fn a_rung_device_answers_and_rings_back() {
    let mut f = frontend(Mode::ReadWrite);
    let (device, events, port, heard) = device(&mut f);
    f.put(&direct(0, 1, 7, &[(0x20, 0, 0)]));
    events.send(port).unwrap();
    assert_eq!(f.response(), (1, 0, 0), "a read is done by the vcpu that asked");
    assert!(events.is_pending(port));
    f.put(&direct(3, 2, 0, &[]));
    f.put(&direct(0, 3, 9, &[(0x20, 0, 0)]));
    events.send(port).unwrap();
    wait_for_responses(&f, 3);
    assert_eq!(f.response(), (3, 0, 0));
    assert_eq!(device.counters().flushes, 1);
    assert_eq!(*heard.0.lock().unwrap(), Vec::<String>::new());
}

#[test]
fn a_paused_device_does_nothing_until_it_goes_on() {
    let mut f = frontend(Mode::ReadWrite);
    let (device, events, port, _) = device(&mut f);
    device.overseen().pause();
    f.put(&direct(0, 1, 7, &[(0x20, 0, 0)]));
    events.send(port).unwrap();
    assert_eq!(f.memory.read_u32(RING.offset(8)).unwrap(), 0);
    device.overseen().unpause();
    assert_eq!(f.response(), (1, 0, 0));
}

#[test]
fn violations_are_reported_up_to_a_limit() {
    let mut f = frontend(Mode::ReadWrite);
    let (_device, events, port, heard) = device(&mut f);
    for id in 0..20 {
        f.put(&direct(9, id, 0, &[]));
        events.send(port).unwrap();
    }
    assert_eq!(f.response(), (19, 9, -2));
    let heard = heard.0.lock().unwrap();
    assert_eq!(heard.len(), crate::device::REPORTS_MAX as usize);
    assert_eq!(heard[0], "vbd-51712: block request refused");
}

#[test]
fn frontends_that_cannot_be_served_are_refused() {
    let f = frontend(Mode::ReadWrite);
    let spare = File::open(f._dir.path().join("base")).unwrap();
    let disk = Disk::new("spare", spare, None, Mode::ReadOnly).unwrap();
    let mut device = BlkDevice::new(Vdev(2049), Blkback::new(disk), Arc::new(Heard::default())).unwrap();
    let table: [(&[(&str, &str)], &str); 5] = [
        (&[], "frontend has no ring-ref"),
        (&[("ring-ref", "1000")], "cannot use a granted page"),
        (&[("ring-ref", "8")], "frontend has no event-channel"),
        (&[("ring-ref", "8"), ("event-channel", "77")], "cannot bind port 77"),
        (
            &[("ring-ref", "8"), ("protocol", "x86_32-abi")],
            "frontend's protocol is not supported: \"x86_32-abi\"",
        ),
    ];
    for (nodes, expected) in table {
        let (view, _events) = f.view(nodes);
        let refused: BackendError = device.connect(&view).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
}
