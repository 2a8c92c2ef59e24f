//! The spool file: framed messages (as on the wire) that wait for the sink to come back, also over a restart of the sensor.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::window::{Frame, Origin};
use crate::framing::{Deframer, Framing};
use crate::wire::{self, MESSAGE_BYTES_MAX, Position};

/// Size at which the spool takes no more.
const SPOOL_BYTES_MAX: u64 = 64 * 1024 * 1024;
const CHUNK_BYTES: usize = 64 * 1024;

/// The file; `[0, read)` was handed to the window, `[read, len)` waits.
pub struct Spool {
    path: PathBuf,
    file: File,
    len: u64,
    read: u64,
    /// Bytes of the file that were fetched.
    fetched: u64,
    deframer: Deframer,
}

/// What `next_frame` found.
pub enum Next {
    /// A message.
    Frame(Frame),
    /// A message that cannot be read; it is skipped.
    Unreadable,
    /// No more.
    End,
}

impl Spool {
    /// Opens or creates the file, for this process alone. A sensor without its spool still works, so failure is for the operator.
    pub fn open_or_warn(path: &Path) -> Option<Spool> {
        match Spool::open(path) {
            Ok(spool) => Some(spool),
            Err(error) => {
                tracing::warn!("spool {} cannot be used: {error}", path.display());
                None
            }
        }
    }

    fn open(path: &Path) -> io::Result<Spool> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        file.try_lock()?;
        let len = whole_frames(&file)?;
        file.set_len(len)?;
        Ok(Spool { path: path.to_owned(), file, len, read: 0, fetched: 0, deframer: deframer() })
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.read == self.len
    }

    pub fn has_room(&self) -> bool {
        self.len < SPOOL_BYTES_MAX
    }

    /// Appends a framed message. After an error the file is as before.
    pub fn append(&mut self, frame: &[u8]) -> io::Result<()> {
        match self.file.write_all_at(frame, self.len) {
            Ok(()) => {
                self.len += frame.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.len)?;
                Err(error)
            }
        }
    }

    /// The next message that waits.
    pub fn next_frame(&mut self) -> Next {
        loop {
            match self.deframer.next_message() {
                Ok(Some(message)) => return self.found(&message),
                Ok(None) if self.fetched < self.len => {
                    if self.fetch().is_err() {
                        return self.give_up();
                    }
                }
                Ok(None) if self.is_empty() => return Next::End,
                Ok(None) | Err(_) => return self.give_up(),
            }
        }
    }

    /// Empties the file: everything in it is on the sink's disk.
    pub fn reset(&mut self) {
        if self.len > 0 && self.file.set_len(0).is_ok() {
            (self.len, self.read, self.fetched) = (0, 0, 0);
            self.deframer = deframer();
        }
    }

    /// Rewrites the file for the sensor's next run: these messages, then what waited here, then the rest.
    pub fn replace(
        mut self,
        before: impl Iterator<Item = Vec<u8>>,
        after: impl Iterator<Item = Vec<u8>>,
    ) -> io::Result<()> {
        let new_path = self.path.with_extension("new");
        let mut new = io::BufWriter::new(
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new_path)?,
        );
        for frame in before {
            new.write_all(&frame)?;
        }
        self.file.seek(SeekFrom::Start(self.read))?;
        io::copy(&mut Read::by_ref(&mut self.file).take(self.len - self.read), &mut new)?;
        for frame in after {
            new.write_all(&frame)?;
        }
        new.flush()?;
        new.get_ref().sync_data()?;
        std::fs::rename(&new_path, &self.path)
    }

    fn found(&mut self, message: &[u8]) -> Next {
        let bytes = frame_of(message);
        self.read += bytes.len() as u64;
        match wire::parse(message) {
            Ok(received) => {
                let position = Position { run: received.source.run, seq: received.seq };
                Next::Frame(Frame { position, bytes, origin: Origin::Spool })
            }
            Err(_) => Next::Unreadable,
        }
    }

    fn fetch(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK_BYTES.min((self.len - self.fetched) as usize)];
        self.file.read_exact_at(&mut chunk, self.fetched)?;
        self.fetched += chunk.len() as u64;
        self.deframer.push(&chunk);
        Ok(())
    }

    /// The rest of the file is lost.
    fn give_up(&mut self) -> Next {
        tracing::warn!("spool {} is unreadable from byte {}", self.path.display(), self.read);
        (self.read, self.fetched) = (self.len, self.len);
        self.deframer = deframer();
        Next::Unreadable
    }
}

fn deframer() -> Deframer {
    Deframer::new(Framing::OctetCounting, MESSAGE_BYTES_MAX)
}

fn frame_of(message: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{} ", message.len()).into_bytes();
    bytes.extend_from_slice(message);
    bytes
}

/// Length of the file up to the last whole message: a sensor that was killed may have left a torn one.
fn whole_frames(file: &File) -> io::Result<u64> {
    let mut reader = BufReader::new(file.take(SPOOL_BYTES_MAX * 2));
    let (mut deframer, mut len) = (deframer(), 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            return Ok(len);
        }
        deframer.push(chunk.get(..count).unwrap_or_default());
        loop {
            match deframer.next_message() {
                Ok(Some(message)) => len += frame_of(&message).len() as u64,
                Ok(None) => break,
                Err(_) => return Ok(len),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, EventId, wire::Source};

    fn bytes(seq: u64) -> Vec<u8> {
        let source = Source { sensor: "s".into(), run: "0123456789abcdef".into() };
        let event = Event::new(EventId::Alert, jiff::Timestamp::UNIX_EPOCH);
        wire::frame(&wire::message(&event, &source, seq, "-", 1))
    }

    fn drain(spool: &mut Spool) -> Vec<u64> {
        let mut seqs = Vec::new();
        loop {
            match spool.next_frame() {
                Next::Frame(frame) => seqs.push(frame.position.seq),
                Next::Unreadable => seqs.push(0),
                Next::End => return seqs,
            }
        }
    }

    #[test]
    fn messages_come_back_in_order_after_a_restart_without_the_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.spool");
        let mut spool = Spool::open(&path).unwrap();
        spool.append(&bytes(1)).unwrap();
        spool.append(&bytes(2)).unwrap();
        spool.append(&bytes(3)[..50]).unwrap();
        assert!(Spool::open(&path).is_err(), "a spool has one owner");
        drop(spool);
        let mut spool = Spool::open(&path).unwrap();
        spool.append(&bytes(4)).unwrap();
        assert_eq!(drain(&mut spool), [1, 2, 4]);
        spool.append(&bytes(5)).unwrap();
        spool.replace([bytes(3), bytes(4)].into_iter(), [bytes(6)].into_iter()).unwrap();
        let mut spool = Spool::open(&path).unwrap();
        assert_eq!(drain(&mut spool), [3, 4, 5, 6]);
        spool.reset();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_spool_of_rubbish_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.spool");
        std::fs::write(&path, b"rubbish").unwrap();
        assert_eq!(drain(&mut Spool::open(&path).unwrap()), Vec::<u64>::new());
    }
}
