//! One direction of a TCP connection: in-order reassembly (first copy of a byte wins) and the current message, that is what was
//! sent since the other side last spoke. No policy for overlaps other than that.

use std::collections::BTreeMap;

/// Bytes of a message that are held; beyond it the oldest go.
const MESSAGE_LEN_MAX: usize = 64 * 1024;
/// Bytes that stay when the oldest go.
const MESSAGE_LEN_KEPT: usize = 16 * 1024;
/// Out-of-order bytes held.
const HELD_BYTES_MAX: usize = 64 * 1024;
/// Out-of-order segments held.
const HELD_SEGMENTS_MAX: usize = 256;
/// A segment further ahead than this is not of this connection.
const AHEAD_MAX: u32 = 1 << 20;
/// A line that is typed byte by byte may be this long.
const LINE_LEN_MAX: usize = 4096;
/// Rules that fired or wait on one message.
const RULES_MAX: usize = 1024;

/// What was sent since the other side last spoke.
#[derive(Debug, Default)]
pub struct Message {
    /// The bytes that are held.
    pub bytes: Vec<u8>,
    /// Bytes of the message before them.
    pub base: usize,
    /// Rules that fired on it, with the number of the HTTP message in it.
    fired: Vec<(u32, u32)>,
    /// Rules whose prefilter content is in it.
    candidates: Vec<u32>,
}

impl Message {
    fn clear(&mut self) {
        *self = Message::default();
    }

    /// Appends data; gives the index where it begins.
    fn append(&mut self, data: &[u8]) -> usize {
        if self.bytes.len() + data.len() > MESSAGE_LEN_MAX {
            let gone = self.bytes.len().saturating_sub(MESSAGE_LEN_KEPT);
            self.bytes.drain(..gone);
            self.base += gone;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(data);
        start
    }

    /// Whether the rule fired already on this message; remembers it.
    pub fn fire(&mut self, rule: u32, http: u32) {
        if self.fired.len() < RULES_MAX && !self.has_fired(rule, http) {
            self.fired.push((rule, http));
        }
    }

    /// Whether the rule fired already on this message.
    pub fn has_fired(&self, rule: u32, http: u32) -> bool {
        self.fired.contains(&(rule, http))
    }

    /// Rules whose prefilter content was seen before.
    pub fn candidates(&self) -> &[u32] {
        &self.candidates
    }

    /// Remembers rules whose prefilter content was seen.
    pub fn set_candidates(&mut self, rules: &[u32]) {
        self.candidates.clear();
        self.candidates.extend_from_slice(&rules[..rules.len().min(RULES_MAX)]);
    }

    /// Whether it is a line that is still being typed: a terminal echoes each byte, which does not end the line.
    fn is_open_line(&self) -> bool {
        let text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | 0x08 | 0x7f);
        !self.bytes.is_empty()
            && self.base == 0
            && self.bytes.len() < LINE_LEN_MAX
            && self.bytes.iter().all(text)
    }
}

/// One direction.
#[derive(Debug, Default)]
pub struct Stream {
    next_sequence: Option<u32>,
    held: BTreeMap<u32, Vec<u8>>,
    held_bytes: usize,
    /// The current message.
    pub message: Message,
}

impl Stream {
    /// The side's first sequence number is known: of its SYN.
    pub fn open(&mut self, sequence: u32) {
        *self = Stream { next_sequence: Some(sequence.wrapping_add(1)), ..Stream::default() };
    }

    /// The other side spoke: what comes next is a new message, unless a line is only half typed.
    pub fn end_message(&mut self) {
        if !self.message.is_open_line() {
            self.message.clear();
        }
    }

    /// Bytes held for this direction.
    pub fn held_len(&self) -> usize {
        self.message.bytes.capacity() + self.held_bytes
    }

    /// Takes a segment. Gives the index in the message's bytes from which on they are new, if any are.
    pub fn push(&mut self, sequence: u32, data: &[u8]) -> Option<usize> {
        let next = *self.next_sequence.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(next);
        if ahead == 0 || ahead > u32::MAX / 2 {
            let seen = usize::try_from(next.wrapping_sub(sequence)).ok()?;
            let fresh = data.get(seen..).filter(|fresh| !fresh.is_empty())?;
            let start = self.message.append(fresh) + self.message.base;
            self.next_sequence = Some(next.wrapping_add(u32::try_from(fresh.len()).ok()?));
            self.take_held();
            return Some(start.saturating_sub(self.message.base));
        }
        if ahead <= AHEAD_MAX {
            self.hold(sequence, data);
        }
        if self.held_bytes > HELD_BYTES_MAX || self.held.len() > HELD_SEGMENTS_MAX {
            return self.skip_gap();
        }
        None
    }

