//! The rows of a bench: printed as a table, and written to `target/bench/NAME.json`.

use anyhow::Context;
use serde::Serialize;

use crate::project;

/// The peer of most rows.
pub const QEMU: &str = "qemu tcg";

/// What a row must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Must {
    /// Ours is at most this.
    AtMost(f64),
    /// Ours is at least this.
    AtLeast(f64),
    /// Ours divided by theirs is at most this.
    RatioAtMost(f64),
    /// Ours divided by theirs is at least this.
    RatioAtLeast(f64),
}

/// One figure beside the peer's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    what: String,
    ours: f64,
    unit: &'static str,
    peer: Option<&'static str>,
    theirs: Option<f64>,
    ratio: Option<f64>,
    must: Option<String>,
    met: Option<bool>,
}

impl Row {
    /// A row; `peer` is its name and its figure, and all of `musts` have to hold.
    pub fn new(
        what: impl Into<String>,
        ours: f64,
        unit: &'static str,
        peer: Option<(&'static str, f64)>,
        musts: &[Must],
    ) -> Row {
        let ratio = peer.map(|(_, theirs)| ours / theirs);
        let holds = |must: &Must| match must {
            Must::AtMost(limit) => ours <= *limit,
            Must::AtLeast(limit) => ours >= *limit,
            Must::RatioAtMost(limit) => ratio.is_some_and(|ratio| ratio <= *limit),
            Must::RatioAtLeast(limit) => ratio.is_some_and(|ratio| ratio >= *limit),
        };
        let text = |must: &Must| match must {
            Must::AtMost(limit) => format!("<= {limit} {unit}"),
            Must::AtLeast(limit) => format!(">= {limit} {unit}"),
            Must::RatioAtMost(limit) => format!("<= {limit} of peer"),
            Must::RatioAtLeast(limit) => format!(">= {limit} of peer"),
        };
        let must = musts.iter().map(text).collect::<Vec<_>>().join(", ");
        Row {
            what: what.into(),
            ours: rounded(ours),
            unit,
            peer: peer.map(|(name, _)| name),
            theirs: peer.map(|(_, theirs)| rounded(theirs)),
            ratio: ratio.map(rounded),
            met: (!musts.is_empty()).then(|| musts.iter().all(holds)),
            must: (!must.is_empty()).then_some(must),
        }
    }
}

/// Four digits that mean something: no figure here is steadier.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let digits = (3 - value.abs().log10().floor() as i32).max(0);
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// Prints the table, and below it what is not met.
pub fn print(rows: &[Row]) {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| value.to_string());
    println!(
        "{:<46} {:>9} {:<7} {:<9} {:>9} {:>7}  {:<28} met",
        "what", "ours", "unit", "peer", "theirs", "ratio", "must"
    );
    for row in rows {
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        println!(
            "{:<46} {:>9} {:<7} {:<9} {:>9} {:>7}  {:<28} {met}",
            row.what,
            row.ours,
            row.unit,
            row.peer.unwrap_or("-"),
            number(row.theirs),
            number(row.ratio),
            row.must.as_deref().unwrap_or("-"),
        );
    }
    let missed: Vec<&str> =
        rows.iter().filter(|row| row.met == Some(false)).map(|row| row.what.as_str()).collect();
    if !missed.is_empty() {
        println!("NOT MET: {}", missed.join("; "));
    }
}

/// Writes `target/bench/NAME.json`.
pub fn write(name: &str, rows: &[Row]) -> anyhow::Result<()> {
    let path = project::output()?.join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(rows)?;
    std::fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(musts: &[Must], met: Option<bool>) {
        assert_eq!(Row::new("a", 2.0, "s", Some(("b", 4.0)), musts).met, met, "{musts:?}");
    }

    #[test]
    fn a_row_is_met_when_all_that_must_be_holds() {
        check(&[], None);
        check(&[Must::AtMost(2.0)], Some(true));
        check(&[Must::AtMost(1.9)], Some(false));
        check(&[Must::RatioAtMost(0.5)], Some(true));
        check(&[Must::RatioAtLeast(0.5)], Some(true));
        check(&[Must::RatioAtLeast(1.0)], Some(false));
        check(&[Must::AtMost(2.0), Must::RatioAtMost(0.25)], Some(false));
    }

    #[test]
    fn without_a_peer_its_columns_are_null() {
        let row = serde_json::to_value(Row::new("a", 2.0, "s", None, &[])).unwrap();
        let null = serde_json::Value::Null;
        assert_eq!([&row["peer"], &row["theirs"], &row["ratio"], &row["must"], &row["met"]], [&null; 5]);
    }

    #[test]
    fn figures_keep_four_digits() {
        assert_eq!([22.34567, 0.001_234_56, 123_456.7].map(rounded), [22.35, 0.001_235, 123_457.0]);
    }
}
