//! The console of one domain: its bytes go to a log of limited size and to every attached client; clients' bytes go in.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A log of this size is moved to `NAME.1`, and the one before is gone: a guest cannot fill the disk.
pub const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What a client sees of the past when it attaches.
const BACKLOG_BYTES_MAX: usize = 16 * 1024;
/// Clients attached to one console.
const CLIENTS_MAX: usize = 16;
/// A client that takes nothing for so long is let go; the guest's output does not wait for it longer.
const CLIENT_TIMEOUT: Duration = Duration::from_millis(200);

/// A log file that never grows past its limit.
pub struct LimitedLog {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl LimitedLog {
    /// Opens the log to append to it.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<LimitedLog> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(LimitedLog { path: path.to_owned(), file, bytes, bytes_max })
    }

    /// Appends, and turns the log over where the limit would be passed.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + bytes.len() as u64 > self.bytes_max {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            std::fs::rename(&self.path, older)?;
            *self = LimitedLog::open(&self.path, self.bytes_max)?;
        }
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Why a client is not attached.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Too many are.
    #[error("{CLIENTS_MAX} clients are attached to this console already")]
    Busy,
    /// The domain is gone.
    #[error("this console has ended")]
    Ended,
    /// A socket failed.
    #[error("the console cannot be attached")]
    Io(#[from] io::Error),
}

/// The console.
pub struct Console {
    guest: UnixStream,
    // Held while bytes go out, so that a client that attaches sees backlog and live bytes in order.
    output: Mutex<Output>,
}

struct Output {
    clients: Vec<UnixStream>,
    backlog: VecDeque<u8>,
    ended: bool,
}

impl Console {
    /// Takes the supervisor's end of the console socket and reads it in a thread of its own until it ends.
    pub fn start(guest: UnixStream, mut log: LimitedLog) -> io::Result<Arc<Console>> {
        let mut reading = guest.try_clone()?;
        let output = Output { clients: Vec::new(), backlog: VecDeque::new(), ended: false };
        let console = Arc::new(Console { guest, output: Mutex::new(output) });
        let pump = Arc::clone(&console);
        std::thread::Builder::new().name("console".into()).spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                match reading.read(&mut bytes) {
                    Ok(0) => break,
                    Ok(count) => {
                        if let Err(error) = log.append(&bytes[..count]) {
                            tracing::warn!(%error, "console log cannot be written");
                        }
                        pump.broadcast(&bytes[..count]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
            pump.end();
        })?;
        Ok(console)
    }

    /// Attaches a client and carries its bytes to the guest until it leaves or the console ends.
    pub fn attach(&self, client: &UnixStream) -> Result<(), ConsoleError> {
        client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
        let mut writing = client.try_clone()?;
        {
            let mut output = self.output();
            if output.ended {
                return Err(ConsoleError::Ended);
            }
            if output.clients.len() == CLIENTS_MAX {
                return Err(ConsoleError::Busy);
            }
            // The answer to the request goes out under the lock: raw bytes may only follow it.
            writing.write_all(b"{\"ok\":{}}\n")?;
            let (older, newer) = output.backlog.as_slices();
            writing.write_all(older)?;
            writing.write_all(newer)?;
            output.clients.push(writing);
        }
        let mut reading = client;
        let mut bytes = [0; 1024];
        loop {
            match reading.read(&mut bytes) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => (&self.guest).write_all(&bytes[..count])?,
            }
        }
    }

    fn broadcast(&self, bytes: &[u8]) {
        let mut output = self.output();
        output.backlog.extend(bytes);
        let surplus = output.backlog.len().saturating_sub(BACKLOG_BYTES_MAX);
        output.backlog.drain(..surplus);
        output.clients.retain_mut(|client| {
            let taken = client.write_all(bytes);
            if taken.is_err() {
                let _ = client.shutdown(Shutdown::Both);
            }
            taken.is_ok()
        });
    }

    fn end(&self) {
        let mut output = self.output();
        output.ended = true;
        for client in output.clients.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_turned_over_once_and_never_passes_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let mut log = LimitedLog::open(&path, 10).unwrap();
        for text in ["aaaaaaaa", "bbbbbbbb", "cccccccc", "d"] {
            log.append(text.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ccccccccd");
        assert_eq!(std::fs::read_to_string(folder.path().join("console.log.1")).unwrap(), "bbbbbbbb");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    fn read_exactly(stream: &mut UnixStream, wanted: &str) {
        let mut bytes = vec![0; wanted.len()];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), wanted);
    }

    #[test]
    fn every_client_sees_backlog_and_output_and_may_type() {
        let folder = tempfile::tempdir().unwrap();
        let (mut guest, ours) = UnixStream::pair().unwrap();
        let log = LimitedLog::open(&folder.path().join("c"), LOG_BYTES_MAX).unwrap();
        let console = Console::start(ours, log).unwrap();
        guest.write_all(b"boot\n").unwrap();
        let mut attached = Vec::new();
        for _ in 0..2 {
            let (client, served) = UnixStream::pair().unwrap();
            let console = Arc::clone(&console);
            std::thread::spawn(move || console.attach(&served));
            attached.push(client);
        }
        for client in &mut attached {
            read_exactly(client, "{\"ok\":{}}\nboot\n");
        }
        guest.write_all(b"login: ").unwrap();
        for client in &mut attached {
            read_exactly(client, "login: ");
        }
        attached[0].write_all(b"root\n").unwrap();
        read_exactly(&mut guest, "root\n");
        drop(guest);
        assert_eq!(attached[1].read(&mut [0; 8]).unwrap(), 0);
    }
}
