//! One syslog message, RFC 5424 or RFC 3164, as far as its sender kept to either. Pure: the caller names the year.
//!
//! The grammar is `syslog_loose`'s. Nothing is refused: what cannot be read as a header stays in `msg`. It does not split a byte
//! stream into messages: that is `framing`.

use jiff::Timestamp;
use syslog_loose::{Message, ProcId, Protocol, Variant};

/// Longest header field that is kept, in bytes (RFC 5424 allows a host name 255, the others less).
pub const FIELD_BYTES_MAX: usize = 255;
/// Most parameters of structured data that are kept of one message.
pub const PARAMS_MAX: usize = 64;

/// Which of the two standards a message was read by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 5424.
    Rfc5424,
    /// RFC 3164 (BSD), or nothing that we know: then only `msg` is set.
    Rfc3164,
}

impl Format {
    /// `rfc5424` or `rfc3164`.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Rfc5424 => "rfc5424",
            Format::Rfc3164 => "rfc3164",
        }
    }
}

/// One parameter of structured data: `[element name="value"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// SD-ID of its element.
    pub element: String,
    /// PARAM-NAME.
    pub name: String,
    /// PARAM-VALUE, escapes removed.
    pub value: String,
}

/// A message, header and body. A field that is missing or `-` is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyslogMessage {
    /// The standard that it was read by.
    pub format: Format,
    /// Facility's keyword (`auth`, `local0`).
    pub facility: Option<&'static str>,
    /// Severity's keyword (`err`, `info`).
    pub severity: Option<&'static str>,
    /// The sender's own time; RFC 3164 names no zone, so UTC is assumed.
    pub timestamp: Option<Timestamp>,
    /// HOSTNAME.
    pub hostname: Option<String>,
    /// APP-NAME, or RFC 3164's TAG without the process number.
    pub app_name: Option<String>,
    /// PROCID.
    pub procid: Option<String>,
    /// MSGID (RFC 5424 only).
    pub msgid: Option<String>,
    /// Structured data (RFC 5424 only).
    pub params: Vec<Param>,
    /// MSG.
    pub msg: String,
}

impl SyslogMessage {
    /// The value of a parameter of structured data.
    pub fn param(&self, element: &str, name: &str) -> Option<&str> {
        self.params.iter().find(|p| p.element == element && p.name == name).map(|p| p.value.as_str())
    }
}

/// Reads one message. `year` is assumed where RFC 3164's time has none. Bytes that are not UTF-8 become U+FFFD.
pub fn parse(bytes: &[u8], year: i32) -> SyslogMessage {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_matches(['\0', '\r', '\n', ' ', '\t']);
    let parsed = syslog_loose::parse_message_with_year_tz(text, |_| year, Some(chrono::Utc), Variant::Either);
    let format = match parsed.protocol {
        Protocol::RFC5424(_) => Format::Rfc5424,
        Protocol::RFC3164 => Format::Rfc3164,
    };
    SyslogMessage {
        format,
        facility: parsed.facility.map(|f| f.as_str()),
        severity: parsed.severity.map(|s| s.as_str()),
        timestamp: parsed.timestamp.and_then(|t| Timestamp::from_microsecond(t.timestamp_micros()).ok()),
        hostname: field(parsed.hostname),
        app_name: field(parsed.appname),
        procid: parsed.procid.as_ref().and_then(procid),
        msgid: field(parsed.msgid),
        params: if format == Format::Rfc5424 { params(&parsed) } else { Vec::new() },
        msg: body(text, &parsed, format),
    }
}

/// RFC 3164 has no structured data, but the grammar takes a leading `[x y="z"]` of the text for it. An intruder must not be able to
/// hide text that way, so it goes back to the message.
fn body(text: &str, parsed: &Message<&str>, format: Format) -> String {
    let msg = match parsed.structured_data.first() {
        Some(element) if format == Format::Rfc3164 => {
            let offset = (element.id.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize).wrapping_sub(1);
            text.get(offset..).unwrap_or(parsed.msg)
        }
        _ => parsed.msg,
    };
    // RFC 5424 section 6.4: UTF-8 text may begin with a byte order mark.
    msg.strip_prefix('\u{feff}').unwrap_or(msg).to_owned()
}

fn field(value: Option<&str>) -> Option<String> {
    value.map(|v| v.chars().take(FIELD_BYTES_MAX).collect())
}

fn procid(value: &ProcId<&str>) -> Option<String> {
    match value {
        ProcId::PID(pid) => Some(pid.to_string()),
        ProcId::Name(name) => field(Some(name)),
    }
}

fn params(parsed: &Message<&str>) -> Vec<Param> {
    let elements = parsed.structured_data.iter();
    let all = elements.flat_map(|e| e.params().map(|(name, value)| (e.id, *name, value)));
    all.take(PARAMS_MAX)
        .map(|(element, name, value)| Param { element: element.to_owned(), name: name.to_owned(), value })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc5424_message_is_read_whole() {
        let text = br#"<34>1 2003-10-11T22:14:15.003Z web su 77 ID47 [a@1 k="v\"w"] 'su root' failed"#;
        let m = parse(text, 2026);
        assert_eq!((m.format, m.facility, m.severity), (Format::Rfc5424, Some("auth"), Some("crit")));
        assert_eq!(m.timestamp.unwrap().to_string(), "2003-10-11T22:14:15.003Z");
        assert_eq!(m.hostname.as_deref(), Some("web"));
        assert_eq!(
            (m.app_name.as_deref(), m.procid.as_deref(), m.msgid.as_deref()),
            (Some("su"), Some("77"), Some("ID47"))
        );
        assert_eq!(m.param("a@1", "k"), Some("v\"w"));
        assert_eq!(m.msg, "'su root' failed");
    }

    #[test]
    fn rfc3164_message_takes_the_given_year() {
        let m = parse(b"<38>Oct  1 22:14:15 web sshd[4242]: Accepted password for root\n", 2026);
        assert_eq!((m.format, m.facility, m.severity), (Format::Rfc3164, Some("auth"), Some("info")));
        assert_eq!(m.timestamp.unwrap().to_string(), "2026-10-01T22:14:15Z");
        assert_eq!(
            (m.hostname.as_deref(), m.app_name.as_deref(), m.procid.as_deref()),
            (Some("web"), Some("sshd"), Some("4242"))
        );
        assert_eq!(m.msg, "Accepted password for root");
    }

    #[test]
    fn text_in_brackets_is_not_hidden_from_an_rfc3164_message() {
        let m = parse(b"<38>Oct  1 22:14:15 web sudo[1]: [x y=\"rm -rf\"] done", 2026);
        assert_eq!(m.msg, "[x y=\"rm -rf\"] done");
    }

    #[test]
    fn malformed_input_stays_in_the_message() {
        let cases: [&[u8]; 8] = [
            b"",
            b"hello",
            b"<999>1 x",
            b"<34>",
            b"<34>1 - - - - - [",
            b"\xff\xfe<34>1",
            b"<34>1 9999999-13-99T99:99:99Z a b c d - m",
            b"<38>Feb 31 99:99:99 a b: c",
        ];
        for case in cases {
            let text = String::from_utf8_lossy(case).into_owned();
            let m = parse(case, 2026);
            assert!(text.ends_with(&m.msg), "{text:?} became {m:?}");
        }
    }
}
