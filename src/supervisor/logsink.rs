//! logsink as a service: its socket is the supervisor's, so sensors find it while logsink starts anew.

use std::fs::Permissions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use logsink::Config;
use serde::{Deserialize, Serialize};

use super::dashboard::DASHBOARD_UID;
use super::network::Network;
use super::process::{Descriptors, Program};
use super::services::Service;
use crate::jail::Jail;
use crate::state::State;

/// logsink's own user.
pub const LOGSINK_UID: u32 = 199_001;

/// What the child of role `logsink` reads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsinkProcess {
    /// What it gives away first.
    pub jail: Jail,
    /// What it runs.
    pub config: Config,
}

/// The service.
pub struct Logsink {
    state: State,
    events: UnixListener,
    network: Arc<Network>,
}

impl Logsink {
    /// Binds the sensors' socket and makes logsink's folders.
    pub fn prepare(state: &State, network: Arc<Network>) -> io::Result<Logsink> {
        let path = state.events_socket();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let events = UnixListener::bind(&path)?;
        // The dashboard connects by itself, again and again; other sensors are handed their connection.
        chown(&path, None, Some(DASHBOARD_UID))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o660))?;
        for (folder, group) in [(state.journal(), LOGSINK_UID), (state.store(), DASHBOARD_UID)] {
            state.make(&folder)?;
            own(&folder, group)?;
        }
        // The dashboard reads the store (never writes it); what is made in the folder takes the folder's group.
        std::fs::set_permissions(state.store(), Permissions::from_mode(0o2750))?;
        Ok(Logsink { state: state.clone(), events, network })
    }
}

/// Gives a folder and what is in it to logsink's user and this group; an earlier run may have been somebody else's.
fn own(folder: &std::path::Path, group: u32) -> io::Result<()> {
    chown(folder, Some(LOGSINK_UID), Some(group))?;
    for entry in std::fs::read_dir(folder)? {
        chown(entry?.path(), Some(LOGSINK_UID), Some(group))?;
    }
    Ok(())
}

impl Service for Logsink {
    fn role(&self) -> &'static str {
        "logsink"
    }

    fn program(&self) -> io::Result<Program> {
        let mut descriptors = Descriptors::default();
        let mut config = Config::new(self.state.root());
        config.events_fd = Some(descriptors.hand_copy(&self.events)?);
        config.syslog_tcp_fds = vec![descriptors.hand_copy(&self.network.syslog_tcp)?];
        config.syslog_udp_fds = vec![descriptors.hand_copy(&self.network.syslog_udp)?];
        let jail = Jail { uid: Some(LOGSINK_UID), isolated: false };
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let mut program = Program::new(self.role(), &LogsinkProcess { jail, config }, stderr)?;
        program.descriptors = descriptors;
        Ok(program)
    }
}
