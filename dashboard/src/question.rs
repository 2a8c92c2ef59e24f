//! A question about events as it stands in a query string. Pure: text in, a checked question out; also asked of single events, live.

use std::net::IpAddr;

use events::Severity;
use jiff::Timestamp;
use logsink::{Filter, Row};

/// Longest query string, in bytes.
pub const QUERY_BYTES_MAX: usize = 4096;
/// Longest text that is searched for, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// Longest name (domain, type, id), in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Ids of one question; each is asked for by itself.
const IDS_MAX: usize = 8;
/// Events of one answer, and of one whose asker named no number.
pub const LIMIT_MAX: u32 = 500;
const LIMIT_DEFAULT: u32 = 100;

/// What is wrong with a query string.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Too long.
    #[error("the query has {bytes} bytes, more than {QUERY_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A name that is not known.
    #[error("the query has a parameter that is not known")]
    Unknown,
    /// A name that stands twice.
    #[error("{key} stands twice in the query")]
    Twice {
        /// Which.
        key: &'static str,
    },
    /// A value that cannot be.
    #[error("{key} is not {wanted}")]
    Value {
        /// Which.
        key: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
}

/// A checked question. What is `None` or empty does not restrict.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Question {
    /// Ids of EVENTS.md; any of them.
    pub ids: Vec<String>,
    /// `alert`, `guest`, ...
    pub event_type: Option<String>,
    /// Name of the domain.
    pub domain: Option<String>,
    /// This severity or worse.
    pub severity: Option<Severity>,
    /// Anywhere in the JSON, ASCII letters in either case.
    pub text: Option<String>,
    /// Source address.
    pub src_ip: Option<IpAddr>,
    /// At or after.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// Older than this row.
    pub before_id: Option<i64>,
    /// Newer than this row.
    pub after_id: Option<i64>,
    /// Rows.
    pub limit: Option<u32>,
}

impl Question {
    /// Reads a query string (`application/x-www-form-urlencoded`). A parameter without a value is as if it were not there.
    pub fn parse(query: &str) -> Result<Question, QuestionError> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(QuestionError::TooLong { bytes: query.len() });
        }
        let mut question = Question::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            if !value.is_empty() {
                question.take(&key, &value)?;
            }
        }
        Ok(question)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<(), QuestionError> {
        match key {
            "id" if self.ids.is_empty() => {
                self.ids = ids(value)?;
                Ok(())
            }
            "id" => Err(QuestionError::Twice { key: "id" }),
            "type" => once(&mut self.event_type, "type", plain(value), "the name of an event type"),
            "domain" => once(&mut self.domain, "domain", name(value), "the name of a domain"),
            "severity" => {
                once(&mut self.severity, "severity", severity(value), "error, warning, notice or info")
            }
            "text" => once(&mut self.text, "text", text(value), "a text of at most 256 bytes"),
            "src_ip" => once(&mut self.src_ip, "src_ip", value.parse().ok(), "an IP address"),
            "since" => once(&mut self.since, "since", value.parse().ok(), "a time in RFC 3339 with its zone"),
            "until" => once(&mut self.until, "until", value.parse().ok(), "a time in RFC 3339 with its zone"),
            "before_id" => once(&mut self.before_id, "before_id", row(value), "the number of an event"),
            "after_id" => once(&mut self.after_id, "after_id", row(value), "the number of an event"),
            "limit" => once(&mut self.limit, "limit", limit(value), "a number from 1 to 500"),
            _ => Err(QuestionError::Unknown),
        }
    }

    /// The store's filters, one for each id, and how many rows are wanted.
    pub fn filters(&self) -> (Vec<Filter>, usize) {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        let filter = Filter {
            since: self.since,
            until: self.until,
            event_type: self.event_type.clone(),
            event_id: None,
            domain: self.domain.clone(),
            src_ip: self.src_ip.map(|ip| ip.to_string()),
            severity: self.severity,
            text: self.text.clone(),
            before_id: self.before_id,
            after_id: self.after_id,
            limit: Some(limit),
        };
        let of_id = |id: &String| Filter { event_id: Some(id.clone()), ..filter.clone() };
        let filters = if self.ids.is_empty() { vec![filter] } else { self.ids.iter().map(of_id).collect() };
        (filters, limit as usize)
    }

    /// Whether an event that just came is meant: what the store's filter says, without times and row numbers.
    pub fn means(&self, row: &Row) -> bool {
        let event = &row.event;
        let same = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| is == Some(wanted.as_str()))
        };
        let address = || event.src_ip.or_else(|| event.text("src_ip")?.parse().ok());
        let contains =
            |text: &String| row.json.to_ascii_lowercase().contains(text.to_ascii_lowercase().as_str());
        (self.ids.is_empty() || self.ids.contains(&event.event_id))
            && same(&self.event_type, Some(&event.event_type))
            && same(&self.domain, event.domain.as_deref())
            && self.severity.is_none_or(|severity| event.severity <= severity)
            && self.src_ip.is_none_or(|ip| address() == Some(ip))
            && self.text.as_ref().is_none_or(contains)
    }
}

