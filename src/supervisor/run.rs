//! The supervisor's own life: one a state directory, a socket, and an orderly end.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::FlockOperation;

use events::emitter::EmitterError;

use super::announce::Announcer;
use super::client;
use super::house::House;
use super::logsink::Logsink;
use super::network::{NETWATCH_UID, Netwatch, Network, NetworkError};
use super::services::Services;
use crate::honeynet_file::HoneynetFile;
use crate::state::State;

/// Why the supervisor does not run.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// There is one for this state directory.
    #[error("a supervisor runs for {root} already")]
    Running {
        /// The state directory.
        root: PathBuf,
    },
    /// Not root.
    #[error("the supervisor must be started by root")]
    NotRoot,
    /// It has no network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// It has no voice.
    #[error("the supervisor cannot tell events")]
    Announcer(#[source] EmitterError),
    /// A step failed.
    #[error("the supervisor cannot {step}")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs until `down` is asked for or SIGTERM or SIGINT comes; then takes everything down.
pub fn run(state: State, file: &HoneynetFile, folder: &Path) -> Result<(), SupervisorError> {
    let step = |step: &'static str| move |source: io::Error| SupervisorError::Step { step, source };
    if !rustix::process::geteuid().is_root() {
        return Err(SupervisorError::NotRoot);
    }
    state.make(&state.run()).map_err(step("make its folder"))?;
    let _lock = lock(&state)?;
    // Blocked before the first thread, so that no thread takes them and a signalfd does.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(io::Error::from).map_err(step("block signals"))?;
    let signals = nix::sys::signalfd::SignalFd::new(&signals)
        .map_err(io::Error::from)
        .map_err(step("wait for signals"))?;
    let (ending, end): (OwnedFd, OwnedFd) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(step("make a pipe"))?;
    let end = Arc::new(end);
    let house = open_house(state, file, folder)?;
    let listener = listen(&house.state).map_err(step("listen"));
    let listener = listener.inspect_err(|_| close(&house))?;
    house.announcer.line("the supervisor is ready");
    loop {
        let mut ready = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&ending, PollFlags::IN),
        ];
        match rustix::event::poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => {
                close(&house);
                return Err(step("wait")(errno.into()));
            }
            Ok(_) => {}
        }
        if !ready[1].revents().is_empty() || !ready[2].revents().is_empty() {
            break;
        }
        match listener.accept() {
            Ok((socket, _)) => serve(&house, socket, Arc::clone(&end)),
            Err(error) => tracing::warn!(%error, "a client cannot be taken"),
        }
    }
    close(&house);
    Ok(())
}

/// Opens the traversable root and the private rooms of the state directory, the network, and the services.
fn open_house(state: State, file: &HoneynetFile, folder: &Path) -> Result<Arc<House>, SupervisorError> {
    let step = |step: &'static str| move |source: io::Error| SupervisorError::Step { step, source };
    // Services of other users pass through the root to the folders that are theirs.
    for shared in [state.root().to_owned(), state.run()] {
        std::fs::set_permissions(&shared, Permissions::from_mode(0o711)).map_err(step("open its folder"))?;
    }
    for private in [state.pcap(), state.root().join("spool")] {
        state.make(&private).map_err(step("make its folders"))?;
    }
    chown(state.pcap(), Some(NETWATCH_UID), Some(NETWATCH_UID)).map_err(step("give netwatch its folder"))?;
    let network = Arc::new(Network::build(file, folder, &state)?);
    let logsink = Logsink::prepare(&state, Arc::clone(&network)).map_err(step("prepare logsink"))?;
    let announcer = Arc::new(Announcer::new(&state).map_err(SupervisorError::Announcer)?);
    let services = Services::new(Arc::clone(&announcer));
    services.keep(Arc::new(logsink)).map_err(step("start logsink"))?;
    services.keep(Arc::new(Netwatch(Arc::clone(&network)))).map_err(step("start netwatch"))?;
    Ok(House::new(state, announcer, network, services))
}

/// Domains first, then what they spoke to; logsink last, so that it hears of all that.
fn close(house: &House) {
    house.close();
    house.services.ending("netwatch");
    house.network.hang_up();
    house.services.stop("netwatch");
    house.announcer.flush();
    house.services.stop("logsink");
    house.network.remove();
    for path in [house.state.socket(), house.state.events_socket()] {
        let _ = std::fs::remove_file(path);
    }
}

fn serve(house: &Arc<House>, socket: UnixStream, end: Arc<OwnedFd>) {
    let house = Arc::clone(house);
    let thread = std::thread::Builder::new().name("client".into()).spawn(move || {
        let down = || {
            let _ = rustix::io::write(&*end, b"x");
        };
        if let Err(error) = client::serve(&house, socket, &down) {
            tracing::debug!(%error, "a client left");
        }
    });
    if let Err(error) = thread {
        tracing::warn!(%error, "a client cannot be served");
    }
}

fn lock(state: &State) -> Result<File, SupervisorError> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(state.lock());
    let file = opened.map_err(|source| SupervisorError::Step { step: "open its lock", source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(SupervisorError::Running { root: state.root().to_owned() }),
    }
}

fn listen(state: &State) -> io::Result<UnixListener> {
    let path = state.socket();
    // We hold the lock: a socket that lies here is a dead one's.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}