    /// Holds a segment back until what is before it has come. The first copy of a segment with this number stays.
    fn hold(&mut self, sequence: u32, data: &[u8]) {
        if !self.held.contains_key(&sequence) {
            self.held_bytes += data.len();
            self.held.insert(sequence, data.to_vec());
        }
    }

    /// Key of the held segment that comes first, seen from `next` (sequence numbers wrap).
    fn first_held(&self, next: u32) -> Option<u32> {
        let behind = |key: &u32| key.wrapping_sub(next) <= u32::MAX / 2;
        let before_wrap = self.held.range(next..).next().map(|(key, _)| *key).filter(behind);
        before_wrap.or_else(|| self.held.keys().next().copied())
    }

    fn take_held(&mut self) {
        // Each turn removes one segment.
        while let Some(next) = self.next_sequence
            && let Some(key) = self.oldest_held(next)
        {
            let data = self.held.remove(&key).unwrap_or_default();
            self.held_bytes -= data.len();
            let seen = usize::try_from(next.wrapping_sub(key)).unwrap_or(usize::MAX);
            if let Some(fresh) = data.get(seen..) {
                self.message.append(fresh);
                self.next_sequence = Some(next.wrapping_add(u32::try_from(fresh.len()).unwrap_or(0)));
            }
        }
    }

    /// Key of a held segment that begins at or before `next`.
    fn oldest_held(&self, next: u32) -> Option<u32> {
        self.held.keys().copied().find(|key| next.wrapping_sub(*key) <= AHEAD_MAX)
    }

    /// Too much is held for a segment that never came: go on behind the gap, with a new message.
    fn skip_gap(&mut self) -> Option<usize> {
        let next = self.next_sequence?;
        self.next_sequence = self.first_held(next);
        self.message.clear();
        self.take_held();
        (!self.message.bytes.is_empty()).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(segments: &[(u32, &[u8])]) -> (Stream, Vec<Option<usize>>) {
        let mut stream = Stream::default();
        stream.open(99);
        let pushed = segments.iter().map(|(sequence, data)| stream.push(*sequence, data)).collect();
        (stream, pushed)
    }

    #[test]
    fn segments_out_of_order_are_put_in_order() {
        let (stream, pushed) = stream(&[(103, b"d"), (101, b"bc"), (100, b"a"), (104, b"e")]);
        assert_eq!(stream.message.bytes, b"abcde");
        assert_eq!(pushed, [None, None, Some(0), Some(4)]);
    }

    #[test]
    fn what_was_seen_is_not_new_again() {
        let (stream, pushed) = stream(&[(100, b"abc"), (100, b"abc"), (101, b"XXd")]);
        assert_eq!(stream.message.bytes, b"abcd");
        assert_eq!(pushed, [Some(0), None, Some(3)]);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut stream = Stream::default();
        stream.open(u32::MAX - 1);
        assert_eq!(stream.push(1, b"c"), None);
        assert_eq!(stream.push(u32::MAX, b"ab"), Some(0));
        assert_eq!(stream.message.bytes, b"abc");
    }

    #[test]
    fn a_gap_that_is_never_filled_is_skipped() {
        let mut stream = Stream::default();
        stream.open(0);
        let block = [b'x'; 1024];
        let pushed = (0..200_u32).filter_map(|index| stream.push(5000 + index * 1024, &block)).count();
        assert!(pushed > 0);
        assert!(stream.held_len() < 4 * HELD_BYTES_MAX);
    }

    #[test]
    fn a_long_message_loses_its_oldest_bytes_only() {
        let mut stream = Stream::default();
        stream.open(0);
        for index in 0..100 {
            stream.push(1 + index * 1024, &[index as u8; 1024]);
        }
        assert!(stream.message.bytes.len() <= MESSAGE_LEN_MAX);
        assert_eq!(stream.message.base + stream.message.bytes.len(), 100 * 1024);
        assert_eq!(stream.message.bytes.last(), Some(&99));
    }

    #[test]
    fn a_line_that_is_echoed_byte_by_byte_is_one_message() {
        let mut stream = Stream::default();
        stream.open(0);
        for (index, byte) in b"id\r".iter().enumerate() {
            stream.push(1 + index as u32, &[*byte]);
            stream.end_message();
        }
        assert_eq!(stream.message.bytes, b"");
        stream.push(4, b"w");
        stream.end_message();
        stream.push(5, b"ho");
        assert_eq!(stream.message.bytes, b"who");
    }
}
