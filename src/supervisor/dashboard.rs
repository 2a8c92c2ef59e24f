//! The dashboard as a service: its listening socket is the supervisor's, so browsers find it while it starts anew. It reads the store
//! and the cases through its group, and is handed hashes of the secrets that it is asked for.

use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use dashboard::{Config, TlsPem};
use forensics::CaseKey;
use serde::{Deserialize, Serialize};

use super::process::{Descriptors, Program};
use super::services::Service;
use crate::certificate::{self, CertificateError};
use crate::honeynet_file;
use crate::jail::Jail;
use crate::password::{self, PasswordError};
use crate::state::State;

/// The dashboard's own user.
pub const DASHBOARD_UID: u32 = 199_003;

/// What the child of role `dashboard` reads.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DashboardProcess {
    /// What it gives away first.
    pub jail: Jail,
    /// What it runs.
    pub config: Config,
}

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// Its address is somebody's.
    #[error("the dashboard cannot listen at {listen} (dashboard.listen)")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its password or token.
    #[error("the dashboard has no password")]
    Password(#[from] PasswordError),
    /// Its certificate.
    #[error("the dashboard has no certificate")]
    Certificate(#[from] CertificateError),
    /// The cases.
    #[error("the dashboard cannot be given the cases to read")]
    Evidence(#[source] io::Error),
}

/// The service.
pub struct Dashboard {
    state: State,
    listener: TcpListener,
    listen: SocketAddr,
    names: Vec<String>,
}

impl Dashboard {
    /// Takes the address, and makes what the dashboard will be handed.
    pub fn prepare(state: &State, file: &honeynet_file::Dashboard) -> Result<Dashboard, DashboardError> {
        let taken = |source| DashboardError::Listen { listen: file.listen, source };
        let listener = TcpListener::bind(file.listen).map_err(taken)?;
        let listen = listener.local_addr().map_err(taken)?;
        let dashboard = Dashboard { state: state.clone(), listener, listen, names: file.names.clone() };
        password::hash(state)?;
        password::api_token(state)?;
        dashboard.tls()?;
        share_all(state).map_err(DashboardError::Evidence)?;
        Ok(dashboard)
    }

    /// Where browsers find it.
    pub fn url(&self) -> String {
        let scheme = if self.listen.ip().is_loopback() { "http" } else { "https" };
        format!("{scheme}://{}/", self.listen)
    }

    fn tls(&self) -> Result<Option<TlsPem>, CertificateError> {
        if self.listen.ip().is_loopback() {
            return Ok(None);
        }
        let (certificate, key) = certificate::load_or_make(&self.state, self.listen, &self.names)?;
        Ok(Some(TlsPem { certificate, key }))
    }
}

impl Service for Dashboard {
    fn role(&self) -> &'static str {
        "dashboard"
    }

    // Password, token and certificate are read each time: whoever changes one ends the dashboard, and it starts with the new one.
    fn program(&self) -> io::Result<Program> {
        let mut descriptors = Descriptors::default();
        let token = password::api_token(&self.state).map_err(io::Error::other)?;
        self.state.make(&self.state.keys())?;
        let key = CaseKey::load_or_create(&self.state.keys()).map_err(io::Error::other)?;
        let config = Config {
            listen_fd: descriptors.hand_copy(&self.listener)?,
            supervisor: self.state.dashboard_socket(),
            events: self.state.events_socket(),
            store: logsink::store_path(self.state.root()),
            evidence: self.state.evidence(),
            sessions: self.state.sessions(),
            tty: self.state.tty(),
            samples: self.state.samples(),
            password_hash: password::hash(&self.state).map_err(io::Error::other)?,
            token_hash: Some(blake3::hash(token.as_bytes()).to_hex().to_string()),
            case_key: Some(key.public()),
            tls: self.tls().map_err(io::Error::other)?,
            names: self.names.clone(),
        };
        let jail = Jail { uid: Some(DASHBOARD_UID), isolated: false };
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let mut program = Program::new(self.role(), &DashboardProcess { jail, config }, stderr)?;
        program.descriptors = descriptors;
        Ok(program)
    }
}

/// Lets the dashboard read all cases, also those of runs before it was there.
fn share_all(state: &State) -> io::Result<()> {
    let evidence = state.evidence();
    state.make(&evidence)?;
    chown(&evidence, None, Some(DASHBOARD_UID))?;
    std::fs::set_permissions(&evidence, Permissions::from_mode(0o750))?;
    for entry in std::fs::read_dir(&evidence)? {
        let entry = entry?;
        // What is being written, or was broken off, is nobody's to read.
        if entry.file_type()?.is_dir() && !entry.file_name().to_string_lossy().starts_with('.') {
            share_case(&entry.path())?;
        }
    }
    Ok(())
}

/// Lets the dashboard read a case.
pub fn share_case(case: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(case)? {
        let entry = entry?;
        // Everything in a case is a file of ours; a link would lead to something else.
        if entry.file_type()?.is_file() {
            chown(entry.path(), None, Some(DASHBOARD_UID))?;
            std::fs::set_permissions(entry.path(), Permissions::from_mode(0o640))?;
        }
    }
    chown(case, None, Some(DASHBOARD_UID))?;
    std::fs::set_permissions(case, Permissions::from_mode(0o750))
}
