//! The store as a guest sees it: through the page, with Linux' half of the ring.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::wire::{Kind, Message};
use super::*;
use crate::evtchn::{Doorbell, EventChannels, Kick};
use crate::memory::{Access, EvtchnPort, PAGE_SIZE, Region};

const PAGE: Gpa = Gpa(0x2000);
const SHARED_INFO: Gpa = Gpa(0x1000);
const BACKEND: &str = "/local/domain/0/backend/vbd/1/51712";

struct Nothing;

impl Kick for Nothing {
    fn kick(&self, _vcpu: usize) {}
}

impl Doorbell for Nothing {
    fn ring(&self) {}
}

struct Guest {
    memory: GuestMemory,
    store: Xenstore,
    events: EventChannels,
    port: EvtchnPort,
    received: Vec<u8>,
}

fn guest() -> Guest {
    let memory = GuestMemory::from(Region::anonymous(Gpa(0), 8 * PAGE_SIZE).unwrap());
    let events = EventChannels::new(memory.clone(), SHARED_INFO, 1, Arc::new(Nothing)).unwrap();
    let channel = events.alloc_backend_port(Arc::new(Nothing)).unwrap();
    let port = channel.port();
    let store = Xenstore::new(1);
    store.attach(memory.clone(), PAGE, channel).unwrap();
    store.write(&format!("{BACKEND}/state"), "2").unwrap();
    store.write("/local/domain/1/name", "decoy").unwrap();
    Guest { memory, store, events, port, received: Vec::new() }
}

impl Guest {
    fn send_bytes(&self, bytes: &[u8]) {
        let producer = self.memory.read_u32(PAGE.offset(2052)).unwrap();
        for (index, &byte) in (producer..).zip(bytes) {
            self.memory.write_u8(PAGE.offset(u64::from(index & 1023)), byte).unwrap();
        }
        let producer = producer.wrapping_add(bytes.len() as u32);
        self.memory.store_u32(PAGE.offset(2052), producer, SeqCst).unwrap();
    }

    fn receive(&mut self) {
        let consumer = self.memory.read_u32(PAGE.offset(2056)).unwrap();
        let producer = self.memory.read_u32(PAGE.offset(2060)).unwrap();
        assert!(producer.wrapping_sub(consumer) <= 1024);
        let mut index = consumer;
        while index != producer {
            self.received.push(self.memory.read_u8(PAGE.offset(1024 + u64::from(index & 1023))).unwrap());
            index = index.wrapping_add(1);
        }
        self.memory.store_u32(PAGE.offset(2056), producer, SeqCst).unwrap();
    }

    fn messages(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            self.receive();
            while let Some((message, bytes)) = Message::parse(&self.received).unwrap() {
                self.received.drain(..bytes);
                messages.push(message);
            }
            if !self.store.service().unwrap().moved {
                return messages;
            }
        }
    }

    /// Everything that comes after a request.
    fn exchange(&mut self, transaction_id: u32, kind: Kind, body: &[u8]) -> Vec<Message> {
        let request = Message { kind, request_id: 5, transaction_id, body: body.to_vec() };
        for piece in request.encode().chunks(1024) {
            self.send_bytes(piece);
            self.store.service().unwrap();
        }
        self.messages()
    }

    fn ask_in(&mut self, transaction_id: u32, kind: Kind, body: &[u8]) -> Message {
        let mut messages = self.exchange(transaction_id, kind, body);
        assert_eq!(messages.len(), 1, "{messages:?}");
        messages.remove(0)
    }

    fn ask(&mut self, kind: Kind, body: &[u8]) -> Message {
        self.ask_in(0, kind, body)
    }

    fn refused(&mut self, kind: Kind, body: &[u8]) -> String {
        let answer = self.ask(kind, body);
        assert_eq!(answer.kind, Kind::Error, "{kind:?} {body:?}");
        String::from_utf8(answer.body).unwrap().trim_end_matches('\0').to_owned()
    }
}

