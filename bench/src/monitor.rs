//! QEMU's human monitor.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// How long the peer may take to write its snapshot, or to say that it runs.
const MONITOR_LIMIT: Duration = Duration::from_secs(120);

/// QEMU's human monitor.
pub struct Monitor(UnixStream);

impl Monitor {
    /// Once it answers, the machine is set up: with `-loadvm` that is done before.
    pub fn open(path: &Path) -> anyhow::Result<Monitor> {
        let until = Instant::now() + MONITOR_LIMIT;
        loop {
            match UnixStream::connect(path) {
                Ok(socket) => {
                    socket.set_read_timeout(Some(MONITOR_LIMIT))?;
                    let mut monitor = Monitor(socket);
                    monitor.answer()?;
                    return Ok(monitor);
                }
                Err(error) if Instant::now() > until => return Err(error).context("qemu's monitor"),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// One command; answers what it says.
    pub fn ask(&mut self, command: &str) -> anyhow::Result<String> {
        self.0.write_all(format!("{command}\n").as_bytes())?;
        self.answer()
    }

    /// All up to the next prompt.
    fn answer(&mut self) -> anyhow::Result<String> {
        const ANSWER_BYTES_MAX: usize = 64 << 10;
        let (mut said, mut byte) = (Vec::new(), [0]);
        while !said.ends_with(b"(qemu) ") {
            ensure!(said.len() < ANSWER_BYTES_MAX, "qemu's monitor does not end");
            self.0.read_exact(&mut byte).context("qemu's monitor")?;
            said.extend(byte);
        }
        Ok(String::from_utf8_lossy(&said).into_owned())
    }
}
