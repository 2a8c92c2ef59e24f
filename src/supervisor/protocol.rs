//! What the supervisor understands: one JSON object a line on `STATE/run/honeynet.sock`, answered by one line.
//!
//! `{"ok": ...}` or `{"error": "one sentence", "code": 1 | 3}`. After the answer to `console` the connection carries the
//! console's raw bytes both ways.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest request; a create carries the domain file.
pub const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// One request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// All domains, or this one.
    List {
        /// Name or domid.
        name: Option<String>,
    },
    /// Builds and starts a domain.
    Create(Create),
    /// Stops the vcpus.
    Pause {
        /// Name or domid.
        name: String,
    },
    /// Lets them run again.
    Unpause {
        /// Name or domid.
        name: String,
    },
    /// Asks the guest to power off.
    Shutdown {
        /// Name or domid.
        name: String,
    },
    /// Asks the guest to reboot.
    Reboot {
        /// Name or domid.
        name: String,
    },
    /// Takes the domain down at once.
    Destroy {
        /// Name or domid.
        name: String,
    },
    /// What the domain's process says of itself.
    DomainInfo {
        /// Name or domid.
        name: String,
    },
    /// The xenstore of a domain.
    XenstoreLs {
        /// Name or domid.
        name: String,
    },
    /// The supervisor itself: services, versions, numbers.
    Info,
    /// The supervisor's log, or what the VMM of one domain wrote.
    Dmesg {
        /// Name or domid.
        name: Option<String>,
    },
    /// Attaches to a console.
    Console {
        /// Name or domid.
        name: String,
    },
    /// Memory and disks of a domain into a case.
    Snapshot {
        /// Name or domid.
        name: String,
        /// Why, for the custody log.
        reason: Option<String>,
    },
    /// Baseline of a domain's disk.
    FimBaseline {
        /// Name or domid.
        name: String,
    },
    /// The domain's disk against its baseline.
    FimCheck {
        /// Name or domid.
        name: String,
    },
    /// Counters of the switch.
    Net,
    /// Takes everything down and ends the supervisor.
    Down,
}

/// A domain to be built.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// The domain file's text.
    pub file: String,
    /// Relative paths in it start here.
    pub folder: PathBuf,
    /// The vcpus do not start until `unpause`.
    #[serde(default)]
    pub paused: bool,
}

/// One answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// It was done.
    Ok {
        /// What came of it.
        ok: Value,
    },
    /// It was not.
    Error {
        /// Why, in one sentence.
        error: String,
        /// The exit code that the command line should end with.
        code: u8,
    },
}
