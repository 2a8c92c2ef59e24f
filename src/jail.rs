//! What a child of the supervisor does before its work: it gives away what it does not need.
//!
//! The pid namespace is entered by the supervisor (it must exist before the fork); everything else is done here, in the
//! child, while it has one thread. The seccomp filter is installed by the work itself, which knows its calls.

use std::io;
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::{Gid, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};

/// First uid of domains; a domain's own is this plus its domid.
pub const DOMAIN_UID_BASE: u32 = 200_000;
/// First uid of the processes that look at domains.
pub const OBSERVER_UID_BASE: u32 = 400_000;
const STDERR_FD: i32 = 2;
/// Descriptors that a domain process may have open: what it was handed, KVM's own, and some room.
const DESCRIPTORS_MAX: u64 = 256;

/// What the child keeps and gives away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Jail {
    /// User and group that it becomes; `None` stays who it is.
    pub uid: Option<u32>,
    /// Mount, network, IPC and UTS namespaces of its own, and an empty root.
    pub isolated: bool,
}

/// Why a jail could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A step failed.
    #[error("jail: cannot {step}")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Closes what whoever started this process left open in it: it would be handed on to every child. To be called before anything is opened.
pub fn close_inherited() -> io::Result<()> {
    let open = std::fs::read_dir("/proc/self/fd")?.flatten();
    let open: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > STDERR_FD) {
        // The folder's own descriptor is among them, and closed already.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Takes as many descriptors as this process may have: a house of hundreds of domains holds a dozen for each.
pub fn allow_descriptors() -> io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// Enters the jail; to be called with one thread only.
pub fn enter(jail: &Jail) -> Result<(), JailError> {
    if jail.isolated {
        let own = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
        step("unshare namespaces", nix::sched::unshare(own).map_err(io::Error::from))?;
        step("enter an empty root", empty_root())?;
    }
    step("limit core dumps", limit(Resource::Core, 0))?;
    step("limit descriptors", limit(Resource::Nofile, DESCRIPTORS_MAX))?;
    settle(jail.uid)
}

/// The last step of it, which one that still waits to hear who it is does later: becomes this user, for good.
pub fn settle(uid: Option<u32>) -> Result<(), JailError> {
    if let Some(uid) = uid {
        step("change user", become_user(uid))?;
    }
    step("set no_new_privs", rustix::thread::set_no_new_privs(true).map_err(io::Error::from))?;
    // The kernel forgets this at a change of user, so it comes last.
    let killed = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    step("tie its life to the supervisor's", killed.map_err(io::Error::from))
}

fn step<T>(step: &'static str, result: io::Result<T>) -> Result<T, JailError> {
    result.map_err(|source| JailError::Step { step, source })
}

/// An empty read-only tmpfs becomes the root, and the old root is let go.
fn empty_root() -> io::Result<()> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let root = Path::new("/proc");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("none", root, "tmpfs", flags, Some(c"size=4k,mode=555"))?;
    std::env::set_current_dir(root)?;
    // pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one and is detached from there.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")?;
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, c"")?;
    Ok(())
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    rustix::process::setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    Ok(())
}

/// A change from root to another user also empties the permitted and effective capability sets (capabilities(7)).
fn become_user(uid: u32) -> io::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    let gid = Gid::from_raw(uid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}
