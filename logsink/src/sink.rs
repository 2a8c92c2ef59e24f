//! The process: opens journal and store, brings the store up to the journal, listens, and ends in order at SIGTERM.

use std::collections::HashMap;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use events::wire::Source;
use jiff::{SignedDuration, Timestamp};
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{Config, journal_dir, socket_path, store_path};
use crate::guest::domains::Domains;
use crate::guest::flood::Flood;
use crate::guest::listen::Guests;
use crate::journal::record::SegmentError;
use crate::journal::segments::for_each_record;
use crate::journal::{Journal, JournalError};
use crate::store::{Entry, StoreError, StoreWriter};
use crate::writer::Writer;

/// Records that go into the store in one transaction at start.
const REPLAY_GROUP: usize = 2000;
/// Time between two rounds of the store's retention.
const TRIM: Duration = Duration::from_secs(60);
/// Time between two attempts of the store.
const RETRY: Duration = Duration::from_secs(1);

/// How long writer and store may take to end.
const END: Duration = Duration::from_secs(5);

/// Why the sink cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The journal.
    #[error("journal cannot be opened")]
    Journal(#[from] JournalError),
    /// The journal, when the store was brought up to it.
    #[error("journal cannot be read")]
    Replay(#[from] SegmentError),
    /// The store.
    #[error("store cannot be filled")]
    Store(#[from] StoreError),
    /// A folder or a socket.
    #[error("{path} cannot be used")]
    Path {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A descriptor that was handed in.
    #[error("descriptor {fd} is no such socket")]
    Descriptor {
        /// Its number.
        fd: RawFd,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Runtime, thread, signal or random bytes.
    #[error("sink cannot start")]
    Start(#[source] std::io::Error),
}

/// Runs until SIGTERM or SIGINT; then everything taken is on disk and in the store.
pub fn run(config: Config) -> Result<(), SinkError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(SinkError::Start)?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), SinkError> {
    let mut end = signal(SignalKind::terminate()).map_err(SinkError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(SinkError::Start)?;
    let journal = Journal::open(&journal_dir(&config.state), config.journal_segment_bytes)?;
    let store_path = store_path(&config.state);
    create_folder_of(&store_path)?;
    let mut store = StoreWriter::open(&store_path).await?;
    replay(&journal, &journal_dir(&config.state), &mut store).await?;
    let runs: HashMap<Source, (u64, u64)> =
        store.runs().await?.into_iter().map(|(source, seq, index)| (source, (seq, index))).collect();

    let run = draw_run().map_err(SinkError::Start)?;
    let (writer, inlet, entries) = Writer::new(journal, config.journal_bytes_max, runs, run);
    let mut tasks = JoinSet::new();
    let sensors = sensors_socket(&config)?;
    tasks.spawn(crate::sensors::listen(sensors, inlet.clone()));
    let flood = Flood::new(config.guest_lines_per_second, config.guest_lines_burst);
    let guests = Guests::new(inlet, Domains::new(&config.domains_path()), flood);
    for fd in &config.syslog_tcp_fds {
        let socket = handed(*fd, |fd| TcpListener::from_std(nonblocking(fd)?.into()))?;
        tasks.spawn(guests.clone().tcp(socket));
    }
    for fd in &config.syslog_udp_fds {
        let socket = handed(*fd, |fd| UdpSocket::from_std(nonblocking(fd)?.into()))?;
        tasks.spawn(guests.clone().udp(socket));
    }
    tasks.spawn(guests.housekeeping());
    let thread = std::thread::Builder::new().name("journal".into()).spawn(move || writer.run());
    let thread = thread.map_err(SinkError::Start)?;
    let filling = tokio::spawn(fill(store, entries, config));

    tokio::select! { _ = end.recv() => {}, _ = interrupt.recv() => {} }
    tasks.shutdown().await;
    finish(thread, filling).await;
    Ok(())
}

/// No inlet is left, so the writer ends when its queue is empty, and the store after it.
async fn finish(thread: std::thread::JoinHandle<()>, filling: tokio::task::JoinHandle<()>) {
    let joined = tokio::task::spawn_blocking(move || thread.join());
    if tokio::time::timeout(END, joined).await.is_err() {
        tracing::warn!("the disk takes nothing; what is not acknowledged stays with the sensors");
    } else if tokio::time::timeout(END, filling).await.is_err() {
        tracing::warn!("the store is behind the journal; it catches up at the next start");
    }
}

/// Brings the store up to the journal.
async fn replay(journal: &Journal, dir: &Path, store: &mut StoreWriter) -> Result<(), SinkError> {
    let mut stored = store.last_index().await?;
    let last = journal.head().index;
    if stored > last {
        tracing::error!("store has {stored} events, the journal {last}: the store is made anew");
        store.clear().await?;
        stored = 0;
    }
    while stored < last {
        let mut group = Vec::new();
        let read = for_each_record(dir, stored + 1, |record| {
            group.push(Entry::from(record));
            if group.len() < REPLAY_GROUP { Ok(()) } else { Err(Full::Group) }
        });
        match read {
            Ok(()) | Err(Full::Group) => {}
            Err(Full::Segment(error)) => return Err(error.into()),
        }
        store.insert(&group).await?;
        let Some(entry) = group.last() else { break };
        stored = entry.index;
    }
    Ok(())
}

/// Why the walk through the journal ends early.
enum Full {
    Group,
    Segment(SegmentError),
}

impl From<SegmentError> for Full {
    fn from(error: SegmentError) -> Full {
        Full::Segment(error)
    }
}

/// Puts groups into the store until the writer ends. A store that refuses is tried again: the writer waits, and in the end the sensors.
async fn fill(mut store: StoreWriter, mut groups: mpsc::Receiver<Vec<Entry>>, config: Config) {
    let mut trim = tokio::time::interval(TRIM);
    loop {
        tokio::select! {
            group = groups.recv() => match group {
                Some(mut group) => {
                    while let Ok(more) = groups.try_recv() {
                        group.extend(more);
                    }
                    while let Err(error) = store.insert(&group).await {
                        tracing::error!("{}", events::sentence(&error));
                        tokio::time::sleep(RETRY).await;
                    }
                }
                None => break,
            },
            _ = trim.tick() => {
                let age = config.store_days_max.map(|days| SignedDuration::from_hours(24 * i64::from(days)));
                let oldest = age.and_then(|age| Timestamp::now().checked_sub(age).ok());
                if let Err(error) = store.trim(config.store_events_max, oldest).await {
                    tracing::error!("{}", events::sentence(&error));
                }
            }
        }
    }
    if let Err(error) = store.close().await {
        tracing::error!("{}", events::sentence(&error));
    }
}

fn sensors_socket(config: &Config) -> Result<UnixListener, SinkError> {
    if let Some(fd) = config.events_fd {
        return handed(fd, |fd| UnixListener::from_std(nonblocking(fd)?.into()));
    }
    let path = socket_path(&config.state);
    create_folder_of(&path)?;
    let bind = || {
        // The journal's lock says that no other sink lives: what lies here is left of a dead one.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
        Ok(listener)
    };
    bind().map_err(|source| SinkError::Path { path: path.clone(), source })
}

fn create_folder_of(path: &Path) -> Result<(), SinkError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|source| SinkError::Path { path: folder.to_owned(), source })
}

fn handed<T>(fd: RawFd, open: impl FnOnce(OwnedFd) -> std::io::Result<T>) -> Result<T, SinkError> {
    let failed = |source| SinkError::Descriptor { fd, source };
    if fd <= 2 {
        return Err(failed(std::io::ErrorKind::InvalidInput.into()));
    }
    // SAFETY: the number comes from our own toolstack's configuration, which hands each descriptor to this process and names it once.
    // - open: checked by the calls on it, which fail with EBADF otherwise.
    // - owned: nothing else in this process knows the number.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    open(owned).map_err(failed)
}

fn nonblocking(fd: OwnedFd) -> std::io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(fd)
}

fn draw_run() -> std::io::Result<String> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}
