//! The observer of one domain, from the supervisor's side: started when it is first needed, started again when it ends unasked, asked by
//! handing it the asker's own socket, gone when the domain is.

use std::fs::{File, Permissions};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use events::{Event, EventId};
use introspect::observer::{ObserverConfig, Request};
use jiff::Timestamp;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::announce::Announcer;
use super::dashboard::DASHBOARD_UID;
use super::nursery::{Nursery, Spare};
use super::ram::Ram;
use crate::jail::{Jail, OBSERVER_UID_BASE};
use crate::state::State;

/// The first pause before it is started again: short, for a guest that is recorded waits for its reader. It doubles each time up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// One that lived so long starts again with the first pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// So many that ended sooner, one after the other, and the next one starts only when somebody asks a question.
const FAILURES_MAX: u32 = 12;
/// After so many the next one does not read what was recorded meanwhile: that may be what they end of.
const SKIPS_AFTER: u32 = 3;

/// What the child of role `observer` reads at first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserverProcess {
    /// What it gives away.
    pub jail: Jail,
    /// The kernel of the domain that it will look at.
    pub kernel_fd: RawFd,
    /// The socket on which that comes then: an `ObserverConfig`.
    pub work_fd: RawFd,
}

/// One that knows this kernel, and has no domain yet.
pub fn spare(kernel: &File, folder: &Path) -> io::Result<Spare> {
    let jail = Jail { uid: None, isolated: true };
    Spare::start("observer", folder, |work_fd, descriptors| {
        Ok(ObserverProcess { jail, kernel_fd: descriptors.hand_copy(kernel)?, work_fd })
    })
}

/// What it looks at.
pub struct Sight {
    /// The domain's name.
    pub name: String,
    /// Its number.
    pub domid: u32,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Vcpus that it may ever have.
    pub vcpus: u32,
    /// Where processes that know its kernel come from.
    pub spares: Arc<Nursery>,
    /// Its folder, for what they say.
    pub folder: PathBuf,
    /// RAM.
    pub ram: Arc<Ram>,
    /// The shim's memory.
    pub shim: File,
    /// What the VMM rings.
    pub bell: OwnedFd,
}

/// One domain's observer.
pub struct Observer(Arc<Keeper>);

struct Keeper {
    state: State,
    announcer: Arc<Announcer>,
    sight: Sight,
    // Held while the process is started, so that there is one; a question is sent under it, which does not wait.
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    socket: Option<OwnedFd>,
    pid: Option<u32>,
    // Which process it is, so that the end of one is not taken for its successor's.
    number: u64,
    // Of processes that ended too soon, one after the other.
    failures: u32,
    closed: bool,
}

impl Observer {
    /// None runs yet.
    pub fn new(state: State, announcer: Arc<Announcer>, sight: Sight) -> Observer {
        Observer(Arc::new(Keeper { state, announcer, sight, link: Mutex::default() }))
    }

    /// The shim's memory of its domain.
    pub fn shim(&self) -> &File {
        &self.0.sight.shim
    }

    /// Starts it, if none runs.
    pub fn start(&self) -> io::Result<()> {
        let mut link = self.0.link();
        if link.socket.is_none() {
            self.0.launch(&mut link)?;
        }
        Ok(())
    }

