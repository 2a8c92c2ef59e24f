//! Files that an intruder wrote, fetched or ran, kept by SHA-256: read from the guest's page cache, so that it does not matter whether
//! they are deleted at once or never had a name.

use std::collections::HashSet;
use std::io;

use sha2::{Digest, Sha256};

use super::folders::Folders;
use super::guest::Found;

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
    pub fn is_foreign(&self, found: &Found) -> bool {
        self.0.contains(&found.file)
            || found.path.starts_with("/memfd:")
            || found.path.ends_with(" (deleted)")
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
    /// Keeps a file; `None`: it is known under that name, empty, or too much.
    ///
    /// # Errors
    /// The disk is full, or broken.
    pub fn keep(&mut self, found: &Found, folders: &Folders) -> io::Result<Option<New>> {
        let over = self.bytes + found.bytes.len() as u64 > SESSION_BYTES_MAX;
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

    fn found(path: &str) -> Found {
        Found { path: path.to_owned(), file: (1, 2), size: 3, bytes: b"abc".to_vec(), absent: false }
    }

    #[test]
    fn programs_of_the_image_are_not_foreign_and_nameless_ones_are() {
        let mut written = Written::default();
        assert!(!written.is_foreign(&found("/bin/ls")));
        assert!(
            written.is_foreign(&found("/memfd:x (deleted)"))
                && written.is_foreign(&found("/tmp/x (deleted)"))
        );
        written.note((1, 2));
        assert!(written.is_foreign(&found("/tmp/x")));
    }
}
