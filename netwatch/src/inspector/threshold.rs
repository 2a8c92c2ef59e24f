//! `threshold`, `event_filter`, `detection_filter` and `suppress`: which matches of a rule become alerts. Counted by rule and
//! address in a bounded table; the pair that was silent longest goes first.

use std::net::IpAddr;
use std::num::NonZeroUsize;

use lru::LruCache;

use super::header_set::AddressSet;
use super::rule::{Threshold, ThresholdKind, Track};

/// Pairs of rule and address that are counted at a time.
const COUNTERS_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// `suppress gen_id 1, sig_id 2[, track by_src, ip LIST]`: no alerts of a rule, for all or for some addresses.
#[derive(Debug, Clone)]
pub struct Suppression {
    /// Generator id.
    pub gid: u32,
    /// Signature id.
    pub sid: u32,
    /// Whose; everybody's without it.
    pub whose: Option<(Track, AddressSet)>,
}

impl Suppression {
    /// Whether an alert between these addresses is suppressed.
    pub fn matches(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.whose.as_ref().is_none_or(|(track, set)| set.contains(tracked(*track, source, destination)))
    }
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    start_us: u64,
    count: u32,
}

/// The counters of all rules.
#[derive(Debug)]
pub struct Thresholds(LruCache<(u32, ThresholdKind, IpAddr), Counter>);

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds(LruCache::new(COUNTERS_MAX))
    }
}

impl Thresholds {
    /// Counts a match of a rule at this time; true when it is let through.
    pub fn admits(&mut self, rule: u32, threshold: &Threshold, ends: (IpAddr, IpAddr), now_us: u64) -> bool {
        let address = tracked(threshold.track, ends.0, ends.1);
        let counter = self
            .0
            .get_or_insert_mut((rule, threshold.kind, address), || Counter { start_us: now_us, count: 0 });
        let interval_us = u64::from(threshold.seconds) * 1_000_000;
        if now_us.saturating_sub(counter.start_us) >= interval_us {
            *counter = Counter { start_us: now_us, count: 0 };
        }
        counter.count = counter.count.saturating_add(1);
        match threshold.kind {
            ThresholdKind::Limit => counter.count <= threshold.count,
            ThresholdKind::Threshold => counter.count.is_multiple_of(threshold.count),
            ThresholdKind::Both => counter.count == threshold.count,
            ThresholdKind::Filter => counter.count > threshold.count,
        }
    }
}

fn tracked(track: Track, source: IpAddr, destination: IpAddr) -> IpAddr {
    match track {
        Track::Source => source,
        Track::Destination => destination,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(kind: ThresholdKind, seconds_between: u64) -> Vec<u32> {
        let threshold = Threshold { kind, track: Track::Source, count: 3, seconds: 10 };
        let ends = (IpAddr::from([1, 1, 1, 1]), IpAddr::from([2, 2, 2, 2]));
        let mut thresholds = Thresholds::default();
        (1..=7)
            .filter(|index| {
                thresholds.admits(0, &threshold, ends, u64::from(*index) * seconds_between * 1_000_000)
            })
            .collect()
    }

    #[test]
    fn each_kind_admits_what_the_manual_says() {
        assert_eq!(admitted(ThresholdKind::Limit, 1), [1, 2, 3]);
        assert_eq!(admitted(ThresholdKind::Threshold, 1), [3, 6]);
        assert_eq!(admitted(ThresholdKind::Both, 1), [3]);
        assert_eq!(admitted(ThresholdKind::Filter, 1), [4, 5, 6, 7]);
    }

    #[test]
    fn slow_matches_never_reach_the_count() {
        assert_eq!(admitted(ThresholdKind::Both, 6), Vec::<u32>::new());
        assert_eq!(admitted(ThresholdKind::Filter, 6), Vec::<u32>::new());
    }

    #[test]
    fn addresses_are_counted_apart() {
        let threshold = Threshold { kind: ThresholdKind::Both, track: Track::Source, count: 2, seconds: 10 };
        let mut thresholds = Thresholds::default();
        let to = IpAddr::from([9, 9, 9, 9]);
        assert!(!thresholds.admits(0, &threshold, (IpAddr::from([1, 1, 1, 1]), to), 0));
        assert!(!thresholds.admits(0, &threshold, (IpAddr::from([1, 1, 1, 2]), to), 0));
        assert!(thresholds.admits(0, &threshold, (IpAddr::from([1, 1, 1, 1]), to), 0));
    }
}
