//! The process that looks at one domain: it reads the trace, keeps its sessions, and answers what is asked about the guest.
//!
//! It is handed everything and opens nothing but files below the folders that it was handed. What comes from the guest is foreign;
//! should it break this process all the same, the domain runs on and the supervisor starts another, which goes on with the sessions that live.

mod cause;
mod clients;
mod guard;
mod requests;
mod walks;
mod wall_clock;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::Emitter;
use honeyvmm::kernel_image::{KernelImage, KernelImageError};
use honeyvmm::memory::{MemoryError, ReadOnlyRam, Region};
use honeyvmm::shim::trace::Trace;
use honeyvmm::shim::{Layout, SHIM_GPA};
use jiff::Timestamp;
use memmap2::Mmap;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::integrity::Integrity;
use crate::session::{Folders, Sessions};
use crate::symbols::{Symbols, SymbolsError};
use crate::trace::pairing::Pairing;
use crate::trace::record::{Phase, Record};
use crate::trace::ring::Ring;
use crate::trace::rings::Rings;
use crate::trace::selection::{self, Selection, SelectionError};
use crate::view::View;
use clients::Clients;
use guard::Guard;
use requests::Requests;
pub use requests::{Form, Request};
use walks::Walks;
use wall_clock::WallClock;

/// How often the rings are looked at while something is recorded; the bell rings when one is half full.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// And while nothing is.
const IDLE: Duration = Duration::from_secs(1);
/// How often the reports of sessions are written.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How often the list of processes is walked until it is whole.
const WHOLE_TRIES: u32 = 20;
/// How long the end waits for logsink.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Records, for each ring, that are taken before what they came to is told.
const BATCH: usize = 4096;

/// What the process is handed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserverConfig {
    /// The domain's name.
    pub name: String,
    /// Its number.
    pub domid: u32,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Number of vcpus.
    pub vcpus: u32,
    /// What was recorded before it came is not read: observers have ended of it.
    pub skip_unread: bool,
    /// RAM: the memfd, opened for reading only; with `ram_at`, the memory of the domain's process (`/proc/PID/mem`).
    pub ram_fd: RawFd,
    /// Where RAM is mapped in that process.
    pub ram_at: Option<u64>,
    /// Of a guest that goes on from a snapshot, the RAM that it went on with: what its kernel was before anybody came.
    pub saved_fd: Option<RawFd>,
    /// The shim's memory: a memfd.
    pub shim_fd: RawFd,
    /// Rung by the VMM when the rings should be looked at.
    pub bell_fd: RawFd,
    /// Where questions come from: one message each, with the socket to answer on.
    pub requests_fd: RawFd,
    /// The folder of recordings, `STATE/tty`.
    pub tty_fd: RawFd,
    /// The folder of sessions, `STATE/sessions`.
    pub sessions_fd: RawFd,
    /// The folder of samples, `STATE/samples`.
    pub samples_fd: RawFd,
    /// Stream socket to logsink.
    pub events_fd: Option<RawFd>,
}

