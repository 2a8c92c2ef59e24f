//! A terminal's recording: asciicast v2 (docs.asciinema.org/manual/asciicast/v2), a line an event, appended as it happens.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use serde::Deserialize;
use serde_json::json;

use super::line::Line;

/// What goes before the first size is known.
const DEFAULT_SIZE: (u16, u16) = (80, 24);
/// The longest recording; what comes after is counted only.
const CAST_BYTES_MAX: u64 = 4 << 30;
/// What is read of a recording's end to go on with it.
const TAIL_BYTES: u64 = 256 * 1024;
/// The head is not longer.
const HEAD_BYTES_MAX: u64 = 4096;
/// Times that are read again differ by less from what was written; two calls differ by more.
const SAME_S: f64 = 1e-7;

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
    // Until then it was recorded by an observer that is gone.
    known_s: Option<f64>,
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
            known_s: None,
            bytes_shown: 0,
            bytes_typed: 0,
        }
    }

    /// Goes on with one that was begun at this time, by an observer that is gone, with as many bytes shown and typed; and with the line that
    /// was being typed. A last line that was not written whole is cut off.
    ///
    /// # Errors
    /// The disk is broken.
    pub fn resume(
        mut file: File,
        began_ns: u64,
        timestamp: i64,
        (bytes_shown, bytes_typed): (u64, u64),
    ) -> io::Result<(Cast, Line)> {
        let mut head = Vec::new();
        file.rewind()?;
        Read::take(&mut file, HEAD_BYTES_MAX).read_to_end(&mut head)?;
        let head = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let head: Option<Head> = serde_json::from_slice(head).ok();
        let (bytes, mut tail) = (file.metadata()?.len(), Vec::new());
        file.seek(SeekFrom::Start(bytes.saturating_sub(TAIL_BYTES)))?;
        Read::take(&mut file, TAIL_BYTES).read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let written = bytes - (tail.len() - whole) as u64;
        file.set_len(written)?;
        file.seek(SeekFrom::End(0))?;
        let mut cast = Cast { bytes_shown, bytes_typed, written, ..Cast::new(file, began_ns, timestamp) };
        cast.headed = written > 0;
        cast.size = head.map(|head| (head.width, head.height));
        let mut line = Line::default();
        // The first one may be cut.
        for bytes in tail[..whole].split(|byte| *byte == b'\n') {
            let Ok((seconds, kind, text)) = serde_json::from_slice::<(f64, String, String)>(bytes) else {
                continue;
            };
            cast.known_s = Some(cast.known_s.map_or(seconds, |known| known.max(seconds)));
            match kind.as_str() {
                "i" => drop(line.take(text.as_bytes())),
                "r" => cast.size = parse_size(&text).or(cast.size),
                _ => {}
            }
        }
        Ok((cast, line))
    }

    /// When it began: the domain's system time, and the same in seconds since 1970.
    pub fn began(&self) -> (u64, i64) {
        (self.began_ns, self.timestamp)
    }

    /// Was what happened then recorded already? Who goes on with a recording is told some of it again.
    pub fn has(&self, time_ns: u64) -> bool {
        self.known_s.is_some_and(|known| self.seconds(time_ns) <= known + SAME_S)
    }

    fn seconds(&self, time_ns: u64) -> f64 {
        time_ns.saturating_sub(self.began_ns) as f64 / 1e9
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
        line.push_str(&json!([self.seconds(time_ns), kind, text]).to_string());
        line.push('\n');
        self.written += line.len() as u64;
        self.file.write_all(line.as_bytes())
    }
}

/// What is read of a head.
#[derive(Deserialize)]
struct Head {
    width: u16,
    height: u16,
}

fn parse_size(text: &str) -> Option<(u16, u16)> {
    let (columns, rows) = text.split_once('x')?;
    Some((columns.parse().ok()?, rows.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &mut File) -> Vec<serde_json::Value> {
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_recording_has_its_head_size_and_times() {
        let mut file = tempfile::tempfile().unwrap();
        let mut cast = Cast::new(file.try_clone().unwrap(), 1_000_000_000, 1_700_000_000);
        cast.resize(0, (132, 40)).unwrap();
        cast.show(1_500_000_000, "gr\u{fc}n".as_bytes().split_at(3).0).unwrap();
        cast.show(2_000_000_000, b"\xbcn\x1b[0m").unwrap();
        cast.type_in(2_500_000_000, b"ls\r").unwrap();
        cast.resize(3_000_000_000, (80, 24)).unwrap();
        let lines = lines(&mut file);
        assert_eq!(lines[0], json!({"version": 2, "width": 132, "height": 40, "timestamp": 1_700_000_000}));
        assert_eq!(lines[1], json!([0.5, "o", "gr"]));
        assert_eq!(lines[2], json!([1.0, "o", "\u{fc}n\u{1b}[0m"]));
        assert_eq!(lines[3], json!([1.5, "i", "ls\r"]));
        assert_eq!(lines[4], json!([2.0, "r", "80x24"]));
        assert_eq!((cast.bytes_shown, cast.bytes_typed), (9, 3));
    }

    #[test]
    fn a_size_that_comes_after_the_first_byte_is_an_event() {
        let mut file = tempfile::tempfile().unwrap();
        let mut cast = Cast::new(file.try_clone().unwrap(), 0, 0);
        cast.show(0, b"$ ").unwrap();
        for (time_s, size) in [(1, (132, 40)), (2, (132, 40)), (3, (0, 40)), (4, (80, 24))] {
            cast.resize(time_s * 1_000_000_000, size).unwrap();
        }
        let lines = lines(&mut file);
        assert_eq!((&lines[0]["width"], &lines[0]["height"]), (&json!(80), &json!(24)));
        assert_eq!(lines[2..], [json!([1.0, "r", "132x40"]), json!([4.0, "r", "80x24"])]);
    }

    #[test]
    fn a_recording_is_continued_where_it_stopped() {
        let mut file = tempfile::tempfile().unwrap();
        let mut cast = Cast::new(file.try_clone().unwrap(), 1_000_000_000, 1_700_000_000);
        cast.resize(0, (132, 40)).unwrap();
        cast.show(1_500_000_001, b"$ ").unwrap();
        cast.type_in(2_123_456_789, b"uname\rid -").unwrap();
        file.write_all(b"[1.2,\"o\",\"tor").unwrap();
        let (mut cast, mut line) =
            Cast::resume(file.try_clone().unwrap(), 1_000_000_000, 1_700_000_000, (2, 9)).unwrap();
        assert!(cast.has(2_123_456_789) && !cast.has(2_123_457_789));
        assert_eq!(line.take(b"u\r"), ["id -u"]);
        cast.resize(2_500_000_000, (132, 40)).unwrap();
        cast.resize(2_600_000_000, (100, 30)).unwrap();
        cast.show(3_000_000_000, b"0").unwrap();
        let lines = lines(&mut file);
        assert_eq!(lines[3..], [json!([1.6, "r", "100x30"]), json!([2.0, "o", "0"])]);
        assert_eq!((cast.bytes_shown, cast.bytes_typed), (3, 9));
    }

    #[test]
    fn an_empty_recording_is_continued_with_its_head() {
        let mut file = tempfile::tempfile().unwrap();
        let (mut cast, _) = Cast::resume(file.try_clone().unwrap(), 0, 7, (0, 0)).unwrap();
        assert!(!cast.has(0));
        cast.show(500_000_000, b"x").unwrap();
        let lines = lines(&mut file);
        assert_eq!((&lines[0]["timestamp"], &lines[1]), (&json!(7), &json!([0.5, "o", "x"])));
    }
}
