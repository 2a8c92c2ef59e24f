//! A memory limit for one domain process: control groups, version 2 where mounted, else version 1.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a domain process may use beside the guest's RAM.
const OWN_MEMORY_BYTES: u64 = 64 << 20;

/// The group of all domains of all honeynets; below it one a domain, after the number of its supervisor.
const ALL: &str = "honeynet";

/// A control group; gone when dropped.
pub struct MemoryGroup {
    folder: PathBuf,
}

impl MemoryGroup {
    /// Makes a group for a domain of this RAM and puts the process into it. `Ok(None)`: this host offers none.
    pub fn enclose(name: &str, memory_bytes: u64, pid: u32) -> io::Result<Option<MemoryGroup>> {
        let Some((hierarchy, limit_file)) = hierarchy() else { return Ok(None) };
        let folder = hierarchy.join(ALL).join(format!("{}-{name}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let group = MemoryGroup { folder };
        let limit = (memory_bytes + OWN_MEMORY_BYTES).to_string();
        fs::write(group.folder.join(limit_file), limit)?;
        fs::write(group.folder.join("cgroup.procs"), pid.to_string())?;
        Ok(Some(group))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "control group cannot be removed");
        }
        // The last one takes the group of all domains with it; while others are in it, the kernel refuses.
        if let Some(all) = self.folder.parent() {
            let _ = fs::remove_dir(all);
        }
    }
}

/// Removes the groups of supervisors that were killed.
pub fn remove_left_over() {
    let Some((hierarchy, _)) = hierarchy() else { return };
    for entry in fs::read_dir(hierarchy.join(ALL)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let supervisor = name.split_once('-').and_then(|(pid, _)| pid.parse::<u32>().ok());
        if supervisor.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // One that a process is still in stays, and goes the next time.
            let _ = fs::remove_dir(entry.path());
        }
    }
    let _ = fs::remove_dir(hierarchy.join(ALL));
}

fn hierarchy() -> Option<(&'static Path, &'static str)> {
    let unified = Path::new("/sys/fs/cgroup");
    if fs::read_to_string(unified.join("cgroup.subtree_control")).is_ok_and(|text| text.contains("memory")) {
        return Some((unified, "memory.max"));
    }
    let memory = Path::new("/sys/fs/cgroup/memory");
    memory.join("memory.limit_in_bytes").exists().then_some((memory, "memory.limit_in_bytes"))
}