/// Why a domain is not observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserverError {
    /// A descriptor does not do what it was handed for.
    #[error("cannot use the {what} that was handed in")]
    Handed {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel is none.
    #[error("the kernel cannot be read")]
    Kernel(#[from] KernelImageError),
    /// It tells nothing of itself.
    #[error("the kernel's symbols cannot be read")]
    Symbols(#[from] SymbolsError),
    /// It tells too little.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// The guest's memory cannot be read as its kernel does.
    #[error("the guest cannot be looked into")]
    View(#[from] crate::view::OpenError),
    /// Memory is not to be had.
    #[error("the domain's memory cannot be looked at")]
    Memory(#[from] MemoryError),
}

/// What is known of a kernel before there is a domain that runs it.
pub struct Kernel {
    symbols: Arc<Symbols>,
    // None: it does not tell where its text is.
    integrity: Option<Integrity>,
}

/// Reads a kernel, as far as nobody needs a domain for.
///
/// # Errors
/// Its symbols cannot be read.
pub fn prepare(kernel_fd: RawFd) -> Result<Kernel, ObserverError> {
    let kernel = map("kernel", owned(kernel_fd))?;
    let image = KernelImage::parse(&kernel)?;
    let symbols = Arc::new(Symbols::of_kernel(&image)?);
    let integrity = Integrity::new(Arc::clone(&symbols), &image);
    let integrity = integrity.inspect_err(|error| tracing::warn!(%error, "the kernel is not compared")).ok();
    Ok(Kernel { symbols, integrity })
}

/// Looks until the one who asks is gone.
///
/// # Errors
/// What keeps it from looking.
pub fn run(config: ObserverConfig, kernel: Kernel) -> Result<(), ObserverError> {
    let mut observer = Observer::new(&config, kernel)?;
    observer.take_up();
    observer.look();
    loop {
        let timeout = if observer.busy() { LOOK_EVERY } else { IDLE };
        let (rung, asked) = wait(&observer.bell, observer.requests.as_fd(), timeout)?;
        if rung {
            // Its count says nothing: the rings are looked at anyway.
            let _ = rustix::io::read(&observer.bell, &mut [0; 8]);
        }
        observer.look();
        if asked && !observer.answer() {
            observer.end();
            return Ok(());
        }
    }
}

struct Observer {
    name: String,
    ram_bytes: u64,
    rings: Rings,
    pairing: Pairing,
    // What the shim of each vcpu was told last: everything, or only the beginnings of connections.
    wide: Vec<Option<bool>>,
    bell: OwnedFd,
    requests: Requests,
    clients: Clients,
    sessions: Sessions,
    emitter: Option<Emitter>,
    wall: WallClock,
    walks: Walks,
    // None: the kernel does not tell where its text is.
    guard: Option<Guard>,
    saved: Instant,
}

impl Observer {
    fn new(config: &ObserverConfig, kernel: Kernel) -> Result<Observer, ObserverError> {
        let Kernel { symbols, integrity } = kernel;
        let ram = match config.ram_at {
            Some(at) => ReadOnlyRam::from_process(owned(config.ram_fd), at, config.memory_mib << 20),
            None => ReadOnlyRam::from_memfd(owned(config.ram_fd))?,
        };
        let walks = Walks::new(ram, &symbols)?;
        let layout = Layout { ram_bytes: config.memory_mib << 20, vcpus: config.vcpus };
        let shim = Region::from_memfd(owned(config.shim_fd), SHIM_GPA, layout.shim_bytes())?;
        let traces: Vec<Trace> =
            (0..config.vcpus).map(|vcpu| Trace::new(&shim, vcpu)).collect::<Result<_, _>>()?;
        let setup = selection::setup(&symbols, &Selection::default_set())?;
        traces.iter().try_for_each(|trace| trace.set_up(&setup))?;
        if config.skip_unread {
            traces.iter().for_each(|trace| trace.set_tail(trace.head()));
        }
        let emitter = config.events_fd.and_then(|fd| {
            let emitter = Emitter::from_fd(owned(fd), "observer");
            emitter.inspect_err(|error| tracing::warn!(%error, "no events from here")).ok()
        });
        let saved = config.saved_fd.map(|fd| ReadOnlyRam::from_memfd(owned(fd))).transpose()?;
        let saved = saved.map(|ram| View::new(ram, &symbols)).transpose()?;
        let guard = integrity.map(|integrity| Guard::new(integrity, &shim, config, saved));
        Ok(Observer {
            name: config.name.clone(),
            ram_bytes: layout.ram_bytes,
            pairing: Pairing::default(),
            wide: vec![None; traces.len()],
            rings: Rings::new(traces.into_iter().map(Ring::new).collect()),
            bell: owned(config.bell_fd),
            requests: Requests::new(owned(config.requests_fd)),
            clients: Clients::default(),
            sessions: Sessions::new(
                config.name.clone(),
                config.domid,
                Folders::new(owned(config.tty_fd), owned(config.sessions_fd), owned(config.samples_fd)),
            ),
            emitter,
            wall: WallClock::new(&shim, &layout),
            walks,
            guard,
            saved: Instant::now(),
        })
    }

    /// Goes on with what an observer has begun that is gone. Before the first look: what is recorded next may be of these sessions.
    fn take_up(&mut self) {
        let alive = (0..WHOLE_TRIES).find_map(|_| self.walks.alive());
        self.sessions.take_up(alive.as_ref(), Timestamp::now(), &self.walks);
    }

    /// The domain is gone.
    fn end(&mut self) {
        self.sessions.end(Timestamp::now(), &self.walks);
        if let Some(emitter) = &self.emitter {
            self.sessions.events().into_iter().for_each(|event| emitter.emit(event));
            emitter.flush(FLUSH_TIMEOUT);
        }
    }

    /// May records come that nobody rings for?
    fn busy(&self) -> bool {
        self.sessions.wanted() || !self.clients.selections().is_empty()
    }

    /// Takes what the rings have.
    fn look(&mut self) {
        for _ in 0..BATCH * self.rings.all().len() {
            let Some((ring, record)) = self.rings.take() else { break };
            self.record(record);
            if self.rings.is_empty(ring) {
                self.release(ring);
            }
        }
        (0..self.rings.all().len()).for_each(|ring| self.release(ring));
        if self.clients.flush() {
            self.select_all();
        }
        self.tell();
    }

    fn record(&mut self, record: Record) {
        if matches!(record.phase, Phase::Enter(_)) {
            self.sessions.before(&record, Timestamp::now(), &self.walks);
            self.clients.begins(&record, &self.wall, &self.walks);
        }
        if let Some(guard) = &mut self.guard {
            guard.begins(&record);
        }
        let Some(call) = self.pairing.take(record) else { return };
        if let Some(guard) = &mut self.guard {
            guard.ended(&call, self.walks.view());
        }
        self.clients.show(&call, &self.wall, &self.walks);
        self.sessions.take(&call, self.wall.at(&call), &self.walks);
    }

    /// Lets a vcpu that waits for its ring go on.
    fn release(&mut self, ring: usize) {
        if self.sessions.wanted()
            && let Some(guard) = &mut self.guard
        {
            guard.before_live(self.walks.view(), &self.sessions);
        }
        // Before it goes on: what it does next may be of interest only because of what it has just done.
        if self.wide[ring] != Some(self.sessions.wanted()) {
            self.select_all();
        }
        self.rings.all()[ring].release();
    }

    /// Has the shim record what is wanted now.
    fn select_all(&mut self) {
        let wide = self.sessions.wanted();
        let ours = if wide { Selection::default_set() } else { Selection::connections() };
        let mut wanted = self.clients.selections();
        wanted.push(&ours);
        let words = Selection::all_of(&wanted);
        for ring in self.rings.all() {
            // The window was found when the trace was made.
            let _ = ring.trace().set_calls(&words[0], &words[1]);
            ring.trace().arm();
        }
        self.wide.fill(Some(wide));
    }

    /// What came of it: events, and what is written of sessions.
    fn tell(&mut self) {
        let mut events = self.sessions.events();
        if let Some(guard) = &mut self.guard {
            guard.look(self.walks.view(), &self.sessions);
            events.extend(guard.events());
        }
        if let Some(emitter) = &self.emitter {
            events.into_iter().for_each(|event| emitter.emit(event));
        }
        if self.saved.elapsed() >= SAVE_EVERY {
            self.saved = Instant::now();
            if self.sessions.wanted()
                && let Some(alive) = self.walks.alive()
            {
                self.sessions.reap(&alive, Timestamp::now(), &self.walks);
            }
            if let Err(error) = self.sessions.save() {
                tracing::error!(%error, "a session is not written down");
            }
        }
    }

    /// One question. False: nobody will ask again.
    fn answer(&mut self) -> bool {
        match self.requests.next() {
            Ok(Some((request, socket))) => {
                self.serve(request, socket);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, "a question that is none");
                true
            }
        }
    }

    fn add_client(&mut self, form: Form, socket: OwnedFd, named: Option<Selection>, pid: Option<u32>) {
        match form {
            Form::Lines => {
                self.clients.add(socket, named.unwrap_or_else(Selection::default_set), pid);
            }
            Form::Scap => {
                let vcpus = u32::try_from(self.rings.all().len()).unwrap_or(u32::MAX);
                let machine = self.walks.machine(&self.name, vcpus, self.ram_bytes);
                self.clients.add_capture(socket, named, pid, &machine);
            }
        }
    }

    fn serve(&mut self, request: Request, socket: OwnedFd) {
        match request {
            Request::Trace { form, calls, pid } => match calls.as_deref().map(Selection::named).transpose() {
                Ok(named) => {
                    self.add_client(form, socket, named, pid);
                    self.select_all();
                }
                Err(error) => requests::refuse(&socket, &error),
            },
            Request::Ps => requests::give(&socket, self.walks.ps()),
            Request::Lsof { pid } => requests::give(&socket, self.walks.lsof(pid)),
            Request::Netstat => requests::give(&socket, self.walks.netstat()),
            Request::Modules => requests::give(&socket, self.walks.modules()),
            Request::Dmesg => requests::give(&socket, self.walks.dmesg()),
        }
    }
}

fn wait(bell: impl AsFd, requests: impl AsFd, timeout: Duration) -> Result<(bool, bool), ObserverError> {
    let (bell, requests) = (bell.as_fd(), requests.as_fd());
    let mut ready =
        [PollFd::from_borrowed_fd(bell, PollFlags::IN), PollFd::from_borrowed_fd(requests, PollFlags::IN)];
    let timeout =
        Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: i64::from(timeout.subsec_nanos()) };
    match poll(&mut ready, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(ObserverError::Handed { what: "bell", source: errno.into() }),
    }
    Ok((!ready[0].revents().is_empty(), !ready[1].revents().is_empty()))
}

fn map(what: &'static str, file: OwnedFd) -> Result<Mmap, ObserverError> {
    // SAFETY:
    // - The file is root's and is replaced by renaming, never written in place; were it truncated all the same, this process would end by
    //   SIGBUS, and the domain would run on.
    // - What is read from it is checked as foreign bytes and copied before the mapping goes.
    unsafe { Mmap::map(&File::from(file)) }.map_err(|source| ObserverError::Handed { what, source })
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY:
    // - The descriptor is open: the toolstack put it under this number before exec, and names each number once.
    // - Nothing else in this process owns it: each field of the configuration is taken once, by `Observer::new`.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