/// Takes a value that may stand once in a query.
pub fn once<T>(
    slot: &mut Option<T>,
    key: &'static str,
    value: Option<T>,
    wanted: &'static str,
) -> Result<(), QuestionError> {
    let value = value.ok_or(QuestionError::Value { key, wanted })?;
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(QuestionError::Twice { key }),
    }
}

fn ids(value: &str) -> Result<Vec<String>, QuestionError> {
    let wrong =
        QuestionError::Value { key: "id", wanted: "a list of at most 8 event ids with commas between" };
    let mut ids: Vec<String> = Vec::new();
    for id in value.split(',') {
        match plain(id) {
            Some(id) if ids.len() < IDS_MAX && !ids.contains(&id) => ids.push(id),
            _ => return Err(wrong),
        }
    }
    Ok(ids)
}

/// A word as event types and ids are.
fn plain(value: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_');
    ((1..=NAME_BYTES_MAX).contains(&value.len()) && value.bytes().all(fits)).then(|| value.to_owned())
}

/// Any name: the store binds it, it is no SQL.
pub fn name(value: &str) -> Option<String> {
    (value.len() <= NAME_BYTES_MAX).then(|| value.to_owned())
}

fn text(value: &str) -> Option<String> {
    (value.len() <= TEXT_BYTES_MAX).then(|| value.to_owned())
}

fn severity(value: &str) -> Option<Severity> {
    match value {
        "error" => Some(Severity::Error),
        "warning" => Some(Severity::Warning),
        "notice" => Some(Severity::Notice),
        "info" => Some(Severity::Info),
        _ => None,
    }
}

/// Row numbers are a journal's indices: not negative.
fn row(value: &str) -> Option<i64> {
    value.parse().ok().filter(|id: &i64| *id >= 0)
}

fn limit(value: &str) -> Option<u32> {
    value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::{Event, EventId, StoredEvent};

    #[test]
    fn every_parameter_is_read() {
        let question = Question::parse(
            "id=guest.login,guest.login_failed&type=guest&domain=web%201&severity=notice&text=%25a+b&\
             src_ip=2001:db8::1&since=2026-01-02T03:04:05Z&until=2026-01-02T03:04:05%2B01:00&before_id=9&\
             after_id=0&limit=500",
        )
        .unwrap();
        assert_eq!(question.ids, ["guest.login", "guest.login_failed"]);
        assert_eq!((question.domain.as_deref(), question.text.as_deref()), (Some("web 1"), Some("%a b")));
        assert_eq!((question.severity, question.limit), (Some(Severity::Notice), Some(500)));
        assert_eq!((question.before_id, question.after_id), (Some(9), Some(0)));
        assert!(question.since > question.until);
        let (filters, limit) = question.filters();
        assert_eq!((filters.len(), limit), (2, 500));
        assert_eq!(filters[1].event_id.as_deref(), Some("guest.login_failed"));
    }

    #[test]
    fn parameters_without_a_value_do_not_restrict() {
        for query in ["", "&&", "text=&domain=&id=", "text", "="] {
            assert_eq!(Question::parse(query), Ok(Question::default()), "{query}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let bad = [
            "colour=red",
            "limit=0",
            "limit=501",
            "limit=-1",
            "limit=1e3",
            "before_id=-1",
            "before_id=9223372036854775808",
            "after_id=x",
            "severity=debug",
            "severity=%00",
            "src_ip=10.0.0.0/8",
            "since=yesterday",
            "type=Alert",
            "type=%3Cscript%3E",
            "id=a,,b",
            "id=a,a",
            "id=a,b,c,d,e,f,g,h,i",
            "limit=1&limit=2",
            "%ff=%fe",
        ];
        for query in bad {
            assert!(Question::parse(query).is_err(), "{query}");
        }
        let long =
            [format!("text={}", "x".repeat(257)), format!("domain={}", "x".repeat(65)), "&".repeat(4097)];
        for query in &long {
            assert!(Question::parse(query).is_err());
        }
        assert_eq!(Question::parse("text=%ff%fe").unwrap().text.as_deref(), Some("\u{fffd}\u{fffd}"));
    }

    fn row(event: Event) -> Row {
        let json = event.to_json("test", 1).to_string();
        let event = StoredEvent::from_json(&json).unwrap();
        Row { id: 1, hash: String::new(), received: event.timestamp, event, json }
    }

    #[test]
    fn a_live_event_is_judged_as_the_store_would() {
        let alert = Event::new(EventId::Alert, Timestamp::UNIX_EPOCH).domain("web", None);
        let row = row(alert.with("signature", "Evil %_ one").with("src_ip", "10.0.0.9"));
        let yes = ["", "type=alert", "id=alert.rule,x.y", "domain=web", "severity=warning", "severity=info"];
        for query in yes.into_iter().chain(["text=eVIL+%25_", "src_ip=10.0.0.9", "type=alert&domain=web"]) {
            assert!(Question::parse(query).unwrap().means(&row), "{query}");
        }
        let no = ["type=guest", "id=x.y", "domain=ssh", "severity=error", "text=evil__", "src_ip=10.0.0.8"];
        for query in no.into_iter().chain(["type=alert&domain=ssh"]) {
            assert!(!Question::parse(query).unwrap().means(&row), "{query}");
        }
    }
}
