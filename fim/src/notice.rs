//! A report as events: one a change, then one that says that the check ended.

use events::{Event, EventId, Severity};

use crate::check::{Change, Report};
use crate::entry::{Entry, Kind};

/// Changes that get an event of their own; `fim.checked` counts all of them.
const EVENTS_MAX: usize = 1000;
const SETUID_OR_SETGID: u16 = 0o6000;

/// The events of a check of this domain. A new setuid or setgid program is an error, all else a warning.
pub fn changes_to_events(report: &Report, domain: &str, domid: Option<u32>) -> Vec<Event> {
    let added = report.added.iter().map(|entry| one_sided("added", None, Some(entry)));
    let removed = report.removed.iter().map(|entry| one_sided("removed", Some(entry), None));
    let changed = report.changed.iter().map(changed);
    let make = |fill: Fill| {
        let event =
            Event::new(EventId::FimChange, report.checked).severity(fill.severity).domain(domain, domid);
        fill.details.into_iter().fold(event, |event, (key, value)| event.with(key, value))
    };
    let mut out: Vec<Event> = added.chain(removed).chain(changed).take(EVENTS_MAX).map(make).collect();
    let reported = out.len();
    out.push(
        Event::new(EventId::FimChecked, report.checked)
            .domain(domain, domid)
            .with("baseline", report.baseline.as_str())
            .with("baseline_created", report.baseline_created.to_string())
            .with("entries", report.entries)
            .with("added", report.added.len())
            .with("removed", report.removed.len())
            .with("changed", report.changed.len())
            .with("unreadable", report.problems.len())
            .with("events", reported),
    );
    out
}

/// The details of one event.
struct Fill {
    severity: Severity,
    details: Vec<(&'static str, serde_json::Value)>,
}

fn one_sided(what: &str, before: Option<&Entry>, after: Option<&Entry>) -> Fill {
    let Some(entry) = after.or(before) else {
        return Fill { severity: Severity::Warning, details: Vec::new() };
    };
    let mut details = vec![
        ("change", what.into()),
        ("path", entry.path.as_str().into()),
        ("kind", entry.kind.word().into()),
        ("mode", format!("{:04o}", entry.permissions).into()),
        ("uid", entry.uid.into()),
        ("size", entry.size.into()),
        ("mtime", entry.mtime.as_str().into()),
    ];
    details.extend(entry.b3.as_ref().map(|hash| ("blake3", hash.as_str().into())));
    let privileged = after.is_some_and(is_privileged);
    Fill { severity: if privileged { Severity::Error } else { Severity::Warning }, details }
}

fn changed(change: &Change) -> Fill {
    let became_privileged = is_privileged(&change.after) && !is_privileged(&change.before);
    let attributes =
        serde_json::to_value(&change.attributes).expect("plain values and strings always serialise");
    let mut details = vec![
        ("change", "changed".into()),
        ("path", change.path.as_str().into()),
        ("kind", change.after.kind.word().into()),
        ("attributes", attributes),
    ];
    details.extend(change.diff.as_ref().map(|diff| ("diff", diff.as_str().into())));
    details.extend(change.after.b3.as_ref().map(|hash| ("blake3", hash.as_str().into())));
    Fill { severity: if became_privileged { Severity::Error } else { Severity::Warning }, details }
}

/// Runs as its owner, whoever starts it.
fn is_privileged(entry: &Entry) -> bool {
    entry.kind == Kind::File && entry.permissions & SETUID_OR_SETGID != 0
}
