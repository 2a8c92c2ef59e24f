//! An event on the wire: one RFC 5424 message with octet counting (RFC 6587) over a stream socket, and the sink's acknowledgement.
//!
//! `LEN SP <PRI>1 TIMESTAMP HOSTNAME sensor PID event_id [run@32473 id="RUN" seq="SEQ"] JSON`. RUN is drawn when an emitter starts,
//! SEQ counts its events from 1 without a hole, so (sensor, RUN, SEQ) names an event for ever and the sink can drop what it has.
//!
//! The sink answers with lines `RUN SEQ LF`: that event, and everything that came before it on this connection, is on disk.

use crate::{Event, syslog};

/// Longest message, header included, in bytes. A larger body is replaced by a note of its size.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Longest acknowledgement line, in bytes: 16 digits of RUN, a space, 20 digits of SEQ, a line feed.
pub const ACK_BYTES_MAX: usize = 38;
/// SD-ID of the element that names run and seq. 32473 is the number that RFC 5612 sets aside for documentation.
const RUN_ELEMENT: &str = "run@32473";
/// Facility `local0`.
const FACILITY: u8 = 16;
/// RFC 5424: APP-NAME is at most 48 bytes.
const SENSOR_BYTES_MAX: usize = 48;

/// One run of one sensor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// The sensor's name: printable ASCII, no space, at most 48 bytes.
    pub sensor: String,
    /// Drawn anew when the sensor starts: 16 hex digits.
    pub run: String,
}

/// Where an event stands in its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The run's id.
    pub run: String,
    /// The event's count in it, from 1.
    pub seq: u64,
}

/// A message that is not one of our sensors'.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// Not RFC 5424, or without APP-NAME.
    #[error("message is not RFC 5424 with an APP-NAME")]
    NotRfc5424,
    /// No usable `run` element.
    #[error("message has no [run@32473 id seq]")]
    NoPosition,
}

/// A message read from the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Who sent it.
    pub source: Source,
    /// Its count, from 1.
    pub seq: u64,
    /// The event's JSON, not yet looked at.
    pub json: String,
}

/// The sensor's name as it may stand in a header.
pub fn sensor_name(name: &str) -> String {
    let mut out: String = name.chars().filter(char::is_ascii_graphic).take(SENSOR_BYTES_MAX).collect();
    if out.is_empty() {
        out.push('-');
    }
    out
}

/// The RFC 5424 message of an event, without the length in front.
pub fn message(event: &Event, source: &Source, seq: u64, hostname: &str, pid: u32) -> String {
    let mut json = event.to_json(&source.sensor, seq).to_string();
    let room = MESSAGE_BYTES_MAX - 1024;
    if json.len() > room {
        let mut small = event.clone();
        small.body.clear();
        json = small.with("oversize_bytes", json.len()).to_json(&source.sensor, seq).to_string();
    }
    format!(
        "<{}>1 {:.6} {hostname} {} {pid} {} [{RUN_ELEMENT} id=\"{}\" seq=\"{seq}\"] {json}",
        FACILITY * 8 + event.severity as u8,
        event.timestamp,
        source.sensor,
        event.id.as_str(),
        source.run,
    )
}

/// Puts the length in front.
pub fn frame(message: &str) -> Vec<u8> {
    format!("{} {message}", message.len()).into_bytes()
}

/// Reads a message that `message` made. The JSON is handed back unread.
pub fn parse(bytes: &[u8]) -> Result<Received, WireError> {
    // Our own times carry their year.
    let message = syslog::parse(bytes, 1970);
    let sensor = match (message.format, &message.app_name) {
        (syslog::Format::Rfc5424, Some(name)) => sensor_name(name),
        _ => return Err(WireError::NotRfc5424),
    };
    let run = message.param(RUN_ELEMENT, "id").ok_or(WireError::NoPosition)?;
    let seq = message.param(RUN_ELEMENT, "seq").and_then(|s| s.parse().ok()).ok_or(WireError::NoPosition)?;
    if !is_run(run) || seq == 0 {
        return Err(WireError::NoPosition);
    }
    Ok(Received { source: Source { sensor, run: run.to_owned() }, seq, json: message.msg })
}

/// The line that acknowledges an event and all before it on the same connection.
pub fn ack(position: &Position) -> String {
    format!("{} {}\n", position.run, position.seq)
}

/// Reads an acknowledgement line, without its line feed.
pub fn parse_ack(line: &[u8]) -> Option<Position> {
    let (run, seq) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let seq = seq.parse().ok()?;
    is_run(run).then(|| Position { run: run.to_owned(), seq })
}

fn is_run(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EventId;
    use jiff::Timestamp;

    fn source() -> Source {
        Source { sensor: "netwatch".into(), run: "00112233445566ff".into() }
    }

    #[test]
    fn a_message_is_read_back_as_it_was_made() {
        let hostile = "]\" [run@32473 seq=\"9\"]\n<13>\\ \u{feff}é";
        let event = Event::new(EventId::Alert, Timestamp::UNIX_EPOCH).with("signature", hostile);
        let text = message(&event, &source(), 7, "host", 1);
        assert!(
            text.starts_with("<132>1 1970-01-01T00:00:00.000000Z host netwatch 1 alert.rule [run@32473 ")
        );
        let read = parse(text.as_bytes()).unwrap();
        assert_eq!((read.source, read.seq), (source(), 7));
        assert_eq!(crate::StoredEvent::from_json(&read.json).unwrap().text("signature"), Some(hostile));
    }

    #[test]
    fn a_body_over_the_limit_is_replaced_by_its_size() {
        let event =
            Event::new(EventId::Alert, Timestamp::UNIX_EPOCH).with("x", "a".repeat(MESSAGE_BYTES_MAX));
        let text = message(&event, &source(), 7, "host", 1);
        assert!(text.len() < 1024);
        let read = crate::StoredEvent::from_json(&parse(text.as_bytes()).unwrap().json).unwrap();
        assert!(read.number("oversize_bytes").unwrap() > MESSAGE_BYTES_MAX as u64);
    }

    #[test]
    fn foreign_messages_are_refused() {
        let cases = [
            ("<13>Oct 11 22:14:15 a b: c", WireError::NotRfc5424),
            ("<13>1 - - - - - - x", WireError::NotRfc5424),
            ("<13>1 - - sshd - - - x", WireError::NoPosition),
            ("<13>1 - - sshd - - [run@32473 id=\"1\" seq=\"1\"] x", WireError::NoPosition),
            ("<13>1 - - sshd - - [run@32473 id=\"0011223344556677\" seq=\"0\"] x", WireError::NoPosition),
            ("<13>1 - - sshd - - [run@32473 id=\"0011223344556677\" seq=\"-1\"] x", WireError::NoPosition),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text.as_bytes()), Err(want), "{text}");
        }
    }

    #[test]
    fn an_acknowledgement_is_read_back_and_others_are_not() {
        let position = Position { run: source().run, seq: u64::MAX };
        let line = ack(&position);
        assert!(line.len() <= ACK_BYTES_MAX);
        assert_eq!(parse_ack(line.trim_end().as_bytes()), Some(position));
        for line in
            ["", "x 1", "0011223344556677", "0011223344556677 x", "0011223344556677 99999999999999999999"]
        {
            assert_eq!(parse_ack(line.as_bytes()), None, "{line}");
        }
    }
}
