//! Processes that wait for a domain, to run it or to look at it: executed and jailed ahead of time, which takes tens of milliseconds, so that a
//! clone begins within one packet's patience.
//!
//! What such a process is to do comes as one message on a socket: its work (JSON), and the descriptors that this names. Until then
//! it is root in an empty room, and has read nothing that a guest could have written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::{Descriptors, Program};
use crate::jail::{self, JailError};

/// The longest message: some dozens of numbers, and a command line.
const WORK_BYTES_MAX: usize = 64 * 1024;
/// Descriptors of one message: the kernel's SCM_MAX_FD.
const DESCRIPTORS_MAX: usize = 253;

/// What is sent: who it becomes, and what it does then.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work<T> {
    uid: u32,
    work: T,
}

/// What is done when the process ends.
type Ended = Box<dyn FnOnce(ExitStatus) + Send>;

/// What became of a process, and of who wants to know it.
enum Fate {
    Waits,
    Adopted(Ended),
    Gone(ExitStatus),
}

/// A process that waits for its work.
pub struct Spare {
    pid: u32,
    socket: OwnedFd,
    fate: Arc<Mutex<Option<Fate>>>,
    numbering: Descriptors,
    // Its standard error: a file without a name, until its domain has one.
    log: File,
}

impl Spare {
    /// Starts one, whose log lies in the file system of this folder; it ends when it is dropped. `config` makes what it reads at its start, from
    /// the number of the socket that its work comes on.
    pub fn start<T: Serialize>(
        role: &'static str,
        folder: &Path,
        config: impl FnOnce(RawFd, &mut Descriptors) -> io::Result<T>,
    ) -> io::Result<Spare> {
        let (socket, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let log = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?);
        let mut descriptors = Descriptors::default();
        let work_fd = descriptors.hand(theirs);
        // What else it is handed now, it has closed when its work comes.
        let numbering = Descriptors::after(&descriptors);
        let config = config(work_fd, &mut descriptors)?;
        let mut program = Program::new(role, &config, log.try_clone()?.into())?;
        program.descriptors = descriptors;
        program.own_pids = true;
        let fate = Arc::new(Mutex::new(Some(Fate::Waits)));
        let seen = Arc::clone(&fate);
        let pid = program.start(move |exit| ended(&seen, exit))?;
        Ok(Spare { pid, socket, fate, numbering, log })
    }

    /// Its number among the host's processes.
    pub fn pid(&self) -> u32 {
        self.pid
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

    /// Gives it its work, as this user. `ended` is called when the process is gone, also if it is already.
    pub fn adopt(
        self,
        uid: u32,
        work: &impl Serialize,
        descriptors: Descriptors,
        ended: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> io::Result<()> {
        let work = serde_json::to_vec(&Work { uid, work })?;
        let mut fate = self.fate.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Fate::Gone(exit)) = fate.take() {
            drop(fate);
            ended(exit);
            return Ok(());
        }
        *fate = Some(Fate::Adopted(Box::new(ended)));
        drop(fate);
        send(&self.socket, &work, descriptors)
    }
}

// Runs on the thread that waited for the process, which has nothing else to do any more.
fn ended(fate: &Mutex<Option<Fate>>, exit: ExitStatus) {
    let mut fate = fate.lock().unwrap_or_else(PoisonError::into_inner);
    match fate.take() {
        Some(Fate::Adopted(ended)) => {
            drop(fate);
            ended(exit);
        }
        _ => *fate = Some(Fate::Gone(exit)),
    }
}

fn send(socket: &OwnedFd, work: &[u8], descriptors: Descriptors) -> io::Result<()> {
    let descriptors = descriptors.into_numbered();
    if work.len() > WORK_BYTES_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::other("a domain with more devices than a process can be handed"));
    }
    let handed: Vec<RawFd> = descriptors.iter().map(|(_, descriptor)| descriptor.as_raw_fd()).collect();
    let control = [ControlMessage::ScmRights(&handed)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(work)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Why there is no work.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// What came is no work, or its descriptors are not where it says.
    #[error("cannot take the work that was sent")]
    Message(#[source] io::Error),
    /// It cannot become who it is to be.
    #[error(transparent)]
    Jail(#[from] JailError),
}

/// Waits for the work, in the process that is to do it, and becomes who does it. `None`: nobody will send any.
///
/// # Errors
/// [`WaitError`]: then nothing was begun.
pub fn wait_for_work<T: DeserializeOwned>(socket: RawFd) -> Result<Option<T>, WaitError> {
    let received = receive(socket).map_err(WaitError::Message)?;
    let Some(bytes) = received else { return Ok(None) };
    let Work { uid, work } =
        serde_json::from_slice(&bytes).map_err(|source| WaitError::Message(source.into()))?;
    jail::settle(Some(uid))?;
    Ok(Some(work))
}

fn receive(socket: RawFd) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; WORK_BYTES_MAX];
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
    // The kernel gives the lowest numbers that are free, and this process has opened nothing that it has not closed.
    if !handed.iter().copied().eq((socket + 1..).take(handed.len())) {
        return Err(io::Error::other("descriptors came under other numbers than they were sent for"));
    }
    bytes.truncate(count);
    Ok(Some(bytes))
}

/// How one process is started.
type Start = dyn Fn() -> io::Result<Spare> + Send + Sync;

/// Processes of one kind that wait.
pub struct Nursery {
    wanted: usize,
    start: Box<Start>,
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
    pub fn new(wanted: usize, start: impl Fn() -> io::Result<Spare> + Send + Sync + 'static) -> Nursery {
        Nursery { wanted, start: Box::new(start), waiting: Mutex::default() }
    }

    /// One that waits, or a new one.
    pub fn take(&self) -> io::Result<Spare> {
        let waiting = self.waiting().spares.pop_front();
        waiting.map_or_else(|| (self.start)(), Ok)
    }

    /// Starts those that are missing.
    pub fn fill(&self) -> io::Result<()> {
        while self.waiting().spares.len() < self.wanted {
            let spare = (self.start)()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process makes of one message; nothing here is its descriptor but the socket.
    fn taken(message: &[u8]) -> Result<Option<serde_json::Value>, WaitError> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        match message {
            [] => drop(ours),
            message => drop(rustix::net::send(&ours, message, rustix::net::SendFlags::empty()).unwrap()),
        }
        wait_for_work(theirs.as_raw_fd())
    }

    #[test]
    fn a_socket_that_closes_means_that_there_is_no_work() {
        assert!(taken(b"").unwrap().is_none());
    }

    #[test]
    fn messages_that_are_no_work_begin_nothing() {
        for message in [
            "{",
            "[]",
            "null",
            "{\"uid\": 1}",
            "{\"uid\": -1, \"work\": {}}",
            "{\"uid\": 1, \"work\": {}, \"more\": 1}",
        ] {
            let error = taken(message.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), "cannot take the work that was sent", "{message}");
        }
    }

    #[test]
    fn work_for_more_devices_than_can_be_handed_is_not_sent() {
        let (ours, _theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let error = send(&ours, &vec![b' '; WORK_BYTES_MAX + 1], Descriptors::default()).unwrap_err();
        assert_eq!(error.to_string(), "a domain with more devices than a process can be handed");
    }
}
