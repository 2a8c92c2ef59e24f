//! The state directory: which file lies where. Makes folders, opens nothing else.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where it is when nobody says otherwise.
pub const STATE_DEFAULT: &str = "/var/lib/honeynet";

/// The state directory.
#[derive(Debug, Clone)]
pub struct State {
    root: PathBuf,
}

impl State {
    /// This directory.
    pub fn new(root: impl Into<PathBuf>) -> State {
        State { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sockets and locks of the running honeynet; empty when it is down.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The supervisor's socket.
    pub fn socket(&self) -> PathBuf {
        self.run().join("honeynet.sock")
    }

    /// Held locked by the supervisor as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.run().join("supervisor.lock")
    }

    /// What the supervisor has to say.
    pub fn supervisor_log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    /// logsink's socket for events.
    pub fn events_socket(&self) -> PathBuf {
        self.run().join("events.sock")
    }

    /// Events of this sensor that logsink has not taken yet.
    pub fn spool(&self, sensor: &str) -> PathBuf {
        self.root.join("spool").join(sensor)
    }

    /// Console log, layers and dumps of one domain.
    pub fn domain(&self, name: &str) -> PathBuf {
        self.root.join("domains").join(name)
    }

    /// Cases.
    pub fn evidence(&self) -> PathBuf {
        self.root.join("evidence")
    }

    /// The key that signs cases.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// FIM baselines.
    pub fn baselines(&self) -> PathBuf {
        self.root.join("baselines")
    }

    /// Snapshots of each domain.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Kernels and images, by the hash of what made them.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Identity of this honeynet to those that domains move to and come from, and what became of each migration.
    pub fn migration(&self) -> PathBuf {
        self.root.join("migration")
    }

    /// Layers of domains that are on their way here.
    pub fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Captures of each domain.
    pub fn pcap(&self) -> PathBuf {
        self.root.join("pcap")
    }

    /// Recordings of terminals.
    pub fn tty(&self) -> PathBuf {
        self.root.join("tty")
    }

    /// What is written of sessions.
    pub fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    /// Files that intruders left, by SHA-256.
    pub fn samples(&self) -> PathBuf {
        self.root.join("samples")
    }

    /// logsink's journal.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// logsink's store.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The dashboard's password, hashed.
    pub fn password(&self) -> PathBuf {
        self.root.join("dashboard").join("password.argon2")
    }

    /// The same password in clear, until `up` has printed it.
    pub fn first_password(&self) -> PathBuf {
        self.root.join("dashboard").join("password.first")
    }

    /// The token for scripts that ask the dashboard's API.
    pub fn api_token(&self) -> PathBuf {
        self.root.join("dashboard").join("token")
    }

    /// The dashboard's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.root.join("dashboard").join("certificate.pem")
    }

    /// The certificate's key.
    pub fn certificate_key(&self) -> PathBuf {
        self.root.join("dashboard").join("key.pem")
    }

    /// The supervisor's socket for the dashboard.
    pub fn dashboard_socket(&self) -> PathBuf {
        self.run().join("dashboard.sock")
    }

    /// Makes this folder, and those above it, readable for the caller only.
    pub fn make(&self, folder: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }
}
