//! Names of files as they stand in a path of ours. Pure; whatever is no such name does not become one.

use std::fmt;

/// Digits of a session's id.
const ID_DIGITS: usize = 16;
/// Digits of a SHA-256.
const SHA256_DIGITS: usize = 64;
/// Digits of a terminal's number.
const TTY_DIGITS_MAX: usize = 6;

/// A session's id: 16 hexadecimal digits in lower case. The first eight are the second in which it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// The id that this text is.
    pub fn parse(text: &str) -> Option<SessionId> {
        let value = || u64::from_str_radix(text, 16).ok().map(SessionId);
        is_hex(text, ID_DIGITS).then(value).flatten()
    }

    /// The session that has this file in the folder of objects.
    pub fn of_file(name: &str) -> Option<SessionId> {
        SessionId::parse(name.strip_suffix(".json")?)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The number of a session's terminal: decimal digits, no zero before them.
pub fn tty(text: &str) -> Option<u32> {
    let digits = (1..=TTY_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// A SHA-256: 64 hexadecimal digits in lower case.
pub fn is_sha256(text: &str) -> bool {
    is_hex(text, SHA256_DIGITS)
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_sixteen_digits_and_is_written_as_it_was_read() {
        for good in ["65a1b2c300010001", "0000000000000000", "ffffffffffffffff"] {
            assert_eq!(SessionId::parse(good).unwrap().to_string(), good);
        }
        let bad = [
            "",
            "65a1b2c30001000",
            "65a1b2c3000100011",
            "65A1B2C300010001",
            "+5a1b2c300010001",
            "../../etc/passwd",
        ];
        for text in bad {
            assert_eq!(SessionId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_an_object_is_the_file_of_a_session() {
        assert!(SessionId::of_file("65a1b2c300010001.json").is_some());
        for name in ["65a1b2c300010001", "65a1b2c300010001.json.tmp", ".65a1b2c300010001.json", "x.json"] {
            assert_eq!(SessionId::of_file(name), None, "{name}");
        }
    }

    #[test]
    fn a_terminal_has_a_plain_number() {
        assert_eq!((tty("0"), tty("1"), tty("120")), (Some(0), Some(1), Some(120)));
        for text in ["", "01", "+1", "-1", "1.cast", "1/..", "0x1", "1234567", "١"] {
            assert_eq!(tty(text), None, "{text}");
        }
    }

    #[test]
    fn a_sample_is_named_by_its_hash_alone() {
        assert!(is_sha256(&"0a".repeat(32)));
        for text in ["", &"0A".repeat(32), &"0a".repeat(33), &"../".repeat(22)[..64]] {
            assert!(!is_sha256(text), "{text}");
        }
    }
}
