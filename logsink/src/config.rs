//! What a logsink process is told and handed: plain values, paths, and descriptor numbers.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Everything that logsink needs; the toolstack writes it as JSON. Only `state` has no default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The state folder. Below it: `journal/`, `store/events.db`, `run/events.sock`, `run/domains.json`.
    pub state: PathBuf,
    /// The sensors' socket, bound and listening. Without it, logsink binds `run/events.sock` itself, mode 0660.
    #[serde(default)]
    pub events_fd: Option<RawFd>,
    /// Guests' syslog over TCP (601): listening sockets, made in the honeynet's network namespace.
    #[serde(default)]
    pub syslog_tcp_fds: Vec<RawFd>,
    /// Guests' syslog over UDP (514): bound sockets.
    #[serde(default)]
    pub syslog_udp_fds: Vec<RawFd>,
    /// Which domain has which address; see `DomainMap`. `None` is `run/domains.json`. Read again within a second of a change.
    #[serde(default)]
    pub domains: Option<PathBuf>,
    /// Size at which a journal segment is full, in bytes.
    #[serde(default = "segment_bytes")]
    pub journal_segment_bytes: u64,
    /// Size of the whole journal at which its oldest segments go, in bytes.
    #[serde(default = "journal_bytes_max")]
    pub journal_bytes_max: u64,
    /// Events that the store keeps.
    #[serde(default = "store_events_max")]
    pub store_events_max: u64,
    /// Days that the store keeps events; `None` is for ever.
    #[serde(default)]
    pub store_days_max: Option<u32>,
    /// Lines a second that one guest may log for long.
    #[serde(default = "guest_lines_per_second")]
    pub guest_lines_per_second: u32,
    /// Lines that it may log at once.
    #[serde(default = "guest_lines_burst")]
    pub guest_lines_burst: u32,
}

fn segment_bytes() -> u64 {
    64 << 20
}

fn journal_bytes_max() -> u64 {
    8 << 30
}

fn store_events_max() -> u64 {
    5_000_000
}

fn guest_lines_per_second() -> u32 {
    200
}

fn guest_lines_burst() -> u32 {
    2000
}

impl Config {
    /// The defaults, for this state folder.
    pub fn new(state: &Path) -> Config {
        Config {
            state: state.to_owned(),
            events_fd: None,
            syslog_tcp_fds: Vec::new(),
            syslog_udp_fds: Vec::new(),
            domains: None,
            journal_segment_bytes: segment_bytes(),
            journal_bytes_max: journal_bytes_max(),
            store_events_max: store_events_max(),
            store_days_max: None,
            guest_lines_per_second: guest_lines_per_second(),
            guest_lines_burst: guest_lines_burst(),
        }
    }

    pub(crate) fn domains_path(&self) -> PathBuf {
        self.domains.clone().unwrap_or_else(|| domains_path(&self.state))
    }
}

/// Folder of the journal: what `verify_chain` reads.
pub fn journal_dir(state: &Path) -> PathBuf {
    state.join("journal")
}

/// The store's file: what `Store::open_readonly` reads. Its folder must be searchable for the reader.
pub fn store_path(state: &Path) -> PathBuf {
    state.join("store/events.db")
}

/// The sensors' socket: what `Emitter::connect` is given.
pub fn socket_path(state: &Path) -> PathBuf {
    state.join("run/events.sock")
}

/// The default place of the map of addresses.
pub fn domains_path(state: &Path) -> PathBuf {
    state.join("run/domains.json")
}