#[test]
fn a_guest_writes_reads_lists_and_removes_below_its_home() {
    let mut guest = guest();
    assert_eq!(guest.ask(Kind::Write, b"device/vbd/51712/state\x003").body, b"OK\0");
    let answer = guest.ask(Kind::Read, b"/local/domain/1/device/vbd/51712/state\0");
    assert_eq!((answer.kind, answer.request_id, answer.body.as_slice()), (Kind::Read, 5, &b"3"[..]));
    guest.ask(Kind::Mkdir, b"device/vif\0");
    assert_eq!(guest.ask(Kind::Directory, b"device\0").body, b"vbd\0vif\0");
    let part = guest.ask(Kind::DirectoryPart, b"device\x004\0").body;
    let names = part.splitn(2, |&byte| byte == 0).nth(1).unwrap();
    assert_eq!(names, b"vif\0\0");
    guest.ask(Kind::Rm, b"device\0");
    assert_eq!(guest.refused(Kind::Read, b"device/vbd\0"), "ENOENT");
    assert_eq!(guest.ask(Kind::GetDomainPath, b"1\0").body, b"/local/domain/1\0");
    assert_eq!(guest.ask(Kind::IsDomainIntroduced, b"9\0").body, b"F\0");
    assert_eq!(guest.ask(Kind::GetPerms, b"name\0").body, b"n0\0");
}

#[test]
fn the_host_sees_what_the_guest_changed_and_the_guest_is_notified() {
    let mut guest = guest();
    guest.ask(Kind::Write, b"device/vbd/51712/state\x003");
    let changes = guest.store.take_guest_changes();
    assert!(changes.concern("/local/domain/1/device/vbd/51712"));
    assert!(changes.concern("/local/domain/1/device/vbd/51712/state/below"));
    assert!(!changes.concern("/local/domain/1/device/vif"));
    assert!(guest.store.take_guest_changes().is_empty());
    assert!(guest.events.is_pending(guest.port));
    assert_eq!(guest.store.read("/local/domain/1/device/vbd/51712/state").unwrap(), "3");
}

#[test]
fn a_guest_reads_its_backends_and_writes_nothing_there() {
    let mut guest = guest();
    assert_eq!(guest.ask(Kind::Read, format!("{BACKEND}/state\0").as_bytes()).body, b"2");
    for path in [
        format!("{BACKEND}/state"),
        "/local/domain/2/x".to_owned(),
        "/local/domain/1".to_owned(),
        "/".to_owned(),
    ] {
        assert_eq!(guest.refused(Kind::Write, format!("{path}\0006").as_bytes()), "EACCES", "{path}");
        assert_eq!(guest.refused(Kind::Rm, format!("{path}\0").as_bytes()), "EACCES", "{path}");
    }
    for path in ["/", "/local/domain/0", "/local/domain/12/name", "/local/domain/0/backend/vbd/12/1"] {
        assert_eq!(guest.refused(Kind::Directory, format!("{path}\0").as_bytes()), "EACCES", "{path}");
    }
    assert_eq!(guest.store.read(&format!("{BACKEND}/state")).unwrap(), "2");
}

#[test]
fn malformed_and_foreign_requests_are_refused_by_name() {
    let mut guest = guest();
    for (kind, body, error) in [
        (Kind::Read, &b""[..], "EINVAL"),
        (Kind::Read, b"name", "EINVAL"),
        (Kind::Read, b"name\0name\0", "EINVAL"),
        (Kind::Read, b"\xff\xfe\0", "EINVAL"),
        (Kind::Read, b"a//b\0", "EINVAL"),
        (Kind::Read, b"missing\0", "ENOENT"),
        (Kind::Write, b"name", "EINVAL"),
        (Kind::SetPerms, b"name\0", "EINVAL"),
        (Kind::SetPerms, b"name\0q7\0", "EINVAL"),
        (Kind::DirectoryPart, b"name\0999999999999999999999\0", "EINVAL"),
        (Kind::DirectoryPart, b"name\x001\0", "EINVAL"),
        (Kind::Watch, b"device\0", "EINVAL"),
        (Kind::Unwatch, b"device\0t\0", "ENOENT"),
        (Kind::TransactionEnd, b"T\0", "ENOENT"),
        (Kind::TransactionEnd, b"X\0", "EINVAL"),
        (Kind::GetDomainPath, b"-1\0", "EINVAL"),
        (Kind::Introduce, b"1\0", "EACCES"),
        (Kind::Control, b"help\0", "EACCES"),
        (Kind::WatchEvent, b"", "ENOSYS"),
        (Kind::Unknown(20), b"", "ENOSYS"),
        (Kind::Unknown(u32::MAX), b"", "ENOSYS"),
    ] {
        assert_eq!(guest.refused(kind, body), error, "{kind:?} {body:?}");
    }
    assert_eq!(guest.ask_in(77, Kind::Read, b"name\0").body, b"ENOENT\0");
}

