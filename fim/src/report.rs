//! A report as text, in the look of AIDE 0.18, and as JSON.
//!
//! The letters before a path are AIDE's (`summarize_changes`, aide.conf(5)): kind, link target, size (`=` `<` `>`),
//! then one place an attribute: its letter if it changed, `.` if not, a blank if it was not watched, `+` and `-` for files
//! that came and went.

use crate::attributes::Attributes;
use crate::check::{Change, Report};
use crate::entry::Entry;

const RULER: &str = "---------------------------------------------------";
/// Width of AIDE's left column in details.
const VALUE_WIDTH: usize = 32;

/// The attributes behind kind, link and size, in AIDE's order: `bpugamcinHAXSEC` as far as we have them.
const PLACES: &[(char, Attributes)] = &[
    ('b', Attributes::SECTORS),
    ('p', Attributes::PERMISSIONS),
    ('u', Attributes::USER),
    ('g', Attributes::GROUP),
    ('m', Attributes::MTIME),
    ('c', Attributes::CTIME),
    ('i', Attributes::INODE),
    ('n', Attributes::LINKS),
    ('H', Attributes::CONTENT),
    ('A', Attributes::ACL),
    ('X', Attributes::XATTRS),
    ('E', Attributes::FLAGS),
    ('C', Attributes::CAPABILITIES),
];

impl Report {
    /// The report as JSON, for programs.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("plain values and strings always serialise")
    }

    /// The report as AIDE would print it.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.push_summary(&mut out);
        let long = |sign: &str| sign.repeat(PLACES.len() + 2);
        push_section(&mut out, "Added entries:", &self.added, |e| {
            format!("{}{}: {}", e.kind.letter(), long("+"), e.path)
        });
        push_section(&mut out, "Removed entries:", &self.removed, |e| {
            format!("{}{}: {}", e.kind.letter(), long("-"), e.path)
        });
        push_section(&mut out, "Changed entries:", &self.changed, |change| {
            format!("{}: {}", letters(change), change.path)
        });
        push_section(&mut out, "Unreadable:", &self.problems, |p| format!("{}: {}", p.path, p.reason));
        if !self.changed.is_empty() || !self.added.is_empty() {
            out.push_str(&format!("\n{RULER}\nDetailed information about changes:\n{RULER}\n"));
        }
        self.added.iter().filter(|entry| entry.b3.is_some()).for_each(|entry| push_added(&mut out, entry));
        self.changed.iter().for_each(|change| push_details(&mut out, change));
        out
    }

    fn push_summary(&self, out: &mut String) {
        out.push_str(&format!("Start timestamp: {:.0}\n", self.checked));
        if self.is_clean() {
            out.push_str("No differences between baseline and filesystem. Looks okay!!\n\n");
        } else {
            out.push_str("Differences between baseline and filesystem found!!\n\n");
        }
        out.push_str(&format!("Baseline: {}, made {:.0}\n", self.baseline, self.baseline_created));
        if self.other_filesystem {
            out.push_str("The disk holds another filesystem than the baseline was made of.\n");
        }
        if self.other_policy {
            out.push_str("The policy is another than the baseline was made with.\n");
        }
        out.push_str(&format!(
            "\nSummary:\n  Total number of entries:\t{}\n  Added entries:\t\t{}\n  Removed entries:\t\t{}\n  Changed entries:\t\t{}\n",
            self.entries,
            self.added.len(),
            self.removed.len(),
            self.changed.len()
        ));
    }
}

fn push_section<T>(out: &mut String, title: &str, items: &[T], line: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    out.push_str(&format!("\n{RULER}\n{title}\n{RULER}\n\n"));
    for item in items {
        out.push_str(&line(item));
        out.push('\n');
    }
}

fn letters(change: &Change) -> String {
    let changed =
        |attribute| change.attributes.iter().any(|one| Attributes::named(&one.attribute) == Some(attribute));
    let watched: Vec<&str> = change.watched.split('+').collect();
    let place = |letter, attribute| match changed(attribute) {
        true => letter,
        false if watched.iter().any(|name| Attributes::named(name) == Some(attribute)) => '.',
        false => ' ',
    };
    let mut out = String::from(if changed(Attributes::FILE_TYPE) { '!' } else { change.after.kind.letter() });
    out.push(place('l', Attributes::LINK));
    out.push(match change.after.size.cmp(&change.before.size) {
        _ if !changed(Attributes::SIZE) && !changed(Attributes::GROWING) => '=',
        std::cmp::Ordering::Less => '<',
        std::cmp::Ordering::Equal => '=',
        std::cmp::Ordering::Greater => '>',
    });
    out.extend(PLACES.iter().map(|(letter, attribute)| place(*letter, *attribute)));
    out
}

fn push_added(out: &mut String, entry: &Entry) {
    out.push_str(&format!("\n{}: {}\n", entry.kind.word(), entry.path));
    let shown =
        [Attributes::SIZE, Attributes::PERMISSIONS, Attributes::USER, Attributes::MTIME, Attributes::CONTENT];
    for attribute in shown {
        push_value(out, label(attribute), None, entry.value(attribute).as_deref());
    }
}

fn push_details(out: &mut String, change: &Change) {
    out.push_str(&format!("\n{}: {}\n", change.after.kind.word(), change.path));
    for one in &change.attributes {
        let label = Attributes::named(&one.attribute).map_or("", label);
        push_value(out, label, one.before.as_deref(), one.after.as_deref());
    }
    for line in change.diff.iter().flat_map(|diff| diff.lines()) {
        out.push_str(&format!("    {line}\n"));
    }
}

/// Long values go on in further lines, in pieces of the column's width.
fn push_value(out: &mut String, label: &str, before: Option<&str>, after: Option<&str>) {
    let pieces = |value: Option<&str>| -> Vec<String> {
        let chars: Vec<char> = value.unwrap_or("").chars().collect();
        chars.chunks(VALUE_WIDTH).map(|piece| piece.iter().collect()).collect()
    };
    let (before, after) = (pieces(before), pieces(after));
    for row in 0..before.len().max(after.len()).max(1) {
        let label = if row == 0 { format!("{label:<9} :") } else { " ".repeat(11) };
        let cell = |column: &[String]| column.get(row).cloned().unwrap_or_default();
        out.push_str(&format!("  {label} {:<VALUE_WIDTH$} | {}\n", cell(&before), cell(&after)));
    }
}

/// The words of AIDE's details.
fn label(attribute: Attributes) -> &'static str {
    match attribute {
        Attributes::PERMISSIONS => "Perm",
        Attributes::FILE_TYPE => "Type",
        Attributes::INODE => "Inode",
        Attributes::LINK => "Lname",
        Attributes::LINKS => "Linkcount",
        Attributes::USER => "Uid",
        Attributes::GROUP => "Gid",
        Attributes::SIZE | Attributes::GROWING => "Size",
        Attributes::SECTORS => "Sectors",
        Attributes::MTIME => "Mtime",
        Attributes::CTIME => "Ctime",
        Attributes::CONTENT => "BLAKE3",
        Attributes::ACL => "ACL",
        Attributes::XATTRS => "XAttrs",
        Attributes::CAPABILITIES => "Caps",
        Attributes::FLAGS => "E2FSAttrs",
        Attributes::DEVICE => "Device",
        // DIFF and sums never stand in a list of changes.
        _ => "",
    }
}
