//! Memory of a process beside the RAM of its guest: proc_pid_smaps(5).

use anyhow::{Context, ensure};

/// What a process has in memory, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnMemory {
    /// All pages that it maps.
    pub rss_kib: u64,
    /// The same, with pages that other processes map too counted by its share.
    pub pss_kib: u64,
}

/// Of this process, without mappings of this name.
pub fn own(pid: u32, ram_mapping: &str) -> anyhow::Result<OwnMemory> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    ensure!(smaps.contains(ram_mapping), "process {pid} has no mapping {ram_mapping}");
    Ok(sum(&smaps, ram_mapping))
}

fn sum(smaps: &str, ram_mapping: &str) -> OwnMemory {
    let mut own = OwnMemory::default();
    let mut counted = true;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let kib = second.parse().unwrap_or(0);
        match first {
            "Rss:" if counted => own.rss_kib += kib,
            "Pss:" if counted => own.pss_kib += kib,
            // A mapping's first line: range, permissions, offset, device, inode, name.
            range if !range.ends_with(':') => {
                counted = !words.nth(3).is_some_and(|name| name.starts_with(ram_mapping));
            }
            _ => {}
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_left_out_and_the_rest_is_summed() {
        let smaps = "7f00-7f10 rw-s 00000000 00:01 12 /memfd:ram (deleted)\nRss: 9000 kB\nPss: 9000 kB\n\
                     7f20-7f30 rw-s 00000000 00:01 13 /memfd:port (deleted)\nRss: 8 kB\nPss: 4 kB\nPss_Dirty: 4 kB\n\
                     7f40-7f50 rw-p 00000000 00:00 0\nSize: 64 kB\nRss: 16 kB\nPss: 16 kB\nVmFlags: rd wr\n";
        assert_eq!(sum(smaps, "/memfd:ram"), OwnMemory { rss_kib: 24, pss_kib: 20 });
    }
}
