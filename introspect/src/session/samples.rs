//! Files that an intruder wrote, fetched or ran, kept by SHA-256: read from the guest's page cache, so that it does not matter whether
//! they are deleted at once or never had a name.

use std::collections::{HashMap, HashSet};
use std::io;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::folders::Folders;
use super::guest::{Found, Guest, Inode};
use super::report;

/// Bytes kept of one file.
pub const SAMPLE_BYTES_MAX: u64 = 64 << 20;
/// Bytes kept of one session.
const SESSION_BYTES_MAX: u64 = 1 << 30;
/// Files kept of one session.
const SESSION_FILES_MAX: usize = 4096;
/// Files that were written by an intruder, whoever runs them later.
const WRITTEN_MAX: usize = 64 * 1024;

/// Which files of the guest intruders have written.
#[derive(Debug, Default)]
pub struct Written(HashSet<(u64, u64)>);

impl Written {
    /// Notes one.
    pub fn note(&mut self, file: (u64, u64)) {
        if self.0.len() < WRITTEN_MAX {
            self.0.insert(file);
        }
    }

    /// Is a program that is run worth keeping? One of the decoy's own image is not.
    pub fn is_foreign(&self, file: (u64, u64), path: &str) -> bool {
        self.0.contains(&file) || path.starts_with("/memfd:") || path.ends_with(" (deleted)")
    }
}

/// Files that are being written: not every one is closed by a call of its own, for dup2(2) closes what was there before.
#[derive(Debug, Default)]
pub struct Dirty(HashMap<u64, Writing>);

#[derive(Debug)]
struct Writing {
    inode: Inode,
    path: String,
    pid: u32,
    last: Timestamp,
}

/// Files that are being written at one time.
const DIRTY_MAX: usize = 4096;
/// One that nobody has written to for so long is looked at.
const QUIET_S: i64 = 1;

impl Dirty {
    /// Somebody wrote to this `struct file`.
    pub fn wrote(&mut self, file: u64, pid: u32, at: Timestamp, guest: &dyn Guest) {
        if let Some(writing) = self.0.get_mut(&file) {
            writing.last = at;
            return;
        }
        if self.0.len() < DIRTY_MAX
            && let Some((inode, path)) = guest.inode(file)
        {
            self.0.insert(file, Writing { inode, path, pid, last: at });
        }
    }

    /// What was looked at when it was closed need not be looked at again.
    pub fn closed(&mut self, file: u64) {
        self.0.remove(&file);
    }

    /// Those that are quiet, with who wrote them; all of them at a session's end.
    pub fn quiet(&mut self, at: Timestamp, all: bool, guest: &dyn Guest) -> Vec<(u32, Found)> {
        let ready = |writing: &Writing| all || at.as_second() - writing.last.as_second() > QUIET_S;
        let files: Vec<u64> =
            self.0.iter().filter(|(_, writing)| ready(writing)).map(|(file, _)| *file).collect();
        let look = |file: u64| {
            let writing = self.0.remove(&file)?;
            let found = guest.contents(writing.inode)?;
            Some((writing.pid, Found { path: writing.path, ..found }))
        };
        files.into_iter().filter_map(look).collect()
    }
}

/// What one session has left so far.
#[derive(Debug, Default)]
pub struct Kept {
    bytes: u64,
    files: HashSet<(String, String)>,
}

/// A file that was kept.
pub struct New {
    /// Its hash, in hexadecimal.
    pub sha256: String,
    /// There was more than is kept.
    pub truncated: bool,
}

impl Kept {
    /// What a session has left according to its report.
    pub fn resumed(samples: &[report::Sample]) -> Kept {
        Kept {
            bytes: samples.iter().fold(0, |sum, sample| sum.saturating_add(sample.bytes)),
            files: samples.iter().map(|sample| (sample.sha256.clone(), sample.path.clone())).collect(),
        }
    }

    /// Keeps a file; `None`: it is known under that name, empty, or too much.
    ///
    /// # Errors
    /// The disk is full, or broken.
    pub fn keep(&mut self, found: &Found, folders: &Folders) -> io::Result<Option<New>> {
        let over = self.bytes.saturating_add(found.bytes.len() as u64) > SESSION_BYTES_MAX;
        if found.bytes.is_empty() || over || self.files.len() >= SESSION_FILES_MAX {
            return Ok(None);
        }
        let sha256 = hex::encode(Sha256::digest(&found.bytes));
        if !self.files.insert((sha256.clone(), found.path.clone())) {
            return Ok(None);
        }
        folders.write_sample(&sha256, &found.bytes)?;
        self.bytes += found.bytes.len() as u64;
        Ok(Some(New { sha256, truncated: found.absent || found.size > found.bytes.len() as u64 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_the_image_are_not_foreign_and_nameless_ones_are() {
        let mut written = Written::default();
        assert!(!written.is_foreign((1, 2), "/bin/ls"));
        assert!(
            written.is_foreign((1, 2), "/memfd:x (deleted)")
                && written.is_foreign((1, 2), "/tmp/x (deleted)")
        );
        written.note((1, 2));
        assert!(written.is_foreign((1, 2), "/tmp/x"));
    }
}
