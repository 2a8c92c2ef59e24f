//! The one who writes the journal: takes messages from everywhere, drops repeats, writes a group, fsyncs, then acknowledges and hands
//! the group to the store. A thread, because fsync blocks.

use std::collections::HashMap;
use std::time::Duration;

use events::Event;
use events::wire::{self, Position, Received, Source};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use crate::journal::{Appended, Journal};
use crate::store::Entry;

/// Messages that wait for the journal; who brings more, waits.
const INLET_MESSAGES_MAX: usize = 4096;
/// Messages of one fsync.
const GROUP_MESSAGES_MAX: usize = 4096;
/// Groups that wait for the store; then the journal waits.
const STORE_GROUPS_MAX: usize = 64;
/// Time between two attempts while the disk refuses.
const RETRY: Duration = Duration::from_secs(1);
/// Runs of sensors whose last number is remembered in memory.
const RUNS_MAX: usize = 20_000;

/// Tells a connection what is on disk; the last one counts.
pub type Acks = watch::Sender<Option<Position>>;

/// A message on its way to the journal.
enum Incoming {
    /// From a sensor, as it came over the wire.
    Sensor { message: Vec<u8>, received: Received, acks: Acks },
    /// Made by logsink itself.
    Local(Event),
}

/// Where messages go in. Clones lead to the same journal.
#[derive(Clone)]
pub struct Inlet {
    queue: mpsc::Sender<Incoming>,
}

impl Inlet {
    /// Queues a sensor's message; `acks` hears of it when it is on disk. False when the writer has ended.
    pub async fn sensor(&self, message: Vec<u8>, received: Received, acks: &Acks) -> bool {
        self.queue.send(Incoming::Sensor { message, received, acks: acks.clone() }).await.is_ok()
    }

    /// Queues an event of logsink's own.
    pub async fn local(&self, event: Event) {
        if self.queue.send(Incoming::Local(event)).await.is_err() {
            tracing::warn!("an event came after the journal was closed");
        }
    }
}

/// The writer, before it has its thread.
pub struct Writer {
    journal: Journal,
    journal_bytes_max: u64,
    /// Last sequence number of each run, and the journal index where it stands.
    runs: HashMap<Source, (u64, u64)>,
    own: Source,
    own_seq: u64,
    hostname: String,
    queue: mpsc::Receiver<Incoming>,
    store: mpsc::Sender<Vec<Entry>>,
}

/// What is written together.
#[derive(Default)]
struct Group {
    messages: Vec<(Vec<u8>, Received)>,
    acks: Vec<(Acks, Position)>,
}

impl Writer {
    /// A writer to this journal that knows these runs already. The receiver is the store's end.
    pub fn new(
        journal: Journal,
        journal_bytes_max: u64,
        runs: HashMap<Source, (u64, u64)>,
        run: String,
    ) -> (Writer, Inlet, mpsc::Receiver<Vec<Entry>>) {
        let (into_queue, queue) = mpsc::channel(INLET_MESSAGES_MAX);
        let (store, from_store) = mpsc::channel(STORE_GROUPS_MAX);
        let hostname = wire::sensor_name(&rustix::system::uname().nodename().to_string_lossy());
        let own = Source { sensor: "logsink".into(), run };
        let writer = Writer { journal, journal_bytes_max, runs, own, own_seq: 0, hostname, queue, store };
        (writer, Inlet { queue: into_queue }, from_store)
    }

    /// Writes until every `Inlet` is gone and the queue is empty.
    pub fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let mut group = Group::default();
            self.take(first, &mut group);
            while group.messages.len() < GROUP_MESSAGES_MAX
                && let Ok(next) = self.queue.try_recv()
            {
                self.take(next, &mut group);
            }
            self.write(group);
        }
    }

    fn take(&mut self, incoming: Incoming, group: &mut Group) {
        match incoming {
            Incoming::Local(event) => {
                self.own_seq += 1;
                let (source, seq) = (self.own.clone(), self.own_seq);
                let json = event.to_json(&source.sensor, seq).to_string();
                let message = wire::message(&event, &source, seq, &self.hostname, std::process::id());
                group.messages.push((message.into_bytes(), Received { source, seq, json }));
            }
            Incoming::Sensor { message, received, acks } => {
                let position = Position { run: received.source.run.clone(), seq: received.seq };
                let is_new = self.remember(&received);
                // A repeat is acknowledged with the group too: its first copy may be in it.
                match group.acks.last_mut() {
                    Some((last, place)) if last.same_channel(&acks) => *place = position,
                    _ => group.acks.push((acks, position)),
                }
                if is_new {
                    group.messages.push((message, received));
                }
            }
        }
    }

    /// False when the event was seen. A run's events come in order over every connection, so its last number says it all.
    fn remember(&mut self, received: &Received) -> bool {
        if self.runs.len() >= RUNS_MAX && !self.runs.contains_key(&received.source) {
            let mut indices: Vec<u64> = self.runs.values().map(|(_, index)| *index).collect();
            let (_, median, _) = indices.select_nth_unstable(RUNS_MAX / 2);
            let median = *median;
            self.runs.retain(|_, (_, index)| *index >= median);
        }
        let index = self.journal.head().index;
        let last = self.runs.entry(received.source.clone()).or_insert((0, index));
        let is_new = received.seq > last.0;
        if is_new {
            *last = (received.seq, index);
        }
        is_new
    }

    /// Returns when the group is on disk, however long that takes: nothing is acknowledged before, and the sensors keep their own.
    fn write(&mut self, group: Group) {
        let received = Timestamp::now();
        if !group.messages.is_empty() {
            let appended = self.append(received, &group);
            self.hand_to_store(received, appended, group.messages);
        }
        for (acks, position) in group.acks {
            acks.send_replace(Some(position));
        }
    }

    fn append(&mut self, received: Timestamp, group: &Group) -> Vec<Appended> {
        loop {
            let before = self.journal.segment_path().to_owned();
            match self.journal.append(received, group.messages.iter().map(|(bytes, _)| bytes.as_slice())) {
                Ok(appended) => {
                    if before != self.journal.segment_path() {
                        self.trim();
                    }
                    return appended;
                }
                Err(error) => {
                    tracing::error!("{}", events::sentence(&error));
                    self.trim();
                    std::thread::sleep(RETRY);
                }
            }
        }
    }

    fn trim(&self) {
        match self.journal.trim(self.journal_bytes_max) {
            Ok(0) => {}
            Ok(count) => tracing::info!("journal is over its size: {count} old segments deleted"),
            Err(error) => tracing::error!("{}", events::sentence(&error)),
        }
    }

    fn hand_to_store(
        &self,
        received: Timestamp,
        appended: Vec<Appended>,
        messages: Vec<(Vec<u8>, Received)>,
    ) {
        let entries = appended.into_iter().zip(messages).map(|(appended, (_, message))| Entry {
            index: appended.index,
            hash: appended.hash,
            received,
            message: Some(message),
        });
        // The store ends only with us, or when it failed and said so; the journal has the events.
        let _ = self.store.blocking_send(entries.collect());
    }
}
