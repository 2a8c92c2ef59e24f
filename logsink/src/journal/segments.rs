//! The segment files of a journal's folder, read in order.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::record::{Record, SegmentError, SegmentReader};

/// End of a segment's file name.
const SUFFIX: &str = ".journal";

/// One segment file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Index of its first record, from the name.
    pub first_index: u64,
    /// Its path.
    pub path: PathBuf,
}

impl Segment {
    /// The segment of this folder that begins with this record.
    pub fn new(dir: &Path, first_index: u64) -> Segment {
        Segment { first_index, path: dir.join(format!("{first_index:020}{SUFFIX}")) }
    }

    /// Reads it from its start.
    pub fn open(&self) -> Result<SegmentReader<BufReader<File>>, SegmentError> {
        SegmentReader::new(BufReader::with_capacity(256 * 1024, File::open(&self.path)?))
    }
}

/// The segments of a folder, oldest first. Other files are left alone.
pub fn segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(SUFFIX));
        if let Some(first_index) = name.and_then(|n| n.parse().ok()) {
            found.push(Segment { first_index, path });
        }
    }
    found.sort();
    Ok(found)
}

/// Calls `each` with every record from `from` on, until it breaks off or the journal ends.
pub fn for_each_record<E: From<SegmentError>>(
    dir: &Path,
    from: u64,
    mut each: impl FnMut(Record) -> Result<(), E>,
) -> Result<(), E> {
    let all = segments(dir).map_err(SegmentError::from)?;
    let start = all.iter().rposition(|s| s.first_index <= from).unwrap_or(0);
    for segment in all.iter().skip(start) {
        let mut reader = segment.open()?;
        while let Some(record) = reader.next_record()? {
            if record.index >= from {
                each(record)?;
            }
        }
    }
    Ok(())
}
