//! A terminal's recording: asciicast v2 (docs.asciinema.org/manual/asciicast/v2), a line an event, appended as it happens.

use std::fs::File;
use std::io::{self, Write};

use serde_json::json;

/// What goes before the first size is known.
const DEFAULT_SIZE: (u16, u16) = (80, 24);
/// The longest recording; what comes after is counted only.
const CAST_BYTES_MAX: u64 = 4 << 30;

/// Bytes that came in the middle of a character wait for the rest of it.
#[derive(Debug, Default)]
struct Utf8 {
    pending: Vec<u8>,
}

impl Utf8 {
    fn take(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut whole = self.pending.len();
        if let Err(error) = std::str::from_utf8(&self.pending)
            && error.error_len().is_none()
        {
            whole = error.valid_up_to();
        }
        let text = String::from_utf8_lossy(&self.pending[..whole]).into_owned();
        self.pending.drain(..whole);
        text
    }
}

/// A recording.
#[derive(Debug)]
pub struct Cast {
    file: File,
    began_ns: u64,
    size: Option<(u16, u16)>,
    headed: bool,
    timestamp: i64,
    shown: Utf8,
    typed: Utf8,
    written: u64,
    /// Bytes that the terminal showed.
    pub bytes_shown: u64,
    /// Bytes that were typed.
    pub bytes_typed: u64,
}

impl Cast {
    /// Begins at this system time of the domain; `timestamp` is the same in seconds since 1970.
    pub fn new(file: File, began_ns: u64, timestamp: i64) -> Cast {
        Cast {
            file,
            began_ns,
            size: None,
            headed: false,
            timestamp,
            shown: Utf8::default(),
            typed: Utf8::default(),
            written: 0,
            bytes_shown: 0,
            bytes_typed: 0,
        }
    }

    /// The terminal showed this.
    ///
    /// # Errors
    /// The disk is full, or broken.
    pub fn show(&mut self, time_ns: u64, bytes: &[u8]) -> io::Result<()> {
        self.bytes_shown += bytes.len() as u64;
        let text = self.shown.take(bytes);
        self.event(time_ns, "o", &text)
    }

    /// This was typed.
    ///
    /// # Errors
    /// As for [`Cast::show`].
    pub fn type_in(&mut self, time_ns: u64, bytes: &[u8]) -> io::Result<()> {
        self.bytes_typed += bytes.len() as u64;
        let text = self.typed.take(bytes);
        self.event(time_ns, "i", &text)
    }

    /// The window has this size now, columns and rows.
    ///
    /// # Errors
    /// As for [`Cast::show`].
    pub fn resize(&mut self, time_ns: u64, size: (u16, u16)) -> io::Result<()> {
        if size.0 == 0 || size.1 == 0 || self.size.replace(size) == Some(size) || !self.headed {
            return Ok(());
        }
        self.event(time_ns, "r", &format!("{}x{}", size.0, size.1))
    }

    fn event(&mut self, time_ns: u64, kind: &str, text: &str) -> io::Result<()> {
        if text.is_empty() || self.written > CAST_BYTES_MAX {
            return Ok(());
        }
        let mut line = String::new();
        if !self.headed {
            let (width, height) = self.size.unwrap_or(DEFAULT_SIZE);
            line = json!({ "version": 2, "width": width, "height": height, "timestamp": self.timestamp })
                .to_string();
            line.push('\n');
            self.headed = true;
        }
        let seconds = time_ns.saturating_sub(self.began_ns) as f64 / 1e9;
        line.push_str(&json!([seconds, kind, text]).to_string());
        line.push('\n');
        self.written += line.len() as u64;
        self.file.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn a_recording_has_its_head_size_and_times() {
        let mut file = tempfile::tempfile().unwrap();
        let mut cast = Cast::new(file.try_clone().unwrap(), 1_000_000_000, 1_700_000_000);
        cast.resize(0, (132, 40)).unwrap();
        cast.show(1_500_000_000, "gr\u{fc}n".as_bytes().split_at(3).0).unwrap();
        cast.show(2_000_000_000, b"\xbcn\x1b[0m").unwrap();
        cast.type_in(2_500_000_000, b"ls\r").unwrap();
        cast.resize(3_000_000_000, (80, 24)).unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], json!({"version": 2, "width": 132, "height": 40, "timestamp": 1_700_000_000}));
        assert_eq!(lines[1], json!([0.5, "o", "gr"]));
        assert_eq!(lines[2], json!([1.0, "o", "\u{fc}n\u{1b}[0m"]));
        assert_eq!(lines[3], json!([1.5, "i", "ls\r"]));
        assert_eq!(lines[4], json!([2.0, "r", "80x24"]));
        assert_eq!((cast.bytes_shown, cast.bytes_typed), (9, 3));
    }
}
