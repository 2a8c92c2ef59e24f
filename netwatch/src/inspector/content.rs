//! `content`: literal bytes with hexadecimal parts, and how they are searched for.

use memchr::memmem::Finder;
use memchr::{memchr2_iter, memmem};

use super::rule::Buffer;

/// Longest literal of one content.
const CONTENT_LEN_MAX: usize = 2048;

/// One `content` or `uricontent` with its modifiers.
#[derive(Debug, Clone)]
pub struct Content {
    /// The bytes; in lower case where `nocase`.
    pub bytes: Vec<u8>,
    /// Case is ignored.
    pub nocase: bool,
    /// The rule matches only where it is absent.
    pub negated: bool,
    /// Where it is looked for.
    pub buffer: Buffer,
    /// First byte that may match, from the start.
    pub offset: Option<i64>,
    /// How many bytes from `offset` on are looked at.
    pub depth: Option<usize>,
    /// First byte that may match, from the cursor.
    pub distance: Option<i64>,
    /// How many bytes from the cursor (and `distance`) on are looked at.
    pub within: Option<usize>,
    /// Chosen for the prefilter by the rule.
    pub fast_pattern: bool,
    /// Boxed: its tables are most of a content's size.
    finder: Box<Finder<'static>>,
}

impl Content {
    /// A content without modifiers.
    pub fn new(bytes: Vec<u8>, negated: bool, buffer: Buffer) -> Content {
        let finder = Box::new(Finder::new(&bytes).into_owned());
        Content {
            bytes,
            nocase: false,
            negated,
            buffer,
            offset: None,
            depth: None,
            distance: None,
            within: None,
            fast_pattern: false,
            finder,
        }
    }

    /// From here on, case is ignored.
    pub fn ignore_case(&mut self) {
        self.nocase = true;
        self.bytes.make_ascii_lowercase();
    }

    /// Whether it starts from the end of the last match.
    pub fn is_relative(&self) -> bool {
        self.distance.is_some() || self.within.is_some()
    }

    /// Index of the first occurrence in `haystack`.
    pub fn find(&self, haystack: &[u8]) -> Option<usize> {
        if !self.nocase {
            return self.finder.find(haystack);
        }
        let first = *self.bytes.first()?;
        let last_start = haystack.len().checked_sub(self.bytes.len())?;
        memchr2_iter(first, first.to_ascii_uppercase(), haystack.get(..=last_start)?)
            .find(|&at| haystack[at..at + self.bytes.len()].eq_ignore_ascii_case(&self.bytes))
    }
}

/// Reads the text between the quotes of a content: `\"`, `\;`, `\:`, `\\` escapes and `|41 42|` hexadecimal parts.
pub fn parse_literal(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match first {
            b'|' => {
                let end = memmem::find(tail, b"|").ok_or("hexadecimal part is not closed with |")?;
                parse_hex(&tail[..end], &mut bytes)?;
                rest = &tail[end + 1..];
            }
            b'\\' => {
                let (escaped, tail) = tail.split_first().ok_or("nothing behind the last backslash")?;
                bytes.push(*escaped);
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    match bytes.len() {
        0 => Err("content is empty"),
        CONTENT_LEN_MAX.. => Err("content is longer than 2047 bytes"),
        _ => Ok(bytes),
    }
}

fn parse_hex(text: &[u8], bytes: &mut Vec<u8>) -> Result<(), &'static str> {
    let mut high: Option<u8> = None;
    for &byte in text {
        if byte.is_ascii_whitespace() {
            continue;
        }
        let digit = (byte as char).to_digit(16).ok_or("not a hexadecimal digit")?;
        let digit = u8::try_from(digit).map_err(|_| "not a hexadecimal digit")?;
        high = match high {
            None => Some(digit),
            Some(high) => {
                bytes.push(high << 4 | digit);
                None
            }
        };
    }
    if high.is_some() { Err("odd number of hexadecimal digits") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_with_escapes_and_hex() {
        for (text, bytes) in [
            ("abc", &b"abc"[..]),
            ("|41 42|c", b"ABc"),
            ("|4142 43|", b"ABC"),
            (r#"a\"b\;c\\"#, b"a\"b;c\\"),
            ("a|3a|b|3B|", b"a:b;"),
        ] {
            assert_eq!(parse_literal(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "|41", "|4|", "|4x|", "a\\", "||"] {
            assert!(parse_literal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn search_ignores_case_only_when_told() {
        let mut content = Content::new(b"Passwd".to_vec(), false, Buffer::Payload);
        assert_eq!(content.find(b"/etc/PASSWD"), None);
        assert_eq!(content.find(b"/etc/Passwd"), Some(5));
        content.ignore_case();
        assert_eq!(content.find(b"/etc/PASSWD"), Some(5));
        assert_eq!(content.find(b"pass"), None);
    }
}
