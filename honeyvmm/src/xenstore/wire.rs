//! Messages of the xenstore protocol: `struct xsd_sockmsg` of Xen's `io/xs_wire.h`, four 32-bit words and at most 4096 bytes.
//!
//! Pure: bytes in, values out. What a request means is decided in `request.rs`.

/// Bytes of a message's header.
pub const HEADER_BYTES: usize = 16;
/// XENSTORE_PAYLOAD_MAX: a longer body breaks the protocol, and with it the connection.
pub const BODY_BYTES_MAX: usize = 4096;

/// What a message is about (`enum xsd_sockmsg_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the protocol's own names")]
pub enum Kind {
    Control,
    Directory,
    Read,
    GetPerms,
    Watch,
    Unwatch,
    TransactionStart,
    TransactionEnd,
    Introduce,
    Release,
    GetDomainPath,
    Write,
    Mkdir,
    Rm,
    SetPerms,
    WatchEvent,
    Error,
    IsDomainIntroduced,
    Resume,
    SetTarget,
    ResetWatches,
    DirectoryPart,
    /// A number that the protocol does not know.
    Unknown(u32),
}

/// The numbers, in the protocol's order; 20 was XS_RESTRICT and is gone.
const NUMBERED: [(u32, Kind); 22] = [
    (0, Kind::Control),
    (1, Kind::Directory),
    (2, Kind::Read),
    (3, Kind::GetPerms),
    (4, Kind::Watch),
    (5, Kind::Unwatch),
    (6, Kind::TransactionStart),
    (7, Kind::TransactionEnd),
    (8, Kind::Introduce),
    (9, Kind::Release),
    (10, Kind::GetDomainPath),
    (11, Kind::Write),
    (12, Kind::Mkdir),
    (13, Kind::Rm),
    (14, Kind::SetPerms),
    (15, Kind::WatchEvent),
    (16, Kind::Error),
    (17, Kind::IsDomainIntroduced),
    (18, Kind::Resume),
    (19, Kind::SetTarget),
    (21, Kind::ResetWatches),
    (22, Kind::DirectoryPart),
];

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is about.
    pub kind: Kind,
    /// The asker's number, echoed in the answer; 0 in watch events.
    pub request_id: u32,
    /// The transaction, 0 for none.
    pub transaction_id: u32,
    /// Mostly strings that end in a zero byte.
    pub body: Vec<u8>,
}

/// The body of a message is longer than the protocol allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("xenstore message has a body of {0} bytes, at most {BODY_BYTES_MAX} are allowed")]
pub struct BodyTooLong(pub u32);

impl Kind {
    fn from_number(number: u32) -> Self {
        NUMBERED.iter().find(|(known, _)| *known == number).map_or(Self::Unknown(number), |(_, kind)| *kind)
    }

    fn number(self) -> u32 {
        match self {
            Self::Unknown(number) => number,
            known => NUMBERED.iter().find(|(_, kind)| *kind == known).map_or(0xffff, |(number, _)| *number),
        }
    }
}

impl Message {
    /// The first message in `bytes` and how many bytes it takes; `None` while it is not there in full.
    ///
    /// # Errors
    /// [`BodyTooLong`], as soon as the header is there.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, BodyTooLong> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = word(12);
        if length as usize > BODY_BYTES_MAX {
            return Err(BodyTooLong(length));
        }
        let Some(body) = rest.get(..length as usize) else { return Ok(None) };
        let message = Self {
            kind: Kind::from_number(word(0)),
            request_id: word(4),
            transaction_id: word(8),
            body: body.to_vec(),
        };
        Ok(Some((message, HEADER_BYTES + body.len())))
    }

    /// The answer to this message. `body` is at most [`BODY_BYTES_MAX`] bytes.
    #[must_use]
    pub fn answer(&self, kind: Kind, body: Vec<u8>) -> Self {
        Self { kind, request_id: self.request_id, transaction_id: self.transaction_id, body }
    }

    /// The message that tells of a change.
    #[must_use]
    pub fn watch_event(path: &str, token: &[u8]) -> Self {
        let body = [path.as_bytes(), b"\0", token, b"\0"].concat();
        Self { kind: Kind::WatchEvent, request_id: 0, transaction_id: 0, body }
    }

    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.body.len());
        for word in [self.kind.number(), self.request_id, self.transaction_id, self.body.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&self.body);
        bytes
    }

    /// The zero-terminated strings of the body; `None` where the last one does not end.
    #[must_use]
    pub fn strings(&self) -> Option<Vec<&[u8]>> {
        let body = self.body.strip_suffix(&[0])?;
        Some(body.split(|&byte| byte == 0).collect())
    }

    /// The first zero-terminated string, and the raw bytes behind it.
    #[must_use]
    pub fn string_and_rest(&self) -> Option<(&[u8], &[u8])> {
        let end = self.body.iter().position(|&byte| byte == 0)?;
        Some((&self.body[..end], &self.body[end + 1..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: Kind, body: &[u8]) -> Message {
        Message { kind, request_id: 7, transaction_id: 9, body: body.to_vec() }
    }

    #[test]
    fn what_is_encoded_is_parsed_back_for_every_kind() {
        for number in 0..30 {
            let sent = message(Kind::from_number(number), b"a\0b");
            let bytes = sent.encode();
            assert_eq!(bytes[..4], number.to_le_bytes());
            assert_eq!(Message::parse(&bytes), Ok(Some((sent, bytes.len()))));
        }
    }

    #[test]
    fn a_message_in_pieces_is_waited_for_at_every_cut() {
        let bytes = message(Kind::Read, b"device\0").encode();
        for cut in 0..bytes.len() {
            assert_eq!(Message::parse(&bytes[..cut]), Ok(None), "{cut}");
        }
        let two = [bytes.clone(), bytes.clone()].concat();
        assert_eq!(Message::parse(&two).unwrap().unwrap().1, bytes.len());
    }

    #[test]
    fn a_body_that_is_too_long_is_refused_by_its_header() {
        for length in [4097u32, 0x1_0000, u32::MAX] {
            let mut bytes = message(Kind::Write, b"").encode();
            bytes[12..].copy_from_slice(&length.to_le_bytes());
            assert_eq!(Message::parse(&bytes), Err(BodyTooLong(length)));
        }
        let longest = message(Kind::Write, &[b'x'; BODY_BYTES_MAX]).encode();
        assert!(Message::parse(&longest).unwrap().is_some());
    }

    #[test]
    fn strings_have_to_end() {
        assert_eq!(message(Kind::Watch, b"path\0token\0").strings(), Some(vec![&b"path"[..], b"token"]));
        assert_eq!(message(Kind::Watch, b"path\0token").strings(), None);
        assert_eq!(message(Kind::Watch, b"").strings(), None);
        assert_eq!(message(Kind::Write, b"k\0\0v").string_and_rest(), Some((&b"k"[..], &b"\0v"[..])));
        assert_eq!(message(Kind::Write, b"k").string_and_rest(), None);
    }
}
