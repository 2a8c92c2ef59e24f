//! What an intruder has left in a clone, by the reports of his sessions: it decides whether the clone is worth keeping.

use std::path::Path;

use introspect::session::report::Report;

/// A report that is longer is kept for its length.
const REPORT_BYTES_MAX: u64 = 16 << 20;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left(Vec<&'static str>);

impl Left {
    /// Looks at the reports of a domain in this folder. One that cannot be read counts as something.
    pub fn of(sessions: &Path, domid: u32, name: &str) -> Left {
        let mut left = Vec::new();
        // The domain's number is in a session's id.
        let is_of_domain = |file: &str| file.get(8..12) == Some(format!("{:04x}", domid & 0xffff).as_str());
        for entry in std::fs::read_dir(sessions).into_iter().flatten().flatten() {
            let file = entry.file_name();
            if !file.to_str().is_some_and(|file| file.ends_with(".json") && is_of_domain(file)) {
                continue;
            }
            match read(&entry.path()) {
                Some(report) if report.domain != name || report.domid != domid => {}
                Some(report) => left.extend(in_report(&report)),
                None => left.push("a report that cannot be read"),
            }
        }
        left.sort_unstable();
        left.dedup();
        Left(left)
    }

    /// Nothing but connections.
    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// In words.
    pub fn words(&self) -> Vec<&'static str> {
        self.0.clone()
    }
}

fn read(path: &Path) -> Option<Report> {
    if std::fs::metadata(path).ok()?.len() > REPORT_BYTES_MAX {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn in_report(report: &Report) -> Vec<&'static str> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let ran = report.processes.iter().any(|process| base(&process.exe) != base(&report.service));
    let found = [
        (report.logins.iter().any(|login| login.success), "a login"),
        (!report.inputs.is_empty(), "lines typed"),
        (ran, "programs run"),
        (!report.files.is_empty(), "files changed"),
        (!report.samples.is_empty(), "samples"),
        (!report.connections.is_empty(), "connections made"),
        (report.truncated, "more than a report holds"),
    ];
    found.into_iter().filter_map(|(found, word)| found.then_some(word)).collect()
}
