//! The supervisor's own life: one a state directory, a socket, and an orderly end.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::FlockOperation;

use events::emitter::EmitterError;

use super::announce::Announcer;
use super::cgroup;
use super::client;
use super::dashboard::{DASHBOARD_UID, Dashboard, DashboardError};
use super::house::House;
use super::logsink::Logsink;
use super::migrate::{self, MigrateError, Migration};
use super::network::{NETWATCH_UID, Netwatch, Network, NetworkError};
use super::on_alert;
use super::protocol::Asker;
use super::services::Services;
use crate::honeynet_file::HoneynetFile;
use crate::snapshot::store;
use crate::state::State;

/// Connections of the dashboard at one time, each a thread here; more than its own limit, so that it meets that one first.
const DASHBOARD_CLIENTS_MAX: usize = 32;

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
    /// It has no dashboard.
    #[error(transparent)]
    Dashboard(#[from] DashboardError),
    /// It has no place among its peers.
    #[error(transparent)]
    Migration(#[from] MigrateError),
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
    let (house, dashboard) = open_house(state, file, folder)?;
    let listener = listen(&house.state.socket()).map_err(step("listen"));
    let listener = listener.inspect_err(|_| close(&house))?;
    let watched = on_alert::watch(&house, &file.snapshots).map_err(step("watch for alerts"));
    watched.inspect_err(|_| close(&house))?;
    let listening = migrate::listen(&house).map_err(step("listen for migrations"));
    listening.inspect_err(|_| close(&house))?;
    house.announcer.line("the supervisor is ready");
    house.prepare();
    let clients = Clients { house: Arc::clone(&house), end, of_dashboard: Arc::default() };
    loop {
        let mut ready = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&ending, PollFlags::IN),
            PollFd::new(&dashboard, PollFlags::IN),
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
        let asked = [!ready[0].revents().is_empty(), !ready[3].revents().is_empty()];
        for (asked, listener, asker) in
            [(asked[0], &listener, Asker::Root), (asked[1], &dashboard, Asker::Dashboard)]
        {
            match asked.then(|| listener.accept()) {
                Some(Ok((socket, _))) => clients.serve(socket, asker),
                Some(Err(error)) => tracing::warn!(%error, "a client cannot be taken"),
                None => {}
            }
        }
    }
    close(&house);
    Ok(())
}

/// Opens the traversable root and the private rooms of the state directory, the network, and the services.
///
/// Answers the house, and the socket by which the dashboard asks it.
fn open_house(
    state: State,
    file: &HoneynetFile,
    folder: &Path,
) -> Result<(Arc<House>, UnixListener), SupervisorError> {
    let step = |step: &'static str| move |source: io::Error| SupervisorError::Step { step, source };
    // Services of other users pass through the root to the folders that are theirs.
    for shared in [state.root().to_owned(), state.run()] {
        std::fs::set_permissions(&shared, Permissions::from_mode(0o711)).map_err(step("open its folder"))?;
    }
    store::remove_unfinished(&state).map_err(step("take away what was not finished"))?;
    migrate::remove_unfinished(&state).map_err(step("take away what did not come"))?;
    for private in [state.pcap(), state.root().join("spool")] {
        state.make(&private).map_err(step("make its folders"))?;
    }
    chown(state.pcap(), Some(NETWATCH_UID), Some(NETWATCH_UID)).map_err(step("give netwatch its folder"))?;
    cgroup::remove_left_over();
    let dashboard = Dashboard::prepare(&state, &file.dashboard)?;
    let migration = Migration::prepare(&state, &file.migration)?;
    let network = Arc::new(Network::build(file, folder, &state)?);
    let logsink = Logsink::prepare(&state, Arc::clone(&network)).map_err(step("prepare logsink"))?;
    let announcer = Arc::new(Announcer::new(&state).map_err(SupervisorError::Announcer)?);
    let services = Services::new(Arc::clone(&announcer));
    services.keep(Arc::new(logsink)).map_err(step("start logsink"))?;
    services.keep(Arc::new(Netwatch(Arc::clone(&network)))).map_err(step("start netwatch"))?;
    // It connects as soon as it runs.
    let socket = listen(&state.dashboard_socket()).map_err(step("listen for the dashboard"))?;
    chown(state.dashboard_socket(), Some(DASHBOARD_UID), None)
        .map_err(step("give the dashboard its socket"))?;
    let url = dashboard.url();
    services.keep(Arc::new(dashboard)).map_err(step("start the dashboard"))?;
    Ok((House::new(state, announcer, network, services, migration, url), socket))
}

/// The dashboard first, so that nobody asks any more; domains next, then what they spoke to; logsink last, so that it hears of all that.
fn close(house: &House) {
    house.services.stop("dashboard");
    house.close();
    house.services.ending("netwatch");
    house.network.hang_up();
    house.services.stop("netwatch");
    house.announcer.flush();
    house.services.stop("logsink");
    house.network.remove();
    for path in [house.state.socket(), house.state.dashboard_socket(), house.state.events_socket()] {
        let _ = std::fs::remove_file(path);
    }
}

/// Who asks, each on a thread of his own.
struct Clients {
    house: Arc<House>,
    end: Arc<OwnedFd>,
    of_dashboard: Arc<AtomicUsize>,
}

impl Clients {
    fn serve(&self, socket: UnixStream, asker: Asker) {
        let (house, end) = (Arc::clone(&self.house), Arc::clone(&self.end));
        let place = match asker {
            Asker::Root => None,
            Asker::Dashboard => match Place::take(&self.of_dashboard) {
                Some(place) => Some(place),
                None => {
                    tracing::warn!(
                        "the dashboard has {DASHBOARD_CLIENTS_MAX} connections: one more is closed"
                    );
                    return;
                }
            },
        };
        let thread = std::thread::Builder::new().name("client".into()).spawn(move || {
            let _place = place;
            let down = || {
                let _ = rustix::io::write(&*end, b"x");
            };
            if let Err(error) = client::serve(&house, socket, asker, &down) {
                tracing::debug!(%error, "a client left");
            }
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "a client cannot be served");
        }
    }
}

/// One of the dashboard's connections; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Place> {
        // Only the thread that accepts comes here, so the number does not grow in between.
        if taken.load(Ordering::Relaxed) >= DASHBOARD_CLIENTS_MAX {
            return None;
        }
        taken.fetch_add(1, Ordering::Relaxed);
        Some(Place(Arc::clone(taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

fn listen(path: &Path) -> io::Result<UnixListener> {
    // We hold the lock: a socket that lies here is a dead one's.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}