#[test]
fn a_watch_fires_at_once_and_at_changes_by_host_and_guest() {
    let mut guest = guest();
    let watch = Message {
        kind: Kind::Watch,
        request_id: 1,
        transaction_id: 0,
        body: b"control/shutdown\0tok\0".to_vec(),
    };
    guest.send_bytes(&watch.encode());
    let messages = guest.messages();
    assert_eq!(messages[0].body, b"OK\0");
    assert_eq!(messages[1], Message::watch_event("control/shutdown", b"tok"));
    guest.store.write("/local/domain/1/control/shutdown", "poweroff").unwrap();
    assert_eq!(guest.messages(), [Message::watch_event("control/shutdown", b"tok")]);
    let write = Message { kind: Kind::Write, body: b"control/shutdown\0".to_vec(), ..watch };
    guest.send_bytes(&write.encode());
    assert_eq!(guest.messages().len(), 2);
    guest.ask(Kind::ResetWatches, b"\0");
    guest.store.write("/local/domain/1/control/shutdown", "reboot").unwrap();
    assert_eq!(guest.messages(), []);
}

#[test]
fn a_transaction_commits_aborts_and_conflicts() {
    let mut guest = guest();
    let start = |guest: &mut Guest| -> u32 {
        let body = guest.ask(Kind::TransactionStart, b"\0").body;
        String::from_utf8(body).unwrap().trim_end_matches('\0').parse().unwrap()
    };
    let id = start(&mut guest);
    guest.ask_in(id, Kind::Write, b"device/vif/0/tx-ring-ref\x00768");
    assert_eq!(guest.refused(Kind::Read, b"device/vif/0/tx-ring-ref\0"), "ENOENT");
    assert_eq!(guest.ask_in(id, Kind::Directory, b"device/vif\0").body, b"0\0");
    assert!(guest.store.take_guest_changes().is_empty());
    assert_eq!(guest.ask_in(id, Kind::TransactionEnd, b"T\0").body, b"OK\0");
    assert_eq!(guest.ask(Kind::Read, b"device/vif/0/tx-ring-ref\0").body, b"768");
    assert!(guest.store.take_guest_changes().concern("/local/domain/1/device/vif/0"));

    let id = start(&mut guest);
    guest.ask_in(id, Kind::Write, b"name2\0x");
    guest.ask_in(id, Kind::TransactionEnd, b"F\0");
    assert_eq!(guest.refused(Kind::Read, b"name2\0"), "ENOENT");

    let id = start(&mut guest);
    guest.ask_in(id, Kind::Read, b"name\0");
    guest.store.write("/local/domain/1/name", "renamed").unwrap();
    assert_eq!(guest.ask_in(id, Kind::TransactionEnd, b"T\0").body, b"EAGAIN\0");

    for _ in 0..transaction::TRANSACTIONS_MAX {
        start(&mut guest);
    }
    assert_eq!(guest.refused(Kind::TransactionStart, b"\0"), "ENOSPC");
}

#[test]
fn lying_indices_break_the_connection_until_the_guest_reconnects() {
    for lie in [1025u32, u32::MAX, 0x8000_0000] {
        let mut guest = guest();
        guest.memory.write_u32(PAGE.offset(2052), lie).unwrap();
        assert!(guest.store.service().is_err(), "{lie}");
        assert_eq!(guest.memory.read_u32(PAGE.offset(2072)).unwrap(), 2);
        assert_eq!(guest.store.service().unwrap(), Turn { moved: false, more: false });
        guest.memory.write_u32(PAGE.offset(2068), 1).unwrap();
        guest.store.service().unwrap();
        assert_eq!(guest.memory.read_u32(PAGE.offset(2068)).unwrap(), 0);
        assert_eq!(guest.memory.read_u32(PAGE.offset(2072)).unwrap(), 0);
        assert_eq!(guest.ask(Kind::Read, b"name\0").body, b"decoy");
    }
}

#[test]
fn a_message_that_is_too_long_breaks_the_connection() {
    let guest = guest();
    let mut header =
        Message { kind: Kind::Write, request_id: 0, transaction_id: 0, body: Vec::new() }.encode();
    header[12..].copy_from_slice(&4097u32.to_le_bytes());
    guest.send_bytes(&header);
    assert!(guest.store.service().is_err());
    assert_eq!(guest.memory.read_u32(PAGE.offset(2072)).unwrap(), 3);
    guest.store.write("/local/domain/1/name", "the host goes on").unwrap();
}

#[test]
fn a_guest_that_asks_and_never_reads_costs_a_bounded_backlog() {
    let guest = guest();
    let read =
        Message { kind: Kind::Read, request_id: 0, transaction_id: 0, body: b"big\0".to_vec() }.encode();
    guest.store.write("/local/domain/1/big", &"x".repeat(4000)).unwrap();
    let mut asked = 0;
    for _ in 0..1000 {
        let consumed = guest.memory.read_u32(PAGE.offset(2048)).unwrap();
        let produced = guest.memory.read_u32(PAGE.offset(2052)).unwrap();
        if produced.wrapping_sub(consumed) as usize + read.len() <= 1024 {
            guest.send_bytes(&read);
            asked += 1;
        }
        guest.store.service().unwrap();
    }
    assert!(asked < 100, "{asked} requests were taken up");
}

