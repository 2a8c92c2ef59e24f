//! Baselines: what a disk held when it was known to be good. One JSON object a line, the last line seals the rest.
//!
//! ```text
//! {"format":"honeynet-baseline","version":1,"name":…,"created":…,"uuid":…,"policy":<blake3 of its text>,…}
//! {"path":"/","kind":"d",…}                       one line a file, sorted by path
//! {"seal":"<blake3 of all bytes before this line>"}
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::entry::Entry;
use crate::scan::{Problem, Scan};

const FORMAT: &str = "honeynet-baseline";
const VERSION: u32 = 1;
/// Lines of a baseline: the files of a scan, head and seal.
const LINES_MAX: usize = 2_000_002;

/// Why a file is not a baseline that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// It ends before its seal, or something else stands there.
    #[error("baseline has no seal: it is cut off, or no baseline")]
    NoSeal,
    /// Somebody changed it, or the disk did.
    #[error("baseline was changed after it was made: its seal says {seal}, its content is {content}")]
    Broken {
        /// What the seal says.
        seal: String,
        /// The hash of what it seals.
        content: String,
    },
    /// A line that does not parse.
    #[error("line {line} of the baseline is not what belongs there")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What JSON says.
        source: serde_json::Error,
    },
    /// Of another program, or of a later version of this one.
    #[error("baseline has format {format:?} version {version}, not {FORMAT:?} version {VERSION}")]
    Version {
        /// Its format.
        format: String,
        /// Its version.
        version: u32,
    },
    /// Entries out of order, or the same path twice.
    #[error("line {line} of the baseline is out of order")]
    Order {
        /// Line, from 1.
        line: usize,
    },
    /// More lines than any disk has files.
    #[error("baseline has more than {LINES_MAX} lines")]
    TooLong,
}

/// A sealed list of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// Name of the domain or image.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// blake3 of the policy's text.
    pub policy: String,
    /// What was seen.
    pub scan: Scan,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    version: u32,
    name: String,
    created: Timestamp,
    uuid: String,
    policy: String,
    problems: Vec<Problem>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    seal: String,
}

impl Baseline {
    /// The bytes of the file, `STATE/baselines/<name>.baseline`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            name: self.name.clone(),
            created: self.created,
            uuid: self.scan.uuid.clone(),
            policy: self.policy.clone(),
            problems: self.scan.problems.clone(),
        };
        let mut out = Vec::new();
        push_line(&mut out, &head);
        for entry in &self.scan.entries {
            push_line(&mut out, entry);
        }
        let seal = blake3::hash(&out).to_string();
        push_line(&mut out, &Seal { seal });
        out
    }

    /// Reads a file back: nothing is believed before the seal holds.
    pub fn parse(bytes: &[u8]) -> Result<Baseline, BaselineError> {
        let body = sealed_body(bytes)?;
        let mut lines = body.split_inclusive(|byte| *byte == b'\n').enumerate();
        let (_, first) = lines.next().ok_or(BaselineError::NoSeal)?;
        let head: Head = parse_line(0, first)?;
        if head.format != FORMAT || head.version != VERSION {
            return Err(BaselineError::Version { format: head.format, version: head.version });
        }
        let mut entries: Vec<Entry> = Vec::new();
        for (index, line) in lines {
            if index > LINES_MAX {
                return Err(BaselineError::TooLong);
            }
            let entry: Entry = parse_line(index, line)?;
            if entries.last().is_some_and(|last| last.path >= entry.path) {
                return Err(BaselineError::Order { line: index + 1 });
            }
            entries.push(entry);
        }
        let scan = Scan { uuid: head.uuid, entries, problems: head.problems };
        Ok(Baseline { name: head.name, created: head.created, policy: head.policy, scan })
    }
}

/// What stands before the last line, if the last line is its seal.
fn sealed_body(bytes: &[u8]) -> Result<&[u8], BaselineError> {
    let text = bytes.strip_suffix(b"\n").ok_or(BaselineError::NoSeal)?;
    let start = text.iter().rposition(|byte| *byte == b'\n').ok_or(BaselineError::NoSeal)? + 1;
    let Seal { seal } = serde_json::from_slice(&text[start..]).map_err(|_| BaselineError::NoSeal)?;
    let content = blake3::hash(&bytes[..start]).to_string();
    if seal != content {
        return Err(BaselineError::Broken { seal, content });
    }
    Ok(&bytes[..start])
}

fn push_line(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *out, value)
        .expect("plain values and strings always serialise, and a Vec takes all");
    out.push(b'\n');
}

fn parse_line<'a, T: Deserialize<'a>>(index: usize, line: &'a [u8]) -> Result<T, BaselineError> {
    serde_json::from_slice(line).map_err(|source| BaselineError::Line { line: index + 1, source })
}
