//! How much one source may log: a token bucket each. Pure: the caller passes the time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Sources that are told apart; further ones are refused until one of these has been quiet for long enough.
const SOURCES_MAX: usize = 4096;
/// Time between two reports about one source.
const REPORT: Duration = Duration::from_secs(10);
/// A source that was quiet for so long is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// The limits, and what each source used of them.
#[derive(Debug)]
pub struct Flood {
    lines_per_second: f64,
    lines_burst: f64,
    sources: HashMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    lines: f64,
    at: Instant,
    dropped: u64,
    reported: Instant,
}

impl Flood {
    /// Every source may send `lines_burst` at once and `lines_per_second` for long.
    pub fn new(lines_per_second: u32, lines_burst: u32) -> Flood {
        let (lines_per_second, lines_burst) = (f64::from(lines_per_second), f64::from(lines_burst));
        Flood { lines_per_second, lines_burst, sources: HashMap::new() }
    }

    /// True when the line may pass; otherwise it is counted.
    pub fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            return false;
        }
        let new = Bucket { lines: self.lines_burst, at: now, dropped: 0, reported: now };
        let bucket = self.sources.entry(source).or_insert(new);
        let elapsed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.lines = (bucket.lines + elapsed * self.lines_per_second).min(self.lines_burst);
        bucket.at = now;
        if bucket.lines < 1.0 {
            bucket.dropped += 1;
            return false;
        }
        bucket.lines -= 1.0;
        true
    }

    /// Sources that lost lines since they were last reported, and how many. Call it now and then: it forgets the quiet ones too.
    pub fn reports(&mut self, now: Instant) -> Vec<(IpAddr, u64)> {
        let mut due = Vec::new();
        for (source, bucket) in &mut self.sources {
            if bucket.dropped > 0 && now.saturating_duration_since(bucket.reported) >= REPORT {
                due.push((*source, std::mem::take(&mut bucket.dropped)));
                bucket.reported = now;
            }
        }
        self.sources.retain(|_, b| b.dropped > 0 || now.saturating_duration_since(b.at) < FORGET);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_over_its_rate_is_cut_counted_and_recovers_alone() {
        let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let start = Instant::now();
        let mut flood = Flood::new(10, 5);
        let passed = (0..100).filter(|_| flood.admit(a, start)).count();
        assert_eq!(passed, 5);
        assert!(flood.admit(b, start), "another source is not touched");
        assert!(flood.admit(a, start + Duration::from_millis(150)));
        assert!(!flood.admit(a, start + Duration::from_millis(150)));
        assert!(flood.reports(start).is_empty(), "not yet");
        assert_eq!(flood.reports(start + REPORT), [(a, 96)]);
        assert!(flood.reports(start + REPORT * 2).is_empty(), "told once");
    }
}
