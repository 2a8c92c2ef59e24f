//! The journal: the one place where an event is kept for good. Append only, chained, on disk before it is acknowledged.
//!
//! Segment files of a folder, named after their first record. Records are written and fsynced in groups. A crash can leave only a torn
//! tail of the last segment: opening cuts it off (and keeps the bytes beside it), and nothing acknowledged was in it. What the records mean
//! is the store's business.

pub mod record;
pub mod segments;
pub mod verify;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use record::{Hash, SEGMENT_HEADER_BYTES, SegmentError, SegmentHeader};
use segments::{Segment, segments};

/// Files of the journal are readable by its group.
const FILE_MODE: u32 = 0o640;

/// Why the journal cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file of it.
    #[error("journal file {path} cannot be used")]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process has it open for writing.
    #[error("journal {0} is in use by another process")]
    InUse(PathBuf),
    /// A segment that is not the torn tail.
    #[error("journal segment {path} cannot be read")]
    Segment {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: SegmentError,
    },
}

/// The end of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Index of the last record; 0 when there is none.
    pub index: u64,
    /// Its hash; zeros when there is none.
    pub hash: Hash,
}

/// A record that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its index.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The journal, open for writing.
pub struct Journal {
    dir: PathBuf,
    segment_bytes_max: u64,
    /// The last segment, and the length of its whole records.
    file: File,
    path: PathBuf,
    len: u64,
    head: Head,
    /// Held as long as we write.
    _lock: File,
}

impl Journal {
    /// Opens or makes the journal of this folder; begins a new segment file when one reaches `segment_bytes_max`.
    pub fn open(dir: &Path, segment_bytes_max: u64) -> Result<Journal, JournalError> {
        std::fs::create_dir_all(dir).map_err(at(dir))?;
        let lock_path = dir.join("lock");
        let lock = options().truncate(true).open(&lock_path).map_err(at(&lock_path))?;
        lock.try_lock().map_err(|_| JournalError::InUse(dir.to_owned()))?;
        let mut all = segments(dir).map_err(at(dir))?;
        while let Some(last) = all.pop() {
            if let Some((file, len, head)) = recover(&last)? {
                let path = last.path;
                return Ok(Journal {
                    dir: dir.to_owned(),
                    segment_bytes_max,
                    file,
                    path,
                    len,
                    head,
                    _lock: lock,
                });
            }
        }
        let head = Head { index: 0, hash: [0; 32] };
        let (file, path, len) = begin_segment(dir, head)?;
        Ok(Journal { dir: dir.to_owned(), segment_bytes_max, file, path, len, head, _lock: lock })
    }

    /// The segment that is written; another one after an append that began it.
    pub fn segment_path(&self) -> &Path {
        &self.path
    }

    /// The end of the chain.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Appends payloads and returns when they are on disk. After an error none of them counts, and the same call may be tried again.
    pub fn append<'a>(
        &mut self,
        received: Timestamp,
        payloads: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Appended>, JournalError> {
        if self.len >= self.segment_bytes_max {
            (self.file, self.path, self.len) = begin_segment(&self.dir, self.head)?;
        }
        let (mut bytes, mut appended, mut head) = (Vec::new(), Vec::new(), self.head);
        for payload in payloads {
            let index = head.index + 1;
            let hash = record::encode(index, received, &head.hash, payload, &mut bytes);
            head = Head { index, hash };
            appended.push(Appended { index, hash });
        }
        let written = self.file.write_all_at(&bytes, self.len).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // The next call overwrites the same place; what lies behind it would look like a torn tail.
            let _ = self.file.set_len(self.len);
            return Err(JournalError::File { path: self.path.clone(), source });
        }
        self.len += bytes.len() as u64;
        self.head = head;
        Ok(appended)
    }

    /// Deletes the oldest segments until the journal has at most this many bytes; the one being written stays. Gives their number.
    pub fn trim(&self, bytes_max: u64) -> Result<u64, JournalError> {
        let mut sizes = Vec::new();
        for segment in segments(&self.dir).map_err(at(&self.dir))? {
            let bytes = std::fs::metadata(&segment.path).map_err(at(&segment.path))?.len();
            sizes.push((segment.path, bytes));
        }
        let mut total: u64 = sizes.iter().map(|(_, bytes)| bytes).sum();
        let mut deleted = 0;
        for (path, bytes) in sizes {
            if total <= bytes_max || path == self.path {
                break;
            }
            std::fs::remove_file(&path).map_err(at(&path))?;
            total -= bytes;
            deleted += 1;
        }
        Ok(deleted)
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::File { path, source }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(FILE_MODE);
    options
}

/// A new segment file, its header and its name on disk.
fn begin_segment(dir: &Path, head: Head) -> Result<(File, PathBuf, u64), JournalError> {
    let path = Segment::new(dir, head.index + 1).path;
    let header = SegmentHeader { first_index: head.index + 1, prev_hash: head.hash }.encode();
    let begin = || {
        let file = options().truncate(true).open(&path)?;
        file.write_all_at(&header, 0)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    let file = begin().map_err(at(&path))?;
    Ok((file, path, SEGMENT_HEADER_BYTES as u64))
}

/// Opens the last segment and cuts off a torn tail. `None` when the crash came before its header was whole: it held no record.
fn recover(last: &Segment) -> Result<Option<(File, u64, Head)>, JournalError> {
    let failed = |source| JournalError::Segment { path: last.path.clone(), source };
    let mut reader = match last.open() {
        Ok(reader) => reader,
        Err(SegmentError::BadHeader) if is_stillborn(&last.path) => {
            std::fs::remove_file(&last.path).map_err(at(&last.path))?;
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let mut head = Head { index: reader.header().first_index - 1, hash: reader.header().prev_hash };
    let torn = loop {
        match reader.next_record() {
            Ok(Some(record)) => head = Head { index: record.index, hash: record.hash },
            Ok(None) => break None,
            Err(SegmentError::Broken { why, .. }) => break Some(why),
            Err(error) => return Err(failed(error)),
        }
    };
    let file = options().truncate(false).open(&last.path).map_err(at(&last.path))?;
    if let Some(why) = torn {
        cut(&file, last, reader.offset(), why).map_err(at(&last.path))?;
    }
    Ok(Some((file, reader.offset(), head)))
}

/// A file that is shorter than its header never held a record.
fn is_stillborn(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.len() < SEGMENT_HEADER_BYTES as u64)
}

/// Evidence is never thrown away: the torn bytes go to a file beside the segment.
fn cut(file: &File, segment: &Segment, offset: u64, why: &str) -> io::Result<()> {
    let mut tail = vec![0; (file.metadata()?.len() - offset) as usize];
    file.read_exact_at(&mut tail, offset)?;
    let kept = segment.path.with_extension(format!("torn-{offset}"));
    tracing::warn!(
        "journal {} ends in {} torn bytes ({why}); kept as {}",
        segment.path.display(),
        tail.len(),
        kept.display()
    );
    std::fs::write(kept, &tail)?;
    file.set_len(offset)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
