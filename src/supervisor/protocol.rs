//! What the supervisor understands: one JSON object a line on `STATE/run/honeynet.sock`, answered by one line. On
//! `STATE/run/dashboard.sock` it is the same, but only what a dashboard needs is done.
//!
//! `{"ok": ...}` or `{"error": "one sentence", "code": 1 | 3}`. After the answer to `console` the connection carries the
//! console's raw bytes both ways.

use std::path::PathBuf;

use netwatch::switch::Touch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::pool::Limits;

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
    /// Has the guest use so many of its vcpus.
    VcpuSet {
        /// Name or domid.
        name: String,
        /// The first ones, so many.
        vcpus: u32,
    },
    /// The vcpus of all domains, or of this one.
    VcpuList {
        /// Name or domid.
        name: Option<String>,
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
    /// Memory and disks of a domain into a case, while it runs on.
    Pull {
        /// Name or domid.
        name: String,
        /// Why, for the custody log.
        reason: Option<String>,
    },
    /// Takes a snapshot, from which the domain can go on later.
    Snapshot {
        /// Name or domid.
        name: String,
        /// What differs from the last one is enough.
        #[serde(default)]
        diff: bool,
        /// Why, for its manifest.
        reason: Option<String>,
    },
    /// A domain's memory into an ELF core.
    DumpCore {
        /// Name or domid.
        name: String,
        /// The file that is made.
        file: PathBuf,
    },
    /// Writes a domain down, to go on later, and takes it down.
    Save {
        /// Name or domid.
        name: String,
        /// The folder that is made.
        folder: PathBuf,
    },
    /// A saved domain goes on.
    Restore {
        /// The folder.
        folder: PathBuf,
        /// Under another name.
        #[serde(default)]
        name: Option<String>,
        /// The vcpus do not start until `unpause`.
        #[serde(default)]
        paused: bool,
        /// All of it is compared with its sums first.
        #[serde(default)]
        verify: bool,
    },
    /// A domain goes on at another honeynet.
    Migrate {
        /// Name or number.
        name: String,
        /// A peer of the honeynet file.
        to: String,
    },
    /// All snapshots of the state directory.
    Snapshots,
    /// What differs between two snapshots.
    SnapshotDiff {
        /// `DOMAIN/ID`.
        before: String,
        /// `DOMAIN/ID`.
        after: String,
    },
    /// Whether a snapshot is as it was written.
    SnapshotVerify {
        /// `DOMAIN/ID`.
        id: String,
    },
    /// Memory and disks of a snapshot into a case.
    SnapshotPull {
        /// `DOMAIN/ID`.
        id: String,
        /// Why, for the custody log.
        reason: Option<String>,
    },
    /// A snapshot becomes a domain beside the one that it was taken of.
    SnapshotRestore {
        /// `DOMAIN/ID`.
        id: String,
        /// Its name.
        name: String,
    },
    /// Saved domains go on side by side.
    Clone(CloneRequest),
    /// Opens a pool of clones.
    PoolOpen(PoolRequest),
    /// All pools, with who has which clone.
    Pools,
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
    /// A question to the observer of a domain, which answers by itself; the connection ends with its answer.
    Observe {
        /// Name or domid.
        name: String,
        /// What it is asked.
        question: introspect::observer::Request,
    },
    /// Counters of the switch.
    Net,
    /// Takes everything down and ends the supervisor.
    Down,
}

/// Whose socket a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Root's: the command line.
    Root,
    /// The dashboard's. It speaks with browsers, so it may do nothing that could not be taken back, and read nothing that it
    /// does not show. Snapshots it names by their ids: no path is its to say.
    Dashboard,
}

impl Request {
    /// Whether this asker may; if not, why, in one sentence.
    pub fn allowed(&self, asker: Asker) -> Result<(), &'static str> {
        if asker == Asker::Root {
            return Ok(());
        }
        match self {
            Request::List { .. }
            | Request::Info
            | Request::Net
            | Request::Pools
            | Request::Observe { .. }
            | Request::Pull { .. }
            | Request::Snapshot { .. }
            | Request::Snapshots
            | Request::SnapshotDiff { .. }
            | Request::SnapshotVerify { .. }
            | Request::SnapshotPull { .. }
            | Request::SnapshotRestore { .. }
            | Request::FimCheck { .. }
            | Request::Pause { .. }
            | Request::Unpause { .. } => Ok(()),
            Request::DumpCore { .. } => {
                Err("cores are written on the command line: honeynet dump-core NAME FILE")
            }
            Request::Save { .. } => Err("domains are saved on the command line: honeynet save NAME DIR"),
            Request::Restore { .. } => Err("domains are restored on the command line: honeynet restore DIR"),
            Request::Migrate { .. } => {
                Err("domains are moved on the command line: honeynet migrate NAME HOST")
            }
            Request::PoolOpen(_) => Err("pools are opened by honeynet up"),
            Request::Clone(_) => Err("domains are cloned on the command line: honeynet clone DIR"),
            Request::Create(_) => Err("domains are created on the command line: honeynet create FILE"),
            Request::Shutdown { .. } => {
                Err("domains are shut down on the command line: honeynet shutdown NAME")
            }
            Request::Reboot { .. } => Err("domains are rebooted on the command line: honeynet reboot NAME"),
            Request::Destroy { .. } => {
                Err("domains are destroyed on the command line: honeynet destroy NAME")
            }
            Request::DomainInfo { .. } => {
                Err("a domain is looked into on the command line: honeynet info NAME")
            }
            Request::XenstoreLs { .. } => {
                Err("a xenstore is printed on the command line: honeynet xenstore-ls NAME")
            }
            Request::VcpuSet { .. } => {
                Err("vcpus are set on the command line: honeynet vcpu-set NAME NUMBER")
            }
            Request::VcpuList { .. } => Err("vcpus are listed on the command line: honeynet vcpu-list NAME"),
            Request::Dmesg { .. } => Err("messages are printed on the command line: honeynet dmesg"),
            Request::Console { .. } => {
                Err("consoles are attached on the command line: honeynet console NAME")
            }
            Request::FimBaseline { .. } => {
                Err("baselines are made on the command line: honeynet fim baseline NAME")
            }
            Request::Down => Err("the honeynet is taken down on the command line: honeynet down"),
        }
    }
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

/// Clones to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// The folder of the saved domain.
    pub snapshot: PathBuf,
    /// How many.
    pub count: u32,
    /// Their name, with a number behind it where they are several.
    pub name: Option<String>,
    /// They stand until they are unpaused.
    #[serde(default)]
    pub parked: bool,
}

/// A pool to be opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolRequest {
    /// Its name.
    pub name: String,
    /// The folder of the snapshot that its clones go on from.
    pub snapshot: PathBuf,
    /// How many clones there may be.
    pub limits: Limits,
    /// Which packet of a new source gets it one.
    pub touch: Touch,
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
