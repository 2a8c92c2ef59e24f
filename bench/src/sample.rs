//! Repetitions of measurements by name, and their medians.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, ensure};

/// Repetitions by name.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    by_name: BTreeMap<String, Vec<f64>>,
}

impl Samples {
    /// Notes one repetition.
    pub fn add(&mut self, name: &str, value: f64) {
        self.by_name.entry(name.to_owned()).or_default().push(value);
    }

    /// Notes those of another run.
    pub fn extend(&mut self, other: Samples) {
        for (name, values) in other.by_name {
            self.by_name.entry(name).or_default().extend(values);
        }
    }

    /// The middle one of all repetitions: one that was disturbed does not move it.
    pub fn median(&self, name: &str) -> anyhow::Result<f64> {
        let values = self.by_name.get(name).with_context(|| format!("{name} was not measured"))?;
        median(values).with_context(|| format!("{name} was not measured"))
    }

    /// The least value that so many percent of all repetitions do not exceed.
    pub fn percentile(&self, name: &str, percent: f64) -> anyhow::Result<f64> {
        let values = self.by_name.get(name).with_context(|| format!("{name} was not measured"))?;
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().with_context(|| format!("{name} was not measured"))
    }

    /// The least of all repetitions: the one that was disturbed least, where only the host's other work makes them differ.
    pub fn least(&self, name: &str) -> anyhow::Result<f64> {
        let values = self.by_name.get(name).with_context(|| format!("{name} was not measured"))?;
        values.iter().copied().min_by(f64::total_cmp).with_context(|| format!("{name} was not measured"))
    }
}

/// From one moment to a later one.
pub fn milliseconds(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}

/// The middle value; none of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// `name value unit` with this unit, at the end of a line of a guest's console: a terminal's escape sequences or a getty's
/// prompt may stand before it.
pub fn parse<'a>(line: &'a str, unit: &str) -> Option<(&'a str, f64)> {
    let mut words = line.split_whitespace().rev();
    let (last, value, name) = (words.next()?, words.next()?, words.next()?);
    (last == unit).then_some(())?;
    Some((name, value.parse().ok()?))
}

/// Refuses a guest whose clock and the host's differ by more than a tenth: its figures would mean nothing.
pub fn check_clock(guest_us: f64, host_us: f64) -> anyhow::Result<()> {
    let ratio = guest_us / host_us;
    ensure!(
        (0.9..1.1).contains(&ratio),
        "the guest counted {guest_us:.0} us where the host counted {host_us:.0} us"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle() {
        assert_eq!(
            [&[][..], &[3.0], &[9.0, 1.0, 2.0], &[1.0, 4.0, 2.0, 9.0]].map(median),
            [None, Some(3.0), Some(2.0), Some(3.0)]
        );
    }

    #[test]
    fn only_lines_of_a_measurement_are_read() {
        assert_eq!(parse("getppid 2.5 us", "us"), Some(("getppid", 2.5)));
        assert_eq!(parse("bench login: disk-4k 2.7 s", "s"), Some(("disk-4k", 2.7)));
        for other in ["getppid 2.5 s", "getppid us", "reboot: Power down", "a 1 us more"] {
            assert_eq!(parse(other, "us"), None, "{other}");
        }
    }
}
