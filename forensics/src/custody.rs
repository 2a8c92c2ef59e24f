//! Custody: who did what with a case and when. One JSON object a line, each with the hash of the line before.
//!
//! The log grows after the manifest was signed, so it is not an item of it; its chain shows if a line was changed or taken
//! out, but not if the last lines are missing.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::canonical;

/// Name of the log in its case.
pub const FILE_NAME: &str = "custody.jsonl";
/// Bytes of a log that are read: about fifty thousand lines.
const BYTES_MAX: u64 = 16 << 20;

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustodyEntry {
    /// When.
    pub at: Timestamp,
    /// Who: a user, a process.
    pub who: String,
    /// What: `acquired`, `downloaded`, `verified`.
    pub action: String,
    /// What more is to be said.
    pub detail: String,
    /// blake3 of the line before, hexadecimal; empty in the first.
    pub prev: String,
}

/// Appends a line.
pub fn append(case: &Path, at: Timestamp, who: &str, action: &str, detail: &str) -> io::Result<()> {
    let mut file = File::options().read(true).append(true).create(true).open(case.join(FILE_NAME))?;
    // The lock keeps reading the last line and writing the next together.
    rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
    let mut text = Vec::new();
    Read::by_ref(&mut file).take(BYTES_MAX).read_to_end(&mut text)?;
    let prev = lines(&text).last().map(|line| blake3::hash(line).to_string()).unwrap_or_default();
    let entry =
        CustodyEntry { at, who: who.to_owned(), action: action.to_owned(), detail: detail.to_owned(), prev };
    file.write_all(&canonical::to_bytes(&entry))?;
    file.sync_all()
}

/// Reads the log: its entries, and the number of the first line (from 1) that does not fit its chain.
pub fn read(case: &Path) -> io::Result<(Vec<CustodyEntry>, Option<usize>)> {
    let mut text = Vec::new();
    File::open(case.join(FILE_NAME))?.take(BYTES_MAX).read_to_end(&mut text)?;
    Ok(parse(&text))
}

/// Parses a log, as far as its chain holds.
pub fn parse(text: &[u8]) -> (Vec<CustodyEntry>, Option<usize>) {
    let mut entries = Vec::new();
    let mut prev = String::new();
    for (index, line) in lines(text).enumerate() {
        match serde_json::from_slice::<CustodyEntry>(line) {
            Ok(entry) if entry.prev == prev => entries.push(entry),
            _ => return (entries, Some(index + 1)),
        }
        prev = blake3::hash(line).to_string();
    }
    (entries, None)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}
