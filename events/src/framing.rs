//! Messages in a byte stream: RFC 6587, octet counting (`LEN SP MSG`) and non-transparent framing (`MSG LF`), told apart by the first
//! byte of each message. Pure: bytes in, messages out.

use std::collections::VecDeque;

/// Most digits of a length prefix.
const LENGTH_DIGITS_MAX: usize = 7;

/// How messages are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Only octet counting: what else comes is an error (the honeynet's own sensors).
    OctetCounting,
    /// Octet counting where a message begins with a digit, lines otherwise (foreign syslog).
    Either,
}

/// The stream is not framed as it must be; nothing after this point can be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FramingError {
    /// Not a decimal number and a space.
    #[error("message does not begin with its length")]
    NoLength,
    /// Longer than the reader takes.
    #[error("message of {length} bytes is longer than {limit}")]
    TooLong {
        /// Announced length.
        length: usize,
        /// The reader's limit.
        limit: usize,
    },
}

/// Splits a stream into messages. Never holds more than one message and one chunk of input.
#[derive(Debug)]
pub struct Deframer {
    framing: Framing,
    message_bytes_max: usize,
    buffer: VecDeque<u8>,
    /// Bytes of an over-long foreign message that are still to be thrown away.
    skip: Skip,
    /// Foreign messages that were cut at `message_bytes_max`.
    truncated: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    Nothing,
    Bytes(usize),
    Line,
}

impl Deframer {
    /// A reader of messages of at most `message_bytes_max` bytes. Longer ones are an error with `OctetCounting` and cut with `Either`.
    pub fn new(framing: Framing, message_bytes_max: usize) -> Deframer {
        Deframer { framing, message_bytes_max, buffer: VecDeque::new(), skip: Skip::Nothing, truncated: 0 }
    }

    /// Takes bytes from the stream. Call `next_message` until it gives `None` before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// Messages that were cut so far.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// The next whole message.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, FramingError> {
        // Each turn takes at least one byte from the buffer or returns.
        loop {
            if !self.skip_some() {
                return Ok(None);
            }
            match self.buffer.front() {
                None => return Ok(None),
                Some(b'1'..=b'9') => return self.counted(),
                Some(_) if self.framing == Framing::OctetCounting => return Err(FramingError::NoLength),
                Some(b'\n' | b'\r' | 0) => drop(self.buffer.pop_front()),
                Some(_) => return Ok(self.line()),
            }
        }
    }

    /// The message that the stream's end left unfinished (a last line without its line feed).
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        let rest: Vec<u8> = self.buffer.drain(..).take(self.message_bytes_max).collect();
        (self.framing == Framing::Either && self.skip == Skip::Nothing && !rest.is_empty()).then_some(rest)
    }

    /// True when nothing is left to skip.
    fn skip_some(&mut self) -> bool {
        match self.skip {
            Skip::Nothing => return true,
            Skip::Bytes(count) => {
                let here = count.min(self.buffer.len());
                self.buffer.drain(..here);
                self.skip = if here == count { Skip::Nothing } else { Skip::Bytes(count - here) };
            }
            Skip::Line => match self.buffer.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    self.buffer.drain(..=end);
                    self.skip = Skip::Nothing;
                }
                None => self.buffer.clear(),
            },
        }
        self.skip == Skip::Nothing
    }

    fn counted(&mut self) -> Result<Option<Vec<u8>>, FramingError> {
        let digits =
            self.buffer.iter().take(LENGTH_DIGITS_MAX + 1).take_while(|b| b.is_ascii_digit()).count();
        match self.buffer.get(digits) {
            None if digits <= LENGTH_DIGITS_MAX => return Ok(None),
            Some(b' ') if digits <= LENGTH_DIGITS_MAX => {}
            _ if self.framing == Framing::OctetCounting => return Err(FramingError::NoLength),
            // A line that happens to begin with a digit.
            _ => return Ok(self.line()),
        }
        let digits_of_length = self.buffer.iter().take(digits);
        let length = digits_of_length.fold(0usize, |n, b| n * 10 + usize::from(b - b'0'));
        let limit = self.message_bytes_max;
        if length > limit && self.framing == Framing::OctetCounting {
            return Err(FramingError::TooLong { length, limit });
        }
        let kept = length.min(limit);
        if self.buffer.len() < digits + 1 + kept {
            return Ok(None);
        }
        self.buffer.drain(..=digits);
        if length > kept {
            self.truncated += 1;
            self.skip = Skip::Bytes(length - kept);
        }
        Ok(Some(self.buffer.drain(..kept).collect()))
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer.iter().take(self.message_bytes_max + 1).position(|b| *b == b'\n');
        let kept = match end {
            Some(end) => end,
            None if self.buffer.len() > self.message_bytes_max => {
                self.truncated += 1;
                self.skip = Skip::Line;
                self.message_bytes_max
            }
            None => return None,
        };
        Some(self.buffer.drain(..kept).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(framing: Framing, limit: usize, chunk: usize, input: &[u8]) -> Vec<String> {
        let mut deframer = Deframer::new(framing, limit);
        let mut out = Vec::new();
        for part in input.chunks(chunk) {
            deframer.push(part);
            while let Some(m) = deframer.next_message().unwrap() {
                out.push(String::from_utf8(m).unwrap());
            }
        }
        out.extend(deframer.finish().map(|m| String::from_utf8(m).unwrap()));
        out
    }

    #[test]
    fn messages_do_not_depend_on_how_the_stream_is_cut() {
        let cases: [(&[u8], &[&str]); 6] = [
            (b"5 hello2 ab", &["hello", "ab"]),
            (b"<1>a\n<2>b\r\n<3>c", &["<1>a", "<2>b\r", "<3>c"]),
            (b"4 <1>a<2>line\n4 <3>b", &["<1>a", "<2>line", "<3>b"]),
            (b"20 <1>123456789abcdefgh<2>x\n", &["<1>1234567", "<2>x"]),
            (b"<1>0123456789 too long\n<2>x\n", &["<1>0123456", "<2>x"]),
            (b"123456789 no\n", &["123456789 "]),
        ];
        for (input, want) in cases {
            for chunk in 1..input.len() {
                assert_eq!(messages(Framing::Either, 10, chunk, input), want, "{input:?} by {chunk}");
            }
        }
    }

    #[test]
    fn our_own_framing_refuses_lines_and_over_long_messages() {
        let check = |input: &[u8], want| {
            let mut deframer = Deframer::new(Framing::OctetCounting, 10);
            deframer.push(input);
            assert_eq!(deframer.next_message(), Err(want));
        };
        check(b"<1>line\n", FramingError::NoLength);
        check(b"0 ", FramingError::NoLength);
        check(b"12x", FramingError::NoLength);
        check(b"99999999999 ", FramingError::NoLength);
        check(b"11 hello", FramingError::TooLong { length: 11, limit: 10 });
    }
}
