//! Guests' own syslog: from a line to events. What a guest says is data; where it came from and when is our own knowledge.

pub mod domains;
pub mod flood;
pub mod listen;
pub mod logins;

use std::net::SocketAddr;

use events::syslog::{self, SyslogMessage};
use events::{Event, EventId};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use domains::DomainRef;
use logins::{Login, Outcome};

/// Longest message of a guest, in bytes; what is over is cut. RFC 5425 asks receivers for 8192.
pub const GUEST_MESSAGE_BYTES_MAX: usize = 8192;

/// How a line came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Port 601.
    Tcp,
    /// Port 514.
    Udp,
}

/// One message of a guest.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Its bytes, unframed.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub source: SocketAddr,
    /// How.
    pub transport: Transport,
    /// The domain that has this address.
    pub domain: Option<&'a DomainRef>,
}

/// The events of one message: `guest.log`, and what it says of a login. Their time is ours: a guest must not place an event elsewhere.
pub fn events_of(line: &Line<'_>, now: Timestamp) -> Vec<Event> {
    let message = syslog::parse(line.bytes, i32::from(now.to_zoned(TimeZone::UTC).year()));
    let login = message.app_name.as_deref().and_then(|app_name| logins::parse(app_name, &message.msg));
    let mut events = vec![log_event(line, message, now)];
    events.extend(login.map(|login| login_event(line, login, now)));
    events
}

fn about(line: &Line<'_>, event: Event) -> Event {
    let event = event.with("source", line.source.ip().to_canonical().to_string());
    match line.domain {
        Some(domain) => event.domain(domain.name.clone(), Some(domain.domid)),
        None => event,
    }
}

fn log_event(line: &Line<'_>, message: SyslogMessage, now: Timestamp) -> Event {
    let transport = match line.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let mut event = about(line, Event::new(EventId::GuestLog, now))
        .with("transport", transport)
        .with("format", message.format.as_str())
        .with("msg", message.msg);
    let fields = [
        ("facility", message.facility.map(str::to_owned)),
        ("severity", message.severity.map(str::to_owned)),
        ("hostname", message.hostname),
        ("app_name", message.app_name),
        ("procid", message.procid),
        ("msgid", message.msgid),
        ("time", message.timestamp.map(|t| format!("{t:.6}"))),
    ];
    for (key, value) in fields {
        if let Some(value) = value {
            event = event.with(key, value);
        }
    }
    event
}

fn login_event(line: &Line<'_>, login: Login, now: Timestamp) -> Event {
    let id = match login.outcome {
        Outcome::Accepted => EventId::GuestLogin,
        Outcome::Failed => EventId::GuestLoginFailed,
    };
    let mut event = about(line, Event::new(id, now))
        .with("user", login.user)
        .with("service", login.service)
        .with("method", login.method)
        .with("count", login.count);
    if let Some(ip) = login.src_ip {
        event = event.with("src_ip", ip.to_string());
    }
    if let Some(port) = login.src_port {
        event = event.with("src_port", port);
    }
    if login.invalid_user {
        event = event.with("invalid_user", true);
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(bytes: &[u8]) -> Vec<Event> {
        let domain = DomainRef { name: "ssh".into(), domid: 2 };
        let source = "10.66.0.2:5140".parse().unwrap();
        let line = Line { bytes, source, transport: Transport::Udp, domain: Some(&domain) };
        events_of(&line, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn an_accepted_password_is_a_log_line_and_a_login() {
        let events =
            events(b"<38>Oct  1 22:14:15 h sshd[7]: Accepted password for root from 10.0.0.9 port 42 ssh2");
        assert_eq!(events.iter().map(|e| e.id).collect::<Vec<_>>(), [EventId::GuestLog, EventId::GuestLogin]);
        assert_eq!(events[1].body["src_ip"], "10.0.0.9");
        assert_eq!((events[1].domain.as_deref(), events[1].domid), (Some("ssh"), Some(2)));
        assert_eq!((&events[0].body["facility"], &events[0].body["procid"]), (&"auth".into(), &"7".into()));
        assert_eq!(events[0].timestamp, Timestamp::UNIX_EPOCH, "the guest's clock does not count");
    }

    #[test]
    fn hostile_bytes_are_a_log_line_like_any() {
        let all = events(b"\x00<script>\xff\x1b[2J\n");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].body["msg"], "<script>\u{fffd}\u{1b}[2J");
        assert_eq!(events(b"").len(), 1);
    }
}
