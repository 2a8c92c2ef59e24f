//! Both hashes of a file in one reading.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const CHUNK_BYTES: usize = 1 << 20;

/// Length and hashes of a file; hashes in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256.
    pub sha256: String,
    /// blake3.
    pub blake3: String,
}

/// Hashes a file from its start; `tick` is told how many more bytes were read.
pub fn of_file(file: &File, tick: &(dyn Fn(u64) + Sync)) -> io::Result<Digest> {
    let mut sha256 = Sha256::new();
    let mut blake3 = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        let length = file.read_at(&mut buffer, bytes)?;
        if length == 0 {
            break;
        }
        sha256.update(&buffer[..length]);
        blake3.update(&buffer[..length]);
        bytes += length as u64;
        tick(length as u64);
    }
    let sha256 = hex::encode(sha256.finalize());
    Ok(Digest { bytes, sha256, blake3: blake3.finalize().to_string() })
}
