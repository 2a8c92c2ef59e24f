//! Proof that nobody changed the journal: every record carries the hash of the one before it. Reads only; needs no sink.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::record::{Hash, SegmentError};
use super::segments::{Segment, segments};

/// What a whole chain is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Segment files read.
    pub segments: u64,
    /// Records read.
    pub records: u64,
    /// Index of the oldest record that is still kept; 0 when there is none. Above 1 when retention deleted older segments.
    pub first_index: u64,
    /// Index of the last record; 0 when there is none.
    pub last_index: u64,
    /// Hash of the last record, hex. Compare it with one noted elsewhere: it vouches for everything before it.
    pub head: String,
    /// Bytes after the last whole record, where the sink crashed or is writing just now.
    pub torn_bytes: u64,
}

/// Where a chain breaks.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The folder cannot be read.
    #[error("journal {path} cannot be read")]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A segment cannot be read, or is damaged in its middle.
    #[error("journal segment {path} is damaged")]
    Segment {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: SegmentError,
    },
    /// A segment is missing or has another name.
    #[error("journal segment {path} begins with record {found}, record {expected} was due")]
    Hole {
        /// Which.
        path: PathBuf,
        /// What its name or header says.
        found: u64,
        /// What should follow.
        expected: u64,
    },
    /// A record does not carry the hash of the one before it.
    #[error("chain is broken at record {index} in {path}: the record before it was changed")]
    Chain {
        /// The record that tells.
        index: u64,
        /// Where it is.
        path: PathBuf,
    },
}

/// Reads the whole journal of this folder and checks every link.
pub fn verify_chain(dir: &Path) -> Result<Report, VerifyError> {
    let all = segments(dir).map_err(|source| VerifyError::Folder { path: dir.to_owned(), source })?;
    let mut walk = Walk::default();
    for (position, segment) in all.iter().enumerate() {
        walk.segment(segment, position + 1 == all.len())?;
    }
    Ok(Report {
        segments: all.len() as u64,
        records: walk.records,
        first_index: if walk.records == 0 { 0 } else { walk.first_index },
        last_index: walk.last_index,
        head: blake3::Hash::from_bytes(walk.head).to_hex().to_string(),
        torn_bytes: walk.torn_bytes,
    })
}

#[derive(Default)]
struct Walk {
    started: bool,
    records: u64,
    first_index: u64,
    last_index: u64,
    head: Hash,
    torn_bytes: u64,
}

impl Walk {
    fn segment(&mut self, segment: &Segment, is_last: bool) -> Result<(), VerifyError> {
        let path = || segment.path.clone();
        let damaged = |source| VerifyError::Segment { path: path(), source };
        let mut reader = match segment.open() {
            // The sink has just made the file, or crashed when it did.
            Err(SegmentError::BadHeader) if is_last && self.started && super::is_stillborn(&segment.path) => {
                return Ok(());
            }
            opened => opened.map_err(damaged)?,
        };
        let header = reader.header();
        let expected = if self.started { self.last_index + 1 } else { header.first_index };
        if header.first_index != expected || segment.first_index != expected {
            let found = header.first_index.min(segment.first_index);
            return Err(VerifyError::Hole { path: path(), found, expected });
        }
        if !self.started {
            (self.started, self.first_index, self.last_index) = (true, expected, expected - 1);
            self.head = header.prev_hash;
        }
        if header.prev_hash != self.head {
            return Err(VerifyError::Chain { index: expected, path: path() });
        }
        loop {
            match reader.next_record() {
                Ok(Some(record)) if record.prev_hash == self.head => {
                    self.records += 1;
                    (self.head, self.last_index) = (record.hash, record.index);
                }
                Ok(Some(record)) => return Err(VerifyError::Chain { index: record.index, path: path() }),
                Ok(None) => return Ok(()),
                Err(SegmentError::Broken { offset, .. }) if is_last => {
                    let len = std::fs::metadata(&segment.path).map_err(|e| damaged(e.into()))?.len();
                    self.torn_bytes = len.saturating_sub(offset);
                    return Ok(());
                }
                Err(error) => return Err(damaged(error)),
            }
        }
    }
}
