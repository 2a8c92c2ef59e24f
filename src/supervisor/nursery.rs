//! Domain processes that wait for a domain: executed, jailed and in their control group ahead of time, which takes tens of milliseconds, so
//! that a clone begins within one packet's patience.
//!
//! What such a process is to be comes as one message on a socket: the configuration (JSON), and the descriptors that it names.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use honeyvmm::config::DomainConfig;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::cgroup::MemoryGroup;
use super::process::{Descriptors, Program};
use crate::jail::{DOMAIN_UID_BASE, Jail, OBSERVER_UID_BASE};

/// The longest configuration: some dozens of numbers, and a command line.
const CONFIG_BYTES_MAX: usize = 64 * 1024;
/// Descriptors of one message: the kernel's SCM_MAX_FD.
const DESCRIPTORS_MAX: usize = 253;
/// Users of domain processes: up to the first one of observers.
const UIDS: u32 = OBSERVER_UID_BASE - DOMAIN_UID_BASE - 1;

/// What the child of role `honeyvmm` reads at first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainProcess {
    /// What it gives away.
    pub jail: Jail,
    /// The socket on which its domain comes then.
    pub domain_fd: RawFd,
}

/// What is done when the process ends.
type Ended = Box<dyn FnOnce(ExitStatus) + Send>;

/// What became of a process, and of who wants to know it.
enum Fate {
    Waits,
    Adopted(Ended),
    Gone(ExitStatus),
}

/// A domain process without a domain.
pub struct Spare {
    pid: u32,
    socket: OwnedFd,
    group: Option<MemoryGroup>,
    fate: Arc<Mutex<Option<Fate>>>,
    numbering: Descriptors,
    // Its standard error: a file without a name, until its domain has one.
    log: File,
}

impl Spare {
    /// Starts one, whose log lies in the file system of this folder; it ends when it is dropped.
    pub fn start(folder: &Path) -> io::Result<Spare> {
        // Its user is nobody else's, now or later; domains have numbers of their own, which they get when they are built.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed) % UIDS + 1;
        let (socket, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut descriptors = Descriptors::default();
        let domain_fd = descriptors.hand(theirs);
        let jail = Jail { uid: Some(DOMAIN_UID_BASE + number), isolated: true };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let log = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?);
        let program = Program::new("honeyvmm", &DomainProcess { jail, domain_fd }, log.try_clone()?.into());
        let mut program = program?;
        let numbering = Descriptors::after(&descriptors);
        program.descriptors = descriptors;
        program.own_pids = true;
        let fate = Arc::new(Mutex::new(Some(Fate::Waits)));
        let seen = Arc::clone(&fate);
        let pid = program.start(move |exit| ended(&seen, exit))?;
        let group = MemoryGroup::enclose(&format!("domain-{number}"), pid).unwrap_or_else(|error| {
            tracing::warn!(%error, number, "no memory limit for this domain's process");
            None
        });
        Ok(Spare { pid, socket, group, fate, numbering, log })
    }

    /// What it writes lies there from now on.
    pub fn name_log(&self, path: &Path) -> io::Result<File> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let unnamed = format!("/proc/self/fd/{}", self.log.as_raw_fd());
        rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
        self.log.try_clone()
    }

    /// Descriptors for it, numbered as it will have them.
    pub fn descriptors(&self) -> Descriptors {
        Descriptors::after(&self.numbering)
    }

    /// Gives it its domain. `ended` is called when the process is gone, also if it is already.
    pub fn adopt(
        self,
        config: &DomainConfig,
        descriptors: Descriptors,
        ended: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> io::Result<(u32, Option<MemoryGroup>)> {
        if let Some(group) = &self.group {
            group.limit(config.memory_mib << 20)?;
        }
        let gone = {
            let mut fate = self.fate.lock().unwrap_or_else(PoisonError::into_inner);
            match fate.take() {
                Some(Fate::Gone(exit)) => Some((exit, ended)),
                _ => {
                    *fate = Some(Fate::Adopted(Box::new(ended)));
                    None
                }
            }
        };
        match gone {
            Some((exit, ended)) => ended(exit),
            None => send(&self.socket, &serde_json::to_vec(config)?, descriptors)?,
        }
        Ok((self.pid, self.group))
    }
}

// Runs on the thread that waited for the process, which has nothing else to do any more.
fn ended(fate: &Mutex<Option<Fate>>, exit: ExitStatus) {
    let was = {
        let mut fate = fate.lock().unwrap_or_else(PoisonError::into_inner);
        let was = fate.take();
        if !matches!(was, Some(Fate::Adopted(_))) {
            *fate = Some(Fate::Gone(exit));
        }
        was
    };
    if let Some(Fate::Adopted(ended)) = was {
        ended(exit);
    }
}

fn send(socket: &OwnedFd, config: &[u8], descriptors: Descriptors) -> io::Result<()> {
    let (_, descriptors) = descriptors.into_parts();
    if config.len() > CONFIG_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::other("a domain with more devices than a process can be handed"));
    }
    let handed: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&handed)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(config)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Waits for the domain, in its process. `None`: nobody will send one any more.
///
/// # Errors
/// A message that is none, or descriptors that came under other numbers than it names.
pub fn wait_for_domain(socket: RawFd) -> io::Result<Option<DomainConfig>> {
    let mut bytes = vec![0; CONFIG_BYTES_MAX];
    let mut space = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<()>(socket, &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let count = received.bytes;
    if count == 0 {
        return Ok(None);
    }
    let mut handed: Vec<RawFd> = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = message {
            handed.extend(descriptors);
        }
    }
    // The kernel gives the lowest numbers that are free, and this process has opened nothing else.
    if handed.is_empty() || !handed.iter().copied().eq((socket + 1..).take(handed.len())) {
        return Err(io::Error::other("descriptors came under other numbers than they were sent for"));
    }
    Ok(Some(serde_json::from_slice(&bytes[..count])?))
}

/// Processes that wait.
pub struct Nursery {
    wanted: usize,
    folder: PathBuf,
    // Locked for looks and changes only, never while a process is started.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    spares: VecDeque<Spare>,
    closed: bool,
}

impl Nursery {
    /// So many, once it was filled.
    pub fn new(wanted: usize, folder: PathBuf) -> Nursery {
        Nursery { wanted, folder, waiting: Mutex::default() }
    }

    /// One that waits, if there is one.
    pub fn take(&self) -> Option<Spare> {
        self.waiting().spares.pop_front()
    }

    /// Starts those that are missing.
    pub fn fill(&self) -> io::Result<()> {
        while self.waiting().spares.len() < self.wanted {
            let spare = Spare::start(&self.folder)?;
            let mut waiting = self.waiting();
            if waiting.closed {
                return Ok(());
            }
            waiting.spares.push_back(spare);
        }
        Ok(())
    }

    /// Ends them, and those that are still on their way.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        waiting.spares.clear();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
