//! EVENTS.md and the code name the same ids, with the same severities.

use events::{EventId, Severity};

#[test]
fn events_md_explains_exactly_the_ids_of_the_code_in_their_order() {
    let text = include_str!("../EVENTS.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let documented: Vec<(String, String)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
        })
        .collect();
    let name = |severity| match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
        Severity::Info => "info",
    };
    let coded: Vec<(String, String)> =
        EventId::ALL.iter().map(|id| (id.as_str().to_owned(), name(id.severity()).to_owned())).collect();
    assert_eq!(documented, coded);
}