#[test]
fn long_values_cross_the_small_ring() {
    let mut guest = guest();
    let value = vec![b'v'; 4000];
    let body = [b"data/long\0".as_slice(), &value].concat();
    assert_eq!(guest.ask(Kind::Write, &body).body, b"OK\0");
    assert_eq!(guest.ask(Kind::Read, b"data/long\0").body, value);
}

#[test]
fn the_dump_shows_the_tree_and_escapes_what_the_guest_wrote() {
    let mut guest = guest();
    guest.ask(Kind::Write, b"data/x\0\x1b[2Jevil\"");
    let dump = guest.store.dump();
    assert!(dump.contains("    x = \"\\x1b[2Jevil\\\"\"\n"), "{dump}");
    assert!(dump.contains("   name = \"decoy\"\n"), "{dump}");
}

/// The same domain after it was written down and read again: a new store over the same memory.
fn restored(guest: Guest) -> Guest {
    let text = serde_json::to_string(&guest.store.save()).unwrap();
    let state = serde_json::from_str(&text).unwrap();
    let Guest { memory, store, events, port, received } = guest;
    drop(store);
    let channel = events.bind_backend(port, Arc::new(Nothing)).unwrap();
    let store = Xenstore::restore(1, &state).unwrap();
    store.attach_restored(memory.clone(), PAGE, channel, &state).unwrap();
    Guest { memory, store, events, port, received }
}

#[test]
fn a_restored_store_has_its_nodes_watches_and_transactions() {
    let mut guest = guest();
    guest.ask(Kind::Write, b"device/vbd/51712/state\x003");
    assert_eq!(guest.exchange(0, Kind::Watch, b"device\0t\0").len(), 2, "the answer and the first event");
    let started = guest.ask(Kind::TransactionStart, b"\0").body;
    let id: u32 = std::str::from_utf8(&started).unwrap().trim_end_matches('\0').parse().unwrap();
    guest.ask_in(id, Kind::Write, b"device/vbd/51712/ring\x009");

    let mut guest = restored(guest);
    assert_eq!(guest.ask(Kind::Read, b"device/vbd/51712/state\0").body, b"3");
    assert_eq!(guest.ask_in(id, Kind::Read, b"device/vbd/51712/ring\0").body, b"9");
    let [end, event] = &guest.exchange(id, Kind::TransactionEnd, b"T\0")[..] else {
        panic!("an answer and an event")
    };
    assert_eq!((end.kind, end.body.as_slice()), (Kind::TransactionEnd, &b"OK\0"[..]));
    assert_eq!((event.kind, event.body.as_slice()), (Kind::WatchEvent, &b"device/vbd/51712/ring\0t\0"[..]));
}

#[test]
fn a_restored_store_goes_on_in_the_middle_of_a_request_and_of_an_answer() {
    let mut guest = guest();
    guest.ask(Kind::Write, [b"data\0".as_slice(), &[b'x'; 2000]].concat().as_slice());
    let request =
        Message { kind: Kind::Read, request_id: 7, transaction_id: 0, body: b"data\0".to_vec() }.encode();
    guest.send_bytes(&request);
    guest.store.service().unwrap();
    guest.send_bytes(&request[..9]);
    guest.store.service().unwrap();

    let mut guest = restored(guest);
    guest.send_bytes(&request[9..]);
    let messages = guest.messages();
    assert_eq!(messages.len(), 2);
    assert!(messages.iter().all(|message| message.body == [b'x'; 2000]));
}

#[test]
fn a_saved_store_that_no_domain_has_is_refused() {
    let good = serde_json::to_value(guest().store.save()).unwrap();
    let wrong = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut state = good.clone();
        change(&mut state);
        Xenstore::restore(1, &serde_json::from_value(state).unwrap()).is_err()
    };
    assert!(!wrong(&|_| {}));
    assert!(wrong(&|state| state["nodes"] = serde_json::json!([])), "no root");
    assert!(wrong(&|state| drop(state["nodes"].as_array_mut().unwrap().remove(1))), "no parent");
    assert!(wrong(&|state| state["generation"] = 0.into()), "nodes from the future");
    assert!(wrong(&|state| state["sent"] = 1.into()), "half of nothing was sent");
}
