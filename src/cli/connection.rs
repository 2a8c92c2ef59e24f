//! The command line's end of the supervisor's socket.

use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Failure;
use crate::state::State;
use crate::supervisor::protocol::{Reply, Request};

/// How long a supervisor may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked for meanwhile.
const READY_INTERVAL: Duration = Duration::from_millis(20);

/// A connection.
pub struct Connection {
    reader: BufReader<UnixStream>,
    end: Option<Instant>,
}

impl Connection {
    /// To the supervisor that runs.
    pub fn open(state: &State) -> Result<Connection, Failure> {
        Connection::try_open(state)?
            .ok_or_else(|| Failure::new("the honeynet is not up: start it with `honeynet up`"))
    }

    /// To the supervisor, if one runs.
    pub fn try_open(state: &State) -> Result<Option<Connection>, Failure> {
        match UnixStream::connect(state.socket()) {
            Ok(socket) => Ok(Some(Connection { reader: BufReader::new(socket), end: None })),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                Err(Failure::new("the honeynet is root's: try again as root"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// To the supervisor, which is started with this honeynet file if it does not run.
    pub fn open_or_start(state: &State, file: &Path) -> Result<Connection, Failure> {
        if let Some(connection) = Connection::try_open(state)? {
            return Ok(connection);
        }
        state.make(state.root())?;
        let path = state.supervisor_log();
        let log = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("supervisor").arg("--state").arg(state.root());
        command.arg("--file").arg(std::path::absolute(file)?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn()?;
        let begun = Instant::now();
        while begun.elapsed() < READY_TIMEOUT {
            if let Some(connection) = Connection::try_open(state)? {
                return Ok(connection);
            }
            if child.try_wait()?.is_some() {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let last = log.lines().last().unwrap_or("the supervisor ended at once");
                return Err(Failure::new(last.trim_start_matches("honeynet: ")));
            }
            std::thread::sleep(READY_INTERVAL);
        }
        let _ = child.kill();
        Err(Failure::new(format!("the supervisor is not ready after {} s", READY_TIMEOUT.as_secs())))
    }

    /// One request, one answer.
    pub fn request(&mut self, request: &Request) -> Result<Value, Failure> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes())?;
        line.clear();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(Failure::new("the supervisor went away"));
        }
        match serde_json::from_str(&line)? {
            Reply::Ok { ok } => Ok(ok),
            Reply::Error { error, code } => Err(Failure::with_code(error, code)),
        }
    }

    /// The next line after an answer that goes on; none at its end.
    pub fn line(&mut self) -> Result<Option<String>, Failure> {
        let mut line = String::new();
        let count = self.until_end(|reader| reader.read_line(&mut line))?;
        Ok((count > 0).then_some(line))
    }

    /// Bytes after an answer that goes on; 0 at its end.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Failure> {
        self.until_end(|reader| reader.read(bytes))
    }

    /// Answers that go on end after this time.
    pub fn end_after(&mut self, time: Duration) {
        self.end = Instant::now().checked_add(time);
    }

    fn until_end(
        &mut self,
        read: impl FnOnce(&mut BufReader<UnixStream>) -> io::Result<usize>,
    ) -> Result<usize, Failure> {
        if let Some(end) = self.end {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(0);
            }
            self.reader.get_ref().set_read_timeout(Some(left))?;
        }
        match read(&mut self.reader) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            done => Ok(done?),
        }
    }

    /// The bytes that came after the last answer, and the socket: for the console.
    pub fn into_raw(self) -> (Vec<u8>, UnixStream) {
        (self.reader.buffer().to_vec(), self.reader.into_inner())
    }
}
