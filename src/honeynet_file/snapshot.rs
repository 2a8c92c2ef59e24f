//! `[[snapshot]]`: when snapshots are taken by themselves.

use std::time::Duration;

use serde::Deserialize;

use super::HoneynetFileError;

/// Rules of one box.
pub const RULES_MAX: usize = 64;
/// Oftener than this, a domain would be copied all the time.
const PERIOD_MIN: Duration = Duration::from_secs(10);
const PERIOD_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A rule: on which alerts a snapshot of their domain is taken. What is not given fits every one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRule {
    /// What sets it off.
    pub on: Cause,
    /// The rule that matched.
    pub sid: Option<u64>,
    /// Its classtype.
    pub classtype: Option<String>,
    /// Its priority, or a more urgent one: 1 is the most.
    pub priority: Option<u64>,
    /// Only of this domain.
    pub domain: Option<String>,
    /// Of one domain, at most one in this time.
    #[serde(default)]
    pub every: Period,
}

/// What sets a snapshot off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// An alert of the inspector.
    Alert,
}

/// A time: `30s`, `10m`, `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(pub Duration);

impl Default for Period {
    fn default() -> Period {
        Period(Duration::from_secs(600))
    }
}

impl TryFrom<String> for Period {
    type Error = HoneynetFileError;

    fn try_from(text: String) -> Result<Period, HoneynetFileError> {
        let read = |seconds: u64, number: &str| number.parse::<u64>().ok()?.checked_mul(seconds);
        let seconds = match text.split_at_checked(text.len().saturating_sub(1)) {
            Some((number, "s")) => read(1, number),
            Some((number, "m")) => read(60, number),
            Some((number, "h")) => read(3600, number),
            _ => None,
        };
        let period =
            seconds.map(Duration::from_secs).filter(|period| (PERIOD_MIN..=PERIOD_MAX).contains(period));
        period.map(Period).ok_or(HoneynetFileError::Period { period: text })
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn a_rule_is_read_or_refused() {
        let text = "[[snapshot]]\non = \"alert\"\nclasstype = \"malware-traffic\"\npriority = 1\nevery = \"2h\"\n[[snapshot]]\non = \"alert\"\nsid = 9000013";
        let rules = parse(text).unwrap().snapshots;
        assert_eq!(rules[0].classtype.as_deref(), Some("malware-traffic"));
        assert_eq!((rules[0].priority, rules[0].every.0), (Some(1), Duration::from_secs(7200)));
        assert_eq!((rules[1].sid, rules[1].every.0), (Some(9_000_013), Duration::from_secs(600)));
        for (line, wrong) in [
            ("every = \"10\"", "\"10\" is not a time from 10s to 168h"),
            ("every = \"9s\"", "\"9s\" is not a time from 10s to 168h"),
            ("every = \"99999999999999999999h\"", "is not a time from 10s to 168h"),
            ("every = \"é\"", "is not a time from 10s to 168h"),
            ("sid = \"x\"", "invalid type"),
            ("colour = 1", "unknown field `colour`"),
        ] {
            let error = parse(&format!("[[snapshot]]\non = \"alert\"\n{line}")).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
        let error = parse("[[snapshot]]\non = \"rain\"").unwrap_err().to_string();
        assert!(error.contains("unknown variant `rain`"), "{error}");
        let many = "[[snapshot]]\non = \"alert\"\n".repeat(RULES_MAX + 1);
        assert_eq!(parse(&many).unwrap_err().to_string(), "more than 64 snapshot rules");
    }
}
