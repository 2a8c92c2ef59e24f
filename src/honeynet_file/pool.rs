//! `[decoy.pool]`: behind the decoy's address each source gets a clone of its own.

use netwatch::switch::Touch;
use serde::Deserialize;

use super::Period;

/// Clones of one pool.
const CLONES_MAX: usize = 512;
/// Those that stand ready: each takes about 25 MiB with its observer.
const PARKED_MAX: usize = 32;

/// How many clones there are, and how long.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Attackers that have one at the same time.
    pub clones: usize,
    /// Clones that stand ready for the next ones.
    pub parked: usize,
    /// Clones given away in a minute.
    pub per_minute: usize,
    /// A source that was silent for so long loses its clone.
    pub idle: Period,
    /// Which packet of a new source gets it one.
    pub touch: Touch,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool { clones: 64, parked: 4, per_minute: 60, idle: Period::default(), touch: Touch::Any }
    }
}

impl Pool {
    /// What is wrong with it: key, value, and what it must be.
    pub(super) fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let checks = [
            ("pool.clones", self.clones, 1..=CLONES_MAX, "a number from 1 to 512"),
            ("pool.parked", self.parked, 0..=PARKED_MAX, "a number from 0 to 32"),
            ("pool.per_minute", self.per_minute, 1..=usize::MAX, "a number from 1"),
        ];
        let wrong = checks.into_iter().find(|(_, value, range, _)| !range.contains(value));
        wrong.map(|(key, value, _, wanted)| (key, value.to_string(), wanted))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::parse;
    use super::*;

    #[test]
    fn a_pool_is_read_or_refused() {
        let decoy = "[[decoy]]\nname = \"a\"\nrecipe = \"r\"\naddress = \"10.77.0.5\"\n[decoy.pool]\n";
        let read = |lines: &str| parse(&format!("{decoy}{lines}"));
        let pool = |lines: &str| read(lines).unwrap().decoys[0].pool.clone().unwrap();
        assert_eq!(pool(""), Pool::default());
        let given = pool("clones = 300\nparked = 0\nper_minute = 5\nidle = \"2h\"\ntouch = \"syn\"");
        assert_eq!((given.clones, given.parked, given.per_minute, given.touch), (300, 0, 5, Touch::Syn));
        assert_eq!(given.idle.0, Duration::from_secs(7200));
        for (line, wrong) in [
            ("clones = 0", "decoy a: pool.clones = \"0\" is not a number from 1 to 512"),
            ("clones = 513", "decoy a: pool.clones = \"513\" is not a number from 1 to 512"),
            ("parked = 33", "decoy a: pool.parked = \"33\" is not a number from 0 to 32"),
            ("per_minute = 0", "decoy a: pool.per_minute = \"0\" is not a number from 1"),
            ("idle = \"1\"", "\"1\" is not a time from 10s to 168h"),
            ("touch = \"handshake\"", "unknown variant `handshake`"),
            ("colour = 1", "unknown field `colour`"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
