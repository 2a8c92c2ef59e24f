//! What a guest's programs say to their syslog daemon, taken from their own calls: it does not matter who has killed the daemon or wiped the files.
//!
//! The local form of RFC 3164 that glibc's `syslog` sends: `<PRI>Mmm dd hh:mm:ss TAG[PID]: text`, and `<PRI>text` of /dev/kmsg.

use events::{Event, EventId};
use jiff::Timestamp;

use crate::trace::selection::FileKind;

/// RFC 5424, table 2.
const SEVERITIES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
/// RFC 5424, table 1.
#[rustfmt::skip]
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert", "clockd", "local0",
    "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
/// `Mmm dd hh:mm:ss `.
const TIME_BYTES: usize = 16;

/// The event of a line, if it is one.
pub fn event(kind: FileKind, bytes: &[u8], at: Timestamp) -> Option<Event> {
    let transport = match kind {
        FileKind::UnixDatagram => "devlog",
        FileKind::Kmsg => "kmsg",
        _ => return None,
    };
    let text = String::from_utf8_lossy(bytes);
    let (priority, rest) = text.strip_prefix('<')?.split_once('>')?;
    let priority: usize = priority.parse().ok()?;
    let (facility, severity) = (FACILITIES.get(priority / 8)?, SEVERITIES[priority % 8]);
    let rest = without_time(rest.trim_end_matches(['\n', '\0']));
    let (tag, message) = match rest.split_once(": ") {
        Some((tag, message)) if !tag.contains(' ') => (Some(tag), message),
        _ => (None, rest),
    };
    let mut event = Event::new(EventId::GuestLog, at)
        .with("source", "trace")
        .with("transport", transport)
        .with("format", "rfc3164")
        .with("facility", *facility)
        .with("severity", severity)
        .with("msg", message);
    if let Some(tag) = tag {
        let (name, procid) = tag.strip_suffix(']').and_then(|tag| tag.split_once('[')).unwrap_or((tag, ""));
        event = event.with("app_name", name);
        if !procid.is_empty() {
            event = event.with("procid", procid);
        }
    }
    Some(event)
}

fn without_time(text: &str) -> &str {
    let is_time = text
        .as_bytes()
        .get(..TIME_BYTES)
        .is_some_and(|time| time[3] == b' ' && time[9] == b':' && time[12] == b':');
    if is_time { text.get(TIME_BYTES..).unwrap_or(text) } else { text }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_of_both_devices_are_read() {
        let at = Timestamp::UNIX_EPOCH;
        let line = b"<86>Nov 24 20:57:39 sshd[219]: Accepted password for admin";
        let event = event(FileKind::UnixDatagram, line, at).unwrap();
        let body = |key: &str| event.body[key].clone();
        assert_eq!((body("facility"), body("severity")), (json!("authpriv"), json!("info")));
        assert_eq!(
            (body("app_name"), body("procid"), body("msg")),
            (json!("sshd"), json!("219"), json!("Accepted password for admin"))
        );
        let event = super::event(FileKind::Kmsg, b"<4>hello there: x\n", at).unwrap();
        assert_eq!(event.body["msg"], "hello there: x");
    }

    #[test]
    fn what_is_no_line_is_none() {
        for bytes in [&b"READY=1"[..], b"<", b"<x>y", b"<999>y", b"", b"<86"] {
            assert!(event(FileKind::UnixDatagram, bytes, Timestamp::UNIX_EPOCH).is_none());
        }
        assert!(event(FileKind::Tcp, b"<86>x", Timestamp::UNIX_EPOCH).is_none());
    }
}
