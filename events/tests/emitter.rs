//! The emitter against a sink of the test's own, over a real socket.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use events::framing::{Deframer, Framing};
use events::wire::{self, MESSAGE_BYTES_MAX, Position, Received};
use events::{Emitter, Event, EventId};
use jiff::Timestamp;

const PATIENCE: Duration = Duration::from_secs(20);

struct Peer {
    stream: UnixStream,
    deframer: Deframer,
}

impl Peer {
    fn new(stream: UnixStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer { stream, deframer: Deframer::new(Framing::OctetCounting, MESSAGE_BYTES_MAX) }
    }

    fn take(&mut self, count: usize) -> Vec<Received> {
        let mut out = Vec::new();
        let mut chunk = [0; 65536];
        while out.len() < count {
            match self.deframer.next_message().unwrap() {
                Some(message) => out.push(wire::parse(&message).unwrap()),
                None => {
                    let n = self.stream.read(&mut chunk).unwrap();
                    assert_ne!(n, 0, "emitter hung up after {} of {count}", out.len());
                    self.deframer.push(&chunk[..n]);
                }
            }
        }
        out
    }

    fn ack(&mut self, received: &Received) {
        let position = Position { run: received.source.run.clone(), seq: received.seq };
        self.stream.write_all(wire::ack(&position).as_bytes()).unwrap();
    }
}

fn event(n: u64) -> Event {
    Event::new(EventId::Alert, Timestamp::UNIX_EPOCH).with("n", n)
}

fn seqs(received: &[Received]) -> Vec<u64> {
    received.iter().map(|r| r.seq).collect()
}

fn accept(path: &Path) -> (UnixListener, Peer) {
    let listener = UnixListener::bind(path).unwrap();
    let peer = Peer::new(listener.accept().unwrap().0);
    (listener, peer)
}

#[test]
fn unacknowledged_events_are_sent_again_over_the_next_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let emitter = Emitter::connect(&path, "test", None).unwrap();
    (1..=3).for_each(|n| emitter.emit(event(n)));
    let (listener, mut first) = accept(&path);
    let received = first.take(3);
    assert_eq!(seqs(&received), [1, 2, 3]);
    first.ack(&received[0]);
    assert!(!emitter.flush(Duration::from_millis(1)), "two events are not acknowledged");
    drop(first);
    emitter.emit(event(4));
    let mut second = Peer::new(listener.accept().unwrap().0);
    let again = second.take(3);
    // The sink may have hung up before the emitter read its first acknowledgement.
    let from = again[0].seq;
    assert!(from == 1 || from == 2, "{again:?}");
    let all = if from == 1 { [again, second.take(1)].concat() } else { again };
    assert_eq!(all.last().unwrap().seq, 4);
    second.ack(all.last().unwrap());
    assert!(emitter.flush(PATIENCE));
}

#[test]
fn events_survive_a_sink_that_is_away_and_a_restart_of_the_sensor() {
    let dir = tempfile::tempdir().unwrap();
    let (path, spool) = (dir.path().join("sock"), dir.path().join("spool"));
    // More than queue and window hold, so the spool is needed.
    let count = 8_000;
    let emitter = Emitter::connect(&path, "test", Some(&spool)).unwrap();
    for n in 1..=count {
        emitter.emit(event(n));
        // What outruns the emitter's thread is dropped, by design: let it spool. The window's 1024 stay in memory.
        while n % 1000 == 0 && n > 1024 && lines(&spool) + 1024 < n as usize {
            std::thread::yield_now();
        }
    }
    drop(emitter);
    let emitter = Emitter::connect(&path, "test", Some(&spool)).unwrap();
    emitter.emit(event(0));
    let (_listener, mut peer) = accept(&path);
    let mut all = Vec::new();
    while all.len() < count as usize + 1 {
        let received = peer.take(1);
        peer.ack(&received[0]);
        all.extend(received);
    }
    assert_eq!(seqs(&all[..count as usize]), (1..=count).collect::<Vec<_>>());
    assert_eq!(all[count as usize].seq, 1);
    assert_ne!(all[0].source.run, all[count as usize].source.run);
    assert!(emitter.flush(PATIENCE));
    drop(emitter);
    assert_eq!(std::fs::metadata(&spool).unwrap().len(), 0);
}

/// Messages in a spool file.
fn lines(spool: &Path) -> usize {
    let text = std::fs::read(spool).unwrap_or_default();
    text.windows(12).filter(|w| *w == b"[run@32473 i").count()
}

#[test]
fn a_full_queue_drops_counts_and_reports_without_blocking() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let emitter = Emitter::from_fd(theirs.into(), "test").unwrap();
    let count = 50_000;
    (0..count).for_each(|n| emitter.emit(event(n)));
    let mut peer = Peer::new(ours);
    let (mut kept, mut dropped) = (0, 0);
    while kept + dropped < count {
        let received = peer.take(1).remove(0);
        peer.ack(&received);
        let event = events::StoredEvent::from_json(&received.json).unwrap();
        match event.event_id.as_str() {
            "events.dropped" => dropped += event.number("count").unwrap(),
            _ => kept += 1,
        }
    }
    assert!(dropped > 0);
    assert_eq!(kept + dropped, count);
}

#[test]
fn what_waits_behind_a_full_window_is_sent_when_one_acknowledgement_empties_it() {
    const WINDOW: usize = 1024;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let emitter = Emitter::from_fd(theirs.into(), "test").unwrap();
    (0..2000).for_each(|n| emitter.emit(event(n)));
    let mut peer = Peer::new(ours);
    let window = peer.take(WINDOW);
    peer.ack(&window[WINDOW - 1]);
    let rest = peer.take(2000 - WINDOW);
    peer.ack(&rest[rest.len() - 1]);
    assert!(emitter.flush(PATIENCE));
}
