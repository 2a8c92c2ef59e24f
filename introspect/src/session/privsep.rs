//! What the parts of OpenSSH's server tell each other over their socket (its monitor.h and monitor_wrap.c, `mm_request_send`): a length, a
//! type and a body. The password that a client typed passes here in clear, whatever the line is encrypted with.

/// Longest message that is kept while it comes in parts.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// A user's name or password is not longer.
const TEXT_BYTES_MAX: usize = 1024;

/// monitor.h.
const REQUEST_USER: u8 = 8;
const REQUEST_PASSWORD: u8 = 12;
const ANSWER_PASSWORD: u8 = 13;
const ANSWER_KEY_VERIFY: u8 = 25;
const REQUEST_PAM_RESPOND: u8 = 108;

/// What was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Somebody wants to log in as this user.
    User(String),
    /// With this password.
    Password(String),
    /// The monitor says whether that was right.
    PasswordAnswer(bool),
    /// The monitor says whether a key's signature was right.
    KeyAnswer(bool),
}

/// One direction of one socket.
#[derive(Debug, Default)]
pub struct Stream {
    pending: Vec<u8>,
    lost: bool,
}

impl Stream {
    /// Takes what was written in one call; answers the messages that it completes. What is no such stream is found out and ignored.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        if self.lost {
            return said;
        }
        self.pending.extend_from_slice(bytes);
        while let Some(head) = self.pending.first_chunk::<5>() {
            // The type counts as part of the message.
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
            if length == 0 || length > MESSAGE_BYTES_MAX {
                self.lost = true;
                self.pending.clear();
                break;
            }
            let Some(message) = self.pending.get(4..4 + length) else {
                break;
            };
            said.extend(message_meaning(message[0], &message[1..]));
            self.pending.drain(..4 + length);
        }
        said
    }
}

fn message_meaning(kind: u8, body: &[u8]) -> Option<Said> {
    match kind {
        REQUEST_USER => text(body).map(Said::User),
        REQUEST_PASSWORD => text(body).map(Said::Password),
        // The number of answers goes before them; a password is the only one.
        REQUEST_PAM_RESPOND => text(body.get(4..)?).map(Said::Password),
        ANSWER_PASSWORD => Some(Said::PasswordAnswer(number(body)? != 0)),
        ANSWER_KEY_VERIFY => Some(Said::KeyAnswer(number(body)? != 0)),
        _ => None,
    }
}

fn number(body: &[u8]) -> Option<u32> {
    body.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn text(body: &[u8]) -> Option<String> {
    let bytes = number(body)? as usize;
    let text = body.get(4..4 + bytes.min(TEXT_BYTES_MAX))?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_read_in_the_parts_in_which_it_comes() {
        let mut stream = Stream::default();
        assert!(stream.take(b"\0\0\0\x0d\x0c").is_empty());
        assert_eq!(stream.take(b"\0\0\0\x08admin123"), [Said::Password("admin123".to_owned())]);
        assert_eq!(stream.take(b"\0\0\0\x09\x0d\0\0\0\x01\0\0\0\0"), [Said::PasswordAnswer(true)]);
        assert_eq!(stream.take(b"\0\0\0\x09\x08\0\0\0\x04root"), [Said::User("root".to_owned())]);
    }

    #[test]
    fn what_is_no_such_stream_is_ignored() {
        let mut stream = Stream::default();
        assert!(stream.take(b"GET / HTTP/1.0\r\n\r\n").is_empty());
        assert!(stream.take(b"\0\0\0\x09\x08\0\0\0\x04root").is_empty());
        for body in [&b"\0\0\0\x01\x0c"[..], b"\0\0\0\x05\x0c\xff\xff\xff\xff", b"\0\0\0\x03\x6c\0\0"] {
            assert!(Stream::default().take(body).is_empty(), "{body:?}");
        }
    }
}
