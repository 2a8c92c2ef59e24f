//! The honeynet's own network namespace: named ones under /run/netns, as `ip netns` keeps them.
//!
//! Making and removing them is left to iproute2, which gets the mount propagation of /run/netns right.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 mounts namespaces.
const FOLDER: &str = "/run/netns";

/// Routing table, and place among the rules, of what is for a relay's clients; both free in a new namespace.
const ANSWERS_TABLE: &str = "100";

/// Why something about a namespace failed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// `ip` is not installed or cannot be started.
    #[error("ip cannot be run")]
    Ip(#[source] io::Error),
    /// `ip` says no.
    #[error("ip {arguments}: {message}")]
    Refused {
        /// What was asked.
        arguments: String,
        /// The first line of what it said.
        message: String,
    },
    /// There is no such namespace.
    #[error("network namespace cannot be opened: {path}")]
    Open {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses to enter it.
    #[error("network namespace cannot be entered: {name}")]
    Enter {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The thread that was inside it ended by a panic.
    #[error("work inside network namespace {0} ended early")]
    Thread(String),
}

/// Makes a named namespace with its loopback up.
pub fn create(name: &str) -> Result<(), NetnsError> {
    ip(&["netns", "add", name])?;
    // IPv6 privacy, forwarding and the like stay at the kernel's defaults: forwarding is off in a new namespace.
    ip(&["-n", name, "link", "set", "lo", "up"]).inspect_err(|_| {
        let _ = delete(name);
    })
}

/// Removes a named namespace. Devices in it go with the last process inside.
pub fn delete(name: &str) -> Result<(), NetnsError> {
    ip(&["netns", "delete", name])
}

/// Brings TCP that comes in by `device` to a local socket, whichever address it is for: a relay speaks with its clients'
/// addresses, and the decoys' answers are for those. TCP alone, or the kernel would answer ARP for all the world.
pub fn take_answers_back(name: &str, device: &str) -> Result<(), NetnsError> {
    let table = ANSWERS_TABLE;
    ip(&["-n", name, "route", "add", "local", "default", "dev", "lo", "table", table])?;
    ip(&["-n", name, "rule", "add", "iif", device, "ipproto", "tcp", "priority", table, "lookup", table])
}

/// True where a namespace of this name is mounted.
pub fn exists(name: &str) -> bool {
    path(name).exists()
}

/// A descriptor of the namespace.
pub fn open(name: &str) -> Result<OwnedFd, NetnsError> {
    let path = path(name);
    File::open(&path).map(OwnedFd::from).map_err(|source| NetnsError::Open { path, source })
}

/// Moves the calling thread into it, for good. Threads that it starts later are inside too.
pub fn enter(name: &str) -> Result<(), NetnsError> {
    let netns = open(name)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| NetnsError::Enter { name: name.to_owned(), source: error.into() })
}

/// Runs `work` inside the namespace, on a thread of its own, and gives back what it returns.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| enter(name).map(|()| work()));
        inside.join().unwrap_or_else(|_| Err(NetnsError::Thread(name.to_owned())))
    })
}

/// Runs iproute2's `ip`.
pub fn ip(arguments: &[&str]) -> Result<(), NetnsError> {
    let output = Command::new("ip").args(arguments).output().map_err(NetnsError::Ip)?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let message = stderr.lines().next().unwrap_or("no reason given").to_owned();
    Err(NetnsError::Refused { arguments: arguments.join(" "), message })
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(FOLDER).join(name)
}
