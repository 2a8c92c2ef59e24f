//! Lines out of what is typed at a terminal, as the one who types them sees them: corrected, without the keys that move about.

/// The longest line that is kept.
const LINE_BYTES_MAX: usize = 4096;

/// What was typed since the last line's end.
#[derive(Debug, Default)]
pub struct Line {
    bytes: Vec<u8>,
    escape: Escape,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    No,
    Begun,
    Sequence,
}

impl Line {
    /// Takes bytes; answers the lines that they end.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        bytes.iter().filter_map(|byte| self.key(*byte)).collect()
    }

    fn key(&mut self, byte: u8) -> Option<String> {
        match (self.escape, byte) {
            (Escape::Begun, b'[' | b'O') => self.escape = Escape::Sequence,
            (Escape::Begun, _) => self.escape = Escape::No,
            (Escape::Sequence, 0x40..=0x7e) => self.escape = Escape::No,
            (Escape::Sequence, _) => {}
            (Escape::No, 0x1b) => self.escape = Escape::Begun,
            (Escape::No, b'\r' | b'\n') => return self.end(),
            // Backspace takes a whole character.
            (Escape::No, 0x08 | 0x7f) => while self.bytes.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {},
            // ^U and ^C forget the line, ^W its last word.
            (Escape::No, 0x15 | 0x03) => self.bytes.clear(),
            (Escape::No, 0x17) => {
                while self.bytes.pop_if(|byte| *byte == b' ').is_some() {}
                while self.bytes.pop_if(|byte| *byte != b' ').is_some() {}
            }
            (Escape::No, 0x00..=0x1f) => {}
            (Escape::No, _) if self.bytes.len() >= LINE_BYTES_MAX => {}
            (Escape::No, _) => self.bytes.push(byte),
        }
        None
    }

    fn end(&mut self) -> Option<String> {
        let line = String::from_utf8_lossy(&self.bytes).into_owned();
        self.bytes.clear();
        (!line.is_empty()).then_some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_is_left_after_corrections() {
        for (typed, lines) in [
            (&b"ls -l\r"[..], vec!["ls -l"]),
            (b"lx\x7fs\r\r", vec!["ls"]),
            (b"cd /tmp foo\x17bar\r", vec!["cd /tmp bar"]),
            (b"secret\x15id\rwho\x03\rw\r", vec!["id", "w"]),
            (b"\x1b[A\x1b[1;5Cup\r", vec!["up"]),
            ("gr\u{fc}\x7fun\r".as_bytes(), vec!["grun"]),
        ] {
            assert_eq!(Line::default().take(typed), lines);
        }
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut line = Line::default();
        assert!(line.take(&vec![b'a'; 100_000]).is_empty());
        assert_eq!(line.take(b"\r")[0].len(), LINE_BYTES_MAX);
    }
}
