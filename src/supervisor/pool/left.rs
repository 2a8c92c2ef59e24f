//! What an intruder has left in a clone, by the reports of his sessions: it decides whether the clone is worth keeping.

use std::path::Path;

use introspect::session::report::Report;
use jiff::Timestamp;

/// A report that is longer is kept for its length.
const REPORT_BYTES_MAX: u64 = 16 << 20;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left(Vec<&'static str>);

impl Left {
    /// Looks at the reports in this folder that are of a domain with this number and were opened since it began: an earlier supervisor's
    /// domain may have had the number. One that cannot be read counts as something.
    pub fn of(sessions: &Path, domid: u32, began: Timestamp) -> Left {
        let mut left = Vec::new();
        // The domain's number is in a session's id.
        let is_of_domain = |file: &str| file.get(8..12) == Some(format!("{:04x}", domid & 0xffff).as_str());
        for entry in std::fs::read_dir(sessions).into_iter().flatten().flatten() {
            let file = entry.file_name();
            if !file.to_str().is_some_and(|file| file.ends_with(".json") && is_of_domain(file)) {
                continue;
            }
            match read(&entry.path()) {
                Some(report) if report.domid != domid || report.opened < began => {}
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const OPENED: &str = "2026-01-02T03:04:05Z";

    fn report(more: Value) -> Value {
        let mut report = json!({
            "id": "x", "domain": "farm-1", "domid": 7, "service": "/usr/sbin/sshd", "pid": 9, "opened": OPENED,
            "closed": null, "src_ip": "192.0.2.1", "src_port": 4000, "logins": [], "inputs": [], "processes": [],
            "files": [], "connections": [], "samples": [], "tty": [], "truncated": false,
        });
        for (key, value) in more.as_object().unwrap() {
            report[key] = value.clone();
        }
        report
    }

    #[track_caller]
    fn check(name: &str, text: &str, began: &str, expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(Left::of(folder.path(), 7, began.parse().unwrap()).words(), expected, "{text}");
    }

    #[test]
    fn what_sessions_left_is_told_and_who_only_looked_left_nothing() {
        let login = |success: bool| json!({ "time": OPENED, "service": "sshd", "user": "a", "password": "b", "method": "password", "success": success });
        let ran = |exe: &str| json!({ "pid": 10, "ppid": 9, "uid": 0, "exe": exe, "argv": [], "cwd": null, "began": OPENED, "ended": null, "status": null });
        let table = [
            (json!({}), &[][..]),
            (json!({ "logins": [login(false)] }), &[]),
            (json!({ "logins": [login(true)] }), &["a login"]),
            (json!({ "processes": [ran("/usr/sbin/sshd")] }), &[]),
            (
                json!({ "processes": [ran("/bin/id")], "truncated": true }),
                &["more than a report holds", "programs run"],
            ),
        ];
        for (more, expected) in table {
            check("65a1b2c300070001.json", &report(more).to_string(), OPENED, expected);
        }
    }

    #[test]
    fn other_domains_and_earlier_ones_of_that_number_do_not_count() {
        let login = json!({ "logins": [{ "time": OPENED, "service": "sshd", "user": "a", "password": null, "method": "publickey", "success": true }] });
        let text = report(login).to_string();
        check("65a1b2c300070001.json", &text, "2026-01-02T03:04:06Z", &[]);
        check("65a1b2c300080001.json", &text, OPENED, &[]);
        check("65a1b2c300070001.json", "{", OPENED, &["a report that cannot be read"]);
    }
}
