//! What a dashboard process is told and handed: paths, hashes, and the number of a listening socket.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything that the dashboard needs; the toolstack writes it as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The socket that browsers connect to, bound and listening.
    pub listen_fd: RawFd,
    /// The supervisor's socket for the dashboard.
    pub supervisor: PathBuf,
    /// logsink's socket, for the dashboard's own events.
    pub events: PathBuf,
    /// logsink's store; read only.
    pub store: PathBuf,
    /// The folder of cases; read only.
    pub evidence: PathBuf,
    /// The folder of sessions' objects; read only, as the two below.
    pub sessions: PathBuf,
    /// The folder of casts.
    pub tty: PathBuf,
    /// The folder of samples.
    pub samples: PathBuf,
    /// The password's argon2 hash, in PHC string format.
    pub password_hash: String,
    /// blake3 of the API token, hexadecimal. Without it there is no token.
    pub token_hash: Option<String>,
    /// The public key that cases are signed with, hexadecimal. Without it a signature proves less.
    #[serde(default)]
    pub case_key: Option<String>,
    /// Certificate and key. Without them it speaks plain HTTP.
    pub tls: Option<TlsPem>,
    /// Host names that browsers may use; addresses and `localhost` need not be named.
    #[serde(default)]
    pub names: Vec<String>,
}

/// Certificate and key, both as PEM text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsPem {
    /// The chain, the server's own first.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

// The key must not end in a log with the rest of the configuration.
impl std::fmt::Debug for TlsPem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsPem").finish_non_exhaustive()
    }
}