    /// Its pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.0.link().pid
    }

    /// Asks it; the answer goes to `asker` directly.
    pub fn ask(&self, request: &Request, asker: &UnixStream) -> io::Result<()> {
        let text = serde_json::to_vec(request)?;
        let mut link = self.0.link();
        if let Some(socket) = &link.socket
            && send(socket, &text, asker).is_ok()
        {
            return Ok(());
        }
        // None runs, or it has ended.
        let socket = self.0.launch(&mut link)?;
        send(socket, &text, asker)
    }

    /// Has it end.
    pub fn close(&self) {
        let mut link = self.0.link();
        link.closed = true;
        // It ends when nobody can ask it any more.
        link.socket = None;
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Keeper {
    fn launch<'a>(self: &Arc<Keeper>, link: &'a mut Link) -> io::Result<&'a OwnedFd> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (keeper, number, begun) = (Arc::clone(self), link.number + 1, Instant::now());
        let pid = self.begin(theirs, link.failures >= SKIPS_AFTER, move |exit| {
            keeper.ended(number, exit, begun);
        })?;
        (link.number, link.pid) = (number, Some(pid));
        self.announcer.event(self.event(EventId::ServiceStarted).with("pid", pid));
        Ok(link.socket.insert(ours))
    }

    // Runs on the thread that waited for the process, which has nothing else to do any more.
    fn ended(self: Arc<Keeper>, number: u64, exit: ExitStatus, begun: Instant) {
        let mut link = self.link();
        let replaced = link.number != number;
        if !replaced {
            (link.socket, link.pid) = (None, None);
        }
        if link.closed {
            return;
        }
        link.failures = if begun.elapsed() > HEALTHY_AFTER { 1 } else { link.failures + 1 };
        let mut failures = link.failures;
        drop(link);
        self.announcer.event(self.event(EventId::ServiceFailed).with("reason", exit.to_string()));
        while !replaced && failures <= FAILURES_MAX {
            std::thread::sleep(PAUSE_FIRST.saturating_mul(1 << (failures - 1).min(16)).min(PAUSE_LAST));
            let mut link = self.link();
            // A question may have started the next one meanwhile.
            if link.closed || link.number != number {
                return;
            }
            let Err(error) = self.launch(&mut link) else { return };
            link.failures += 1;
            failures = link.failures;
            drop(link);
            self.announcer
                .line(&format!("the observer of domain {} does not start: {error}", self.sight.name));
        }
        if !replaced {
            self.announcer.line(&format!(
                "domain {} is observed no more until somebody looks into it: its observer ended {failures} times",
                self.sight.name
            ));
        }
    }

    fn event(&self, id: EventId) -> Event {
        let event = Event::new(id, Timestamp::now()).domain(self.sight.name.clone(), Some(self.sight.domid));
        event.with("service", "observer")
    }

    fn begin(
        &self,
        requests: OwnedFd,
        skip_unread: bool,
        ended: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> io::Result<u32> {
        let sight = &self.sight;
        let spare = sight.spares.take()?;
        let log = sight.folder.join("observer.log");
        // The last words of the one before.
        let _ = std::fs::rename(&log, sight.folder.join("observer.log.1"));
        spare.name_log(&log)?;
        let mut descriptors = spare.descriptors();
        let (ram, at) = sight.ram.reader()?;
        let config = ObserverConfig {
            name: sight.name.clone(),
            domid: sight.domid,
            memory_mib: sight.memory_mib,
            vcpus: sight.vcpus,
            skip_unread,
            ram_fd: descriptors.hand(ram),
            ram_at: sight.ram.is_in_process().then_some(at),
            saved_fd: sight.ram.saved()?.map(|file| descriptors.hand(file)),
            shim_fd: descriptors.hand_copy(&sight.shim)?,
            bell_fd: descriptors.hand_copy(&sight.bell)?,
            requests_fd: descriptors.hand(requests),
            tty_fd: descriptors.hand(folder(&self.state.tty())?),
            sessions_fd: descriptors.hand(folder(&self.state.sessions())?),
            samples_fd: descriptors.hand(folder(&self.state.samples())?),
            // Without logsink it looks all the same.
            events_fd: UnixStream::connect(self.state.events_socket())
                .ok()
                .map(|socket| descriptors.hand(socket)),
        };
        let pid = spare.pid();
        spare.adopt(OBSERVER_UID_BASE + sight.domid, &config, descriptors, ended)?;
        Ok(pid)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Observers make files there that the dashboard reads; none can list the folder, nor touch what another made (the sticky bit).
const FOLDER_MODE: u32 = 0o3773;

fn folder(path: &Path) -> io::Result<OwnedFd> {
    std::fs::create_dir_all(path)?;
    chown(path, None, Some(DASHBOARD_UID))?;
    std::fs::set_permissions(path, Permissions::from_mode(FOLDER_MODE))?;
    Ok(File::open(path)?.into())
}

fn send(socket: &OwnedFd, text: &[u8], asker: &UnixStream) -> io::Result<()> {
    let handed = [asker.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&handed)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(text)], &control, flags, None)?;
    Ok(())
}
