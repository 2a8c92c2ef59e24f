//! Lines of a console, each with the time at which it came.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a growing file is looked at: what this adds to a time is at most so much.
const FILE_INTERVAL: Duration = Duration::from_micros(500);
/// Lines that are quoted when the wanted one does not come.
const QUOTED_LINES: usize = 12;

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// When its end came.
    pub at: Instant,
    /// The line without its end.
    pub text: String,
}

/// Lines as they come.
pub struct Lines {
    receiver: Receiver<Line>,
    // Its last owner but the reading thread is here: a file is followed as long as somebody listens.
    _listening: Arc<()>,
}

impl Lines {
    /// Lines of a pipe or socket until its end.
    pub fn of_reader(reader: impl Read + Send + 'static) -> Lines {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
                if sender.send(line(&bytes)).is_err() {
                    return;
                }
                bytes.clear();
            }
        });
        Lines { receiver, _listening: Arc::new(()) }
    }

    /// Lines of a file that grows and may not be there yet.
    pub fn of_file(path: PathBuf) -> Lines {
        let (sender, receiver) = channel();
        let listening = Arc::new(());
        let heard = Arc::downgrade(&listening);
        std::thread::spawn(move || {
            let mut file = None;
            let mut bytes = Vec::new();
            while heard.strong_count() > 0 {
                file = file.or_else(|| File::open(&path).ok());
                if let Some(file) = &mut file {
                    // A file that cannot be read has no lines; who waits for one will say so.
                    let _ = file.read_to_end(&mut bytes);
                    send_whole_lines(&mut bytes, &sender);
                }
                std::thread::sleep(FILE_INTERVAL);
            }
        });
        Lines { receiver, _listening: listening }
    }

    /// The next line.
    pub fn next(&self, deadline: Instant) -> Result<Line, RecvTimeoutError> {
        self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// The next line that has this in it.
    pub fn wait_for(&self, part: &str, limit: Duration) -> anyhow::Result<Line> {
        let deadline = Instant::now() + limit;
        let mut seen = Vec::new();
        loop {
            match self.next(deadline) {
                Ok(line) if line.text.contains(part) => return Ok(line),
                Ok(line) => seen.push(line.text),
                Err(why) => {
                    let last = &seen[seen.len().saturating_sub(QUOTED_LINES)..];
                    bail!("no line with {part:?} came ({why}); the last lines were:\n{}", last.join("\n"));
                }
            }
        }
    }
}

fn send_whole_lines(bytes: &mut Vec<u8>, sender: &Sender<Line>) {
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let rest = bytes.split_off(end + 1);
        let whole = std::mem::replace(bytes, rest);
        // Nobody listens any more, then nobody misses it.
        let _ = sender.send(line(&whole));
    }
}

fn line(bytes: &[u8]) -> Line {
    Line { at: Instant::now(), text: String::from_utf8_lossy(bytes).trim_end().to_owned() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_followed_from_before_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let lines = Lines::of_file(path.clone());
        let mut file = File::create(&path).unwrap();
        file.write_all(b"mapping kernel\r\ninit").unwrap();
        file.write_all(b" up\r\n").unwrap();
        assert_eq!(lines.wait_for("init", Duration::from_secs(5)).unwrap().text, "init up");
    }

    #[test]
    fn a_line_that_does_not_come_is_an_error_that_quotes_the_last_ones() {
        let lines = Lines::of_reader(&b"one\ntwo\n"[..]);
        let error = lines.wait_for("three", Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("three") && error.ends_with("one\ntwo"), "{error}");
    }
}
