//! Which sessions are meant, as it stands in a query string. Pure.

use std::net::IpAddr;

use super::name::SessionId;
use crate::question::{self, QUERY_BYTES_MAX, QuestionError};

/// Sessions of one answer, and of one whose asker named no number.
const LIMIT_MAX: usize = 200;
const LIMIT_DEFAULT: usize = 50;

/// A checked question. What is `None` does not restrict.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Question {
    /// Name of the domain.
    pub domain: Option<String>,
    /// Source address.
    pub address: Option<IpAddr>,
    /// Older than this session.
    pub before: Option<SessionId>,
    limit: Option<usize>,
}

impl Question {
    /// Reads a query string. A parameter without a value is as if it were not there.
    pub fn parse(query: &str) -> Result<Question, QuestionError> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(QuestionError::TooLong { bytes: query.len() });
        }
        let mut wanted = Question::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()) {
            match &*key {
                "domain" => question::once(
                    &mut wanted.domain,
                    "domain",
                    question::name(&value),
                    "the name of a domain",
                )?,
                "address" => {
                    question::once(&mut wanted.address, "address", value.parse().ok(), "an IP address")?
                }
                "before" => {
                    question::once(&mut wanted.before, "before", SessionId::parse(&value), "a session's id")?
                }
                "limit" => {
                    question::once(&mut wanted.limit, "limit", limit(&value), "a number from 1 to 200")?
                }
                _ => return Err(QuestionError::Unknown),
            }
        }
        Ok(wanted)
    }

    /// Sessions of the answer.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT)
    }
}

/// The byte that a reader of a cast has read up to.
pub fn from(query: &str) -> Result<u64, QuestionError> {
    let mut from = None;
    for (key, value) in form_urlencoded::parse(query.as_bytes()).filter(|(_, value)| !value.is_empty()) {
        match &*key {
            "from" => question::once(&mut from, "from", value.parse().ok(), "a number of bytes")?,
            _ => return Err(QuestionError::Unknown),
        }
    }
    Ok(from.unwrap_or(0))
}

fn limit(value: &str) -> Option<usize> {
    value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_read() {
        let query = "domain=web%201&address=2001:db8::1&limit=200&before=65a1b2c300010001";
        let wanted = Question::parse(query).unwrap();
        assert_eq!((wanted.domain.as_deref(), wanted.limit()), (Some("web 1"), 200));
        assert!(wanted.address.is_some() && wanted.before.is_some());
        assert_eq!(Question::parse("domain=&address="), Ok(Question::default()));
        assert_eq!((from(""), from("from=7")), (Ok(0), Ok(7)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let long = format!("domain={}", "x".repeat(65));
        let bad = [
            "limit=0",
            "limit=201",
            "address=10.0.0.0/8",
            "before=x",
            "colour=red",
            "limit=1&limit=2",
            &long,
        ];
        for query in bad {
            assert!(Question::parse(query).is_err(), "{query}");
        }
        for query in ["from=-1", "from=x", "from=18446744073709551616", "x=1"] {
            assert!(from(query).is_err(), "{query}");
        }
    }
}
