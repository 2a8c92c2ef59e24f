use std::sync::{Arc, Mutex};

use super::*;
use crate::evtchn::{BackendChannel, Doorbell, Kick};
use crate::memory::{Access, EvtchnPort, Gpa, PAGE_SIZE, Region};
use crate::ring::BLKIF;
use crate::xenbus::MappedRing;

const GRANTS: Gpa = Gpa(0x10_0000);
const FRONT: &str = "/local/domain/1/device/vbd/51712";
const BACK: &str = "/local/domain/0/backend/vbd/1/51712";
/// The ring's page and its grant, as the guest chose them.
const RING_PAGE: u32 = 5;
const RING_GRANT: u32 = 9;

struct Nothing;

impl Kick for Nothing {
    fn kick(&self, _vcpu: usize) {}
}

impl Doorbell for Nothing {
    fn ring(&self) {}
}

/// A backend that takes up ring and channel as a real one does, and writes down what was asked of it.
#[derive(Default)]
struct Recorder {
    log: Arc<Mutex<Vec<&'static str>>>,
    connected: Option<(MappedRing, BackendChannel)>,
}

impl Backend for Recorder {
    fn features(&self) -> Nodes {
        vec![("feature-flush-cache".to_owned(), "1".to_owned())]
    }

    fn connect(&mut self, frontend: &FrontendView) -> Result<Nodes, BackendError> {
        let ring = frontend.map_ring("ring-ref", BLKIF)?;
        let channel = frontend.bind_channel("event-channel", Arc::new(Nothing))?;
        self.connected = Some((ring, channel));
        self.log.lock().unwrap().push("connect");
        Ok(vec![("sectors".to_owned(), "2048".to_owned())])
    }

    fn close(&mut self) {
        if self.connected.take().is_some() {
            self.log.lock().unwrap().push("close");
        }
    }
}

struct Domain {
    memory: GuestMemory,
    store: Xenstore,
    bus: Xenbus,
    port: EvtchnPort,
    log: Arc<Mutex<Vec<&'static str>>>,
}

fn domain() -> Domain {
    let ram = Region::anonymous(Gpa(0), 16 * PAGE_SIZE).unwrap();
    let memory = GuestMemory::new(ram, Some(Region::anonymous(GRANTS, PAGE_SIZE).unwrap()));
    let events = EventChannels::new(memory.clone(), Gpa(0x1000), 1, Arc::new(Nothing)).unwrap();
    let port = events.alloc_unbound(0).unwrap();
    let store = Xenstore::new(1);
    let grants = GrantTable::new(memory.clone(), GRANTS, 1);
    let mut bus = Xenbus::new(store.clone(), 1, memory.clone(), grants, events);
    let recorder = Recorder::default();
    let log = recorder.log.clone();
    let frontend_nodes = vec![("virtual-device".to_owned(), "51712".to_owned())];
    bus.add(Device { kind: DeviceKind::Vbd, id: 51712, frontend_nodes }, Box::new(recorder)).unwrap();
    let entry = GRANTS.offset(u64::from(RING_GRANT) * 8);
    memory.write_u32(entry.offset(4), RING_PAGE).unwrap();
    memory.write_u32(entry, 1).unwrap();
    Domain { memory, store, bus, port, log }
}

impl Domain {
    fn frontend_writes(&mut self, key: &str, value: &str) -> String {
        self.store.write(&format!("{FRONT}/{key}"), value).unwrap();
        self.follow()
    }

    /// Follows the frontend as if the guest had changed all of it; answers the backend's state.
    fn follow(&mut self) -> String {
        self.bus.follow(&GuestChanges::all());
        self.store.read(&format!("{BACK}/state")).unwrap()
    }

    fn publishes_ring(&mut self) {
        self.frontend_writes("ring-ref", &RING_GRANT.to_string());
        let port = self.port.0.to_string();
        self.frontend_writes("event-channel", &port);
    }

