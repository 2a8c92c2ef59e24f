//! The observer of one domain, from the supervisor's side: started when it is first needed, asked by handing it the asker's own socket, gone when
//! the domain is.

use std::fs::{File, Permissions};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use introspect::observer::{ObserverConfig, Request};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::dashboard::DASHBOARD_UID;
use super::process::Program;
use crate::jail::{Jail, OBSERVER_UID_BASE};
use crate::state::State;

/// What the child of role `observer` reads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserverProcess {
    /// What it gives away first.
    pub jail: Jail,
    /// What it looks at.
    pub config: ObserverConfig,
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
    /// The kernel.
    pub kernel: File,
    /// RAM, for reading only.
    pub ram: File,
    /// The shim's memory.
    pub shim: File,
    /// What the VMM rings.
    pub bell: OwnedFd,
    /// Its standard error.
    pub log: File,
}

/// One domain's observer.
pub struct Observer {
    state: State,
    sight: Sight,
    // Held while the process is started, so that there is one; a question is sent under it, which does not wait.
    link: Mutex<Option<OwnedFd>>,
}

impl Observer {
    /// None runs yet.
    pub fn new(state: State, sight: Sight) -> Observer {
        Observer { state, sight, link: Mutex::new(None) }
    }

    /// The shim's memory of its domain.
    pub fn shim(&self) -> &File {
        &self.sight.shim
    }

    /// Starts it, if none runs.
    pub fn start(&self) -> io::Result<()> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if link.is_none() {
            *link = Some(self.launch()?);
        }
        Ok(())
    }

    /// Asks it; the answer goes to `asker` directly.
    pub fn ask(&self, request: &Request, asker: &UnixStream) -> io::Result<()> {
        let text = serde_json::to_vec(request)?;
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = &*link
            && send(socket, &text, asker).is_ok()
        {
            return Ok(());
        }
        // None runs, or it has ended.
        let socket = self.launch()?;
        let sent = send(&socket, &text, asker);
        *link = Some(socket);
        sent
    }

    /// Has it end.
    pub fn close(&self) {
        // It ends when nobody can ask it any more.
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn launch(&self) -> io::Result<OwnedFd> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let sight = &self.sight;
        let jail = Jail { uid: Some(OBSERVER_UID_BASE + sight.domid), isolated: true };
        let mut descriptors = super::process::Descriptors::default();
        let config = ObserverConfig {
            name: sight.name.clone(),
            domid: sight.domid,
            memory_mib: sight.memory_mib,
            vcpus: sight.vcpus,
            kernel_fd: descriptors.hand_copy(&sight.kernel)?,
            ram_fd: descriptors.hand_copy(&sight.ram)?,
            shim_fd: descriptors.hand_copy(&sight.shim)?,
            bell_fd: descriptors.hand_copy(&sight.bell)?,
            requests_fd: descriptors.hand(theirs),
            tty_fd: descriptors.hand(folder(&self.state.tty())?),
            sessions_fd: descriptors.hand(folder(&self.state.sessions())?),
            samples_fd: descriptors.hand(folder(&self.state.samples())?),
            // Without logsink it looks all the same.
            events_fd: UnixStream::connect(self.state.events_socket())
                .ok()
                .map(|socket| descriptors.hand(socket)),
        };
        let log = sight.log.try_clone()?.into();
        let mut program = Program::new("observer", &ObserverProcess { jail, config }, log)?;
        program.descriptors = descriptors;
        program.own_pids = true;
        let name = sight.name.clone();
        program.start(move |exit| {
            if !exit.success() {
                tracing::warn!(%exit, name, "the observer of a domain ended");
            }
        })?;
        Ok(ours)
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
