//! What this host must offer before a honeynet can run on it: looked at, one by one, with the remedy for what is missing.

use std::fs::OpenOptions;
use std::path::Path;

use nix::sched::CloneFlags;
use serde::Serialize;

use crate::state::State;

/// Least memory for two small decoys.
const MEMORY_MIN_MIB: u64 = 1024;
/// Room for a kernel, two images and their layers.
const DISK_MIN_MIB: u64 = 4096;
/// KVM's API has had this version since 2007 (Linux Documentation/virt/kvm/api.rst, 4.1).
const KVM_API_VERSION: i32 = 12;

/// Programs that building and running decoys needs, and the Debian packages that bring them.
pub const PROGRAMS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
];

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub what: &'static str,
    /// Whether it will do.
    pub good: bool,
    /// What was found.
    pub found: String,
    /// What helps, where it will not do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn good(what: &'static str, found: impl Into<String>) -> Check {
        Check { what, good: true, found: found.into(), remedy: None }
    }

    fn bad(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { what, good: false, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at everything.
pub fn examine(state: &State) -> Vec<Check> {
    vec![root(), kvm(), tap(), namespaces(), memory(), disk(state), programs(), kernel_image(state)]
}

/// Root is needed for namespaces, TAP devices and other users' processes.
pub fn root() -> Check {
    match rustix::process::geteuid().is_root() {
        true => Check::good("root", "started by root"),
        false => Check::bad("root", "started by another user", "start it as root, or with sudo"),
    }
}

/// Whether a virtual machine can be made.
pub fn kvm() -> Check {
    let what = "/dev/kvm";
    let kvm = match kvm_ioctls::Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) if error.errno() == rustix::io::Errno::NOENT.raw_os_error() => {
            let remedy =
                "switch virtualisation on in the firmware, then `modprobe kvm_intel` or `modprobe kvm_amd`";
            return Check::bad(what, "is not there", remedy);
        }
        Err(error) => return Check::bad(what, format!("cannot be opened: {error}"), "start it as root"),
    };
    let version = kvm.get_api_version();
    if version != KVM_API_VERSION {
        return Check::bad(what, format!("has API version {version}"), "use a kernel from this century");
    }
    match kvm.create_vm() {
        Ok(_) => Check::good(what, format!("API version {version}, a virtual machine can be made")),
        Err(error) => {
            let remedy =
                "end other hypervisors on this host, or enable nested virtualisation where it is a guest";
            Check::bad(what, format!("makes no virtual machine: {error}"), remedy)
        }
    }
}

fn tap() -> Check {
    let what = "TAP";
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Check::good(what, "/dev/net/tun can be opened"),
        Err(error) => {
            Check::bad(what, format!("/dev/net/tun cannot be opened: {error}"), "`modprobe tun`, as root")
        }
    }
}

fn namespaces() -> Check {
    let what = "namespaces";
    // On a thread of its own, which takes the new namespaces with it when it ends.
    let tried = std::thread::spawn(|| {
        let all = CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
        nix::sched::unshare(all | CloneFlags::CLONE_NEWPID)
    });
    match tried.join() {
        Ok(Ok(())) => Check::good(what, "mount, network, pid, IPC and UTS namespaces can be made"),
        Ok(Err(error)) => {
            Check::bad(what, format!("cannot be made: {error}"), "start it as root, outside of a container")
        }
        Err(_) => Check::bad(what, "could not be tried", "try again"),
    }
}

fn memory() -> Check {
    let what = "memory";
    let Some(available) = crate::supervisor::available_bytes() else {
        return Check::bad(what, "cannot be told from /proc/meminfo", "mount /proc");
    };
    let found = format!("{} MiB available", available >> 20);
    match available >> 20 >= MEMORY_MIN_MIB {
        true => Check::good(what, found),
        false => Check::bad(what, found, format!("free some: two decoys need about {MEMORY_MIN_MIB} MiB")),
    }
}

fn disk(state: &State) -> Check {
    let what = "disk";
    // The state directory may not be there yet; what it will lie on is.
    let there = state.root().ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(stat) => {
            let free_mib = (stat.f_bavail * stat.f_frsize) >> 20;
            let found = format!("{free_mib} MiB free at {}", there.display());
            match free_mib >= DISK_MIN_MIB {
                true => Check::good(what, found),
                false => Check::bad(what, found, "free some, or choose another place with --state"),
            }
        }
        Err(error) => Check::bad(
            what,
            format!("{} cannot be looked at: {error}", there.display()),
            "choose another --state",
        ),
    }
}

fn programs() -> Check {
    let missing = missing_packages();
    match missing.is_empty() {
        true => Check::good("programs", "all are installed"),
        false => {
            let list = missing.join(" ");
            Check::bad(
                "programs",
                format!("missing: {list}"),
                format!("`apt-get install {list}`; `honeynet up` does it"),
            )
        }
    }
}

/// Debian packages whose program is not to be found.
pub fn missing_packages() -> Vec<&'static str> {
    let folders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let there = |program: &str| folders.iter().any(|folder| Path::new(folder).join(program).exists());
    PROGRAMS.iter().filter(|(program, _)| !there(program)).map(|(_, package)| *package).collect()
}

fn kernel_image(state: &State) -> Check {
    let cached =
        std::fs::read_dir(state.root().join("kernels")).is_ok_and(|mut entries| entries.next().is_some());
    match cached {
        true => Check::good("kernel image", "is in the cache"),
        // It is fetched by itself, so there is nothing wrong yet.
        false => Check::good("kernel image", "not in the cache yet, `honeynet up` fetches it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_finding_has_a_remedy_and_no_good_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let checks = examine(&State::new(folder.path().join("deep/state")));
        assert!(checks.len() >= 8);
        assert!(checks.iter().all(|check| check.good == check.remedy.is_none()), "{checks:?}");
        assert!(!folder.path().join("deep").exists());
    }
}
