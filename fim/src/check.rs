//! What differs between a baseline and the disk as it is now. The same two inputs always give the same report.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use jiff::Timestamp;
use serde::Serialize;

use crate::attributes::Attributes;
use crate::baseline::Baseline;
use crate::entry::{Entry, Kind};
use crate::policy::Policy;
use crate::scan::{Limits, Problem, Progress, Scan, ScanError, scan};

/// Lines of a text's difference that a report shows.
const DIFF_LINES_MAX: usize = 200;
/// Texts with more lines are not compared line by line: the time grows with the product.
const DIFF_INPUT_LINES_MAX: usize = 2000;

/// One attribute of a file, before and after, as a report shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttributeChange {
    /// AIDE's name of the attribute: `p`, `m`, `b3`.
    pub attribute: String,
    /// Value in the baseline.
    pub before: Option<String>,
    /// Value on the disk.
    pub after: Option<String>,
}

/// A file that is in both, and differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its path, escaped.
    pub path: String,
    /// In the baseline.
    pub before: Entry,
    /// On the disk.
    pub after: Entry,
    /// What of the watched differs.
    pub attributes: Vec<AttributeChange>,
    /// Every attribute that was compared, as the policy has them.
    pub watched: String,
    /// The changed lines (unified, three lines of context), where the baseline kept the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The baseline's name.
    pub baseline: String,
    /// When the baseline was made.
    pub baseline_created: Timestamp,
    /// When this check was made.
    pub checked: Timestamp,
    /// Watched files on the disk.
    pub entries: usize,
    /// The disk has another filesystem than the baseline was made of.
    pub other_filesystem: bool,
    /// The policy is another than the baseline was made with.
    pub other_policy: bool,
    /// On the disk, not in the baseline.
    pub added: Vec<Entry>,
    /// In the baseline, not on the disk.
    pub removed: Vec<Entry>,
    /// In both, and different.
    pub changed: Vec<Change>,
    /// What could not be read now and was not so in the baseline.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Nothing was added, removed or changed, and all could be read.
    pub fn is_clean(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.problems.is_empty()
    }
}

/// Makes a baseline of a disk.
pub fn baseline<R: Read + Seek>(
    policy: &Policy,
    disk: R,
    name: &str,
    created: Timestamp,
    progress: &mut dyn FnMut(Progress),
) -> Result<Baseline, ScanError> {
    let scan = scan(policy, disk, &Limits::default(), progress)?;
    Ok(Baseline { name: name.to_owned(), created, policy: policy.digest().to_owned(), scan })
}

/// Scans a disk and compares it with a baseline.
pub fn check<R: Read + Seek>(
    policy: &Policy,
    baseline: &Baseline,
    disk: R,
    checked: Timestamp,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, ScanError> {
    let now = scan(policy, disk, &Limits::default(), progress)?;
    Ok(compare(policy, baseline, now, checked))
}

/// Compares a scan with a baseline.
pub fn compare(policy: &Policy, baseline: &Baseline, now: Scan, checked: Timestamp) -> Report {
    let mut report = Report {
        baseline: baseline.name.clone(),
        baseline_created: baseline.created,
        checked,
        entries: now.entries.len(),
        other_filesystem: now.uuid != baseline.scan.uuid,
        other_policy: policy.digest() != baseline.policy,
        added: Vec::new(),
        removed: Vec::new(),
        changed: Vec::new(),
        problems: now
            .problems
            .into_iter()
            .filter(|problem| !baseline.scan.problems.contains(problem))
            .collect(),
    };
    let before: BTreeMap<&str, &Entry> =
        baseline.scan.entries.iter().map(|entry| (entry.path.as_str(), entry)).collect();
    let mut seen = std::collections::BTreeSet::new();
    for after in now.entries {
        match before.get(after.path.as_str()) {
            None => report.added.push(after),
            Some(before) => {
                seen.insert(before.path.as_str());
                report.changed.extend(change(policy, before, after));
            }
        }
    }
    // A path that this policy does not watch is not gone.
    let gone = before.values().filter(|entry| !seen.contains(entry.path.as_str()));
    report.removed =
        gone.filter(|entry| policy.attributes(&entry.path).is_some()).map(|&entry| entry.clone()).collect();
    report
}

fn change(policy: &Policy, before: &Entry, after: Entry) -> Option<Change> {
    let watched = policy.attributes(&after.path)?;
    let differences: Vec<AttributeChange> = Attributes::each()
        .filter(|(_, attribute)| watched.contains(*attribute) && differs(*attribute, before, &after))
        .map(|(name, attribute)| AttributeChange {
            attribute: name.to_owned(),
            before: before.value(attribute),
            after: after.value(attribute),
        })
        .collect();
    if differences.is_empty() {
        return None;
    }
    let diff = match (&before.text, &after.text) {
        (Some(old), Some(new)) if old != new => changed_lines(old, new),
        _ => None,
    };
    let path = after.path.clone();
    Some(Change {
        path,
        before: before.clone(),
        after,
        attributes: differences,
        watched: watched.to_string(),
        diff,
    })
}

fn differs(attribute: Attributes, before: &Entry, after: &Entry) -> bool {
    match attribute {
        Attributes::GROWING => after.size < before.size,
        // A hash that one side did not take says nothing; a file that cannot be read any more says a lot.
        Attributes::CONTENT if before.kind == Kind::File && after.kind == Kind::File => {
            before.unreadable != after.unreadable
                || matches!((&before.b3, &after.b3), (Some(old), Some(new)) if old != new)
        }
        Attributes::CONTENT => false,
        // The size of a directory is what its filesystem made of it, and its own names are watched one by one.
        Attributes::SIZE if before.kind == Kind::Directory && after.kind == Kind::Directory => false,
        _ => before.value(attribute) != after.value(attribute),
    }
}

/// The changed lines in the form of `diff -u`, escaped, cut after a number of lines.
fn changed_lines(old: &str, new: &str) -> Option<String> {
    if old.lines().count().max(new.lines().count()) > DIFF_INPUT_LINES_MAX {
        return None;
    }
    let diff = similar::TextDiff::from_lines(old, new);
    let unified = diff.unified_diff().context_radius(3).to_string();
    let mut lines = unified.lines();
    let mut out: Vec<String> = lines.by_ref().take(DIFF_LINES_MAX).map(escape_line).collect();
    let rest = lines.count();
    if rest > 0 {
        out.push(format!("({rest} more lines)"));
    }
    Some(out.join("\n"))
}

/// Tabs stay; all else that a terminal would act on is escaped.
fn escape_line(line: &str) -> String {
    line.split('\t').map(crate::entry::escape_text).collect::<Vec<_>>().join("\t")
}