    fn log(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    fn grant_flags(&self) -> u16 {
        self.memory.read_u16(GRANTS.offset(u64::from(RING_GRANT) * 8)).unwrap()
    }
}

#[test]
fn both_directories_are_published_before_the_states() {
    let domain = domain();
    let read = |path: String| domain.store.read(&path).unwrap();
    assert_eq!(read(format!("{FRONT}/backend")), BACK);
    assert_eq!(read(format!("{FRONT}/virtual-device")), "51712");
    assert_eq!(read(format!("{FRONT}/state")), "1");
    assert_eq!(read(format!("{BACK}/frontend")), FRONT);
    assert_eq!(read(format!("{BACK}/feature-flush-cache")), "1");
    assert_eq!(read(format!("{BACK}/state")), "2");
}

#[test]
fn a_disk_connects_closes_and_comes_back() {
    let mut domain = domain();
    for _ in 0..2 {
        assert_eq!(domain.follow(), "2");
        domain.publishes_ring();
        assert_eq!(domain.frontend_writes("state", "3"), "4");
        assert_eq!(domain.store.read(&format!("{BACK}/sectors")).unwrap(), "2048");
        assert_eq!(domain.frontend_writes("state", "4"), "4");
        assert_eq!(domain.log(), ["connect"]);
        assert_ne!(domain.grant_flags(), 1);
        assert_eq!(domain.frontend_writes("state", "5"), "5");
        assert_eq!(domain.log(), [""; 0], "it is served until the frontend has closed");
        assert_eq!(domain.frontend_writes("state", "6"), "6");
        assert_eq!(domain.log(), ["close"]);
        assert_eq!(domain.grant_flags(), 1);
        assert_eq!(domain.frontend_writes("state", "1"), "2");
    }
}

#[test]
fn a_frontend_that_starts_anew_without_closing_is_let_go_first() {
    let mut domain = domain();
    domain.publishes_ring();
    assert_eq!(domain.frontend_writes("state", "4"), "4");
    assert_eq!(domain.frontend_writes("state", "1"), "2");
    assert_eq!(domain.log(), ["connect", "close"]);
    assert_eq!(domain.frontend_writes("state", "4"), "4");
}

#[test]
fn a_frontend_that_is_removed_is_closed() {
    let mut domain = domain();
    domain.publishes_ring();
    domain.frontend_writes("state", "4");
    domain.store.remove(FRONT).unwrap();
    assert_eq!(domain.follow(), "6");
    assert_eq!(domain.log(), ["connect", "close"]);
}

#[test]
fn a_frontend_that_lies_is_refused_with_a_reason_and_may_try_again() {
    for (key, value) in [
        ("ring-ref", "4294967295"),
        ("ring-ref", "8"),
        ("ring-ref", "none"),
        ("ring-ref", "-1"),
        ("event-channel", "0"),
        ("event-channel", "4095"),
        ("event-channel", ""),
    ] {
        let mut domain = domain();
        domain.publishes_ring();
        domain.frontend_writes(key, value);
        assert_eq!(domain.frontend_writes("state", "3"), "5", "{key} = {value}");
        assert!(!domain.store.read(&format!("{BACK}/error")).unwrap().is_empty());
        assert_eq!(domain.grant_flags(), 1, "{key} = {value}");
        assert_eq!(domain.frontend_writes("state", "6"), "6");
        domain.frontend_writes("state", "1");
        domain.publishes_ring();
        assert_eq!(domain.frontend_writes("state", "3"), "4");
    }
}

#[test]
fn states_that_make_no_sense_change_nothing() {
    let mut domain = domain();
    for nonsense in ["0", "9", "4294967295", "2", "7", "8"] {
        assert_eq!(domain.frontend_writes("state", nonsense), "2", "{nonsense}");
    }
    assert_eq!(domain.log(), [""; 0]);
}

#[test]
fn any_sequence_of_states_is_survived_and_each_connect_has_its_close() {
    let mut domain = domain();
    domain.publishes_ring();
    let mut seed = 12345u32;
    for _ in 0..2000 {
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        domain.frontend_writes("state", &((seed >> 16) % 10).to_string());
    }
    domain.bus.close();
    let log = domain.log();
    assert!(log.len() > 10 && log.chunks(2).all(|pair| pair == ["connect", "close"]), "{log:?}");
}

#[test]
fn a_state_hidden_behind_many_names_is_found() {
    let mut domain = domain();
    domain.publishes_ring();
    for index in 0..2 * FRONTEND_NODES_MAX {
        domain.store.write(&format!("{FRONT}/a{index:04}"), "x").unwrap();
    }
    assert_eq!(domain.frontend_writes("state", "5"), "5");
}
