use super::*;

fn write(folder: &Path, id: &str, text: &str) {
    std::fs::write(folder.join("new"), text).unwrap();
    std::fs::rename(folder.join("new"), folder.join(format!("{id}.json"))).unwrap();
}

fn shown(catalogue: &Catalogue, query: &str) -> Vec<String> {
    let page = catalogue.page(&Question::parse(query).unwrap()).unwrap();
    page.sessions.iter().map(|summary| summary.id.clone()).collect()
}

#[test]
fn the_newest_is_first_and_pages_have_no_gap() {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::new(folder.path().to_owned());
    let ids: Vec<String> = (0..25).map(|n| format!("65a1b2{n:02x}00010001")).collect();
    for (n, id) in ids.iter().enumerate() {
        write(folder.path(), id, &format!("{{\"opened\":\"2026-01-02T03:04:{n:02}Z\"}}"));
    }
    let mut seen = Vec::new();
    let mut before = String::new();
    loop {
        let question = Question::parse(&format!("limit=10&before={before}")).unwrap();
        let page = catalogue.page(&question).unwrap();
        seen.extend(page.sessions.iter().map(|summary| summary.id.clone()));
        match page.next_before {
            Some(next) => before = next.to_string(),
            None => break,
        }
    }
    assert_eq!(seen, ids.into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn domain_and_address_restrict() {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::new(folder.path().to_owned());
    write(folder.path(), "65a1b2c300010001", r#"{"domain":"a","src_ip":"192.0.2.1"}"#);
    write(folder.path(), "65a1b2c300010002", r#"{"domain":"b","src_ip":"::ffff:192.0.2.1"}"#);
    write(folder.path(), "65a1b2c300010003", r#"{"domain":"b","src_ip":"no address"}"#);
    assert_eq!(shown(&catalogue, "domain=b").len(), 2);
    assert_eq!(shown(&catalogue, "address=192.0.2.1").len(), 2);
    assert_eq!(shown(&catalogue, "address=192.0.2.1&domain=b"), ["65a1b2c300010002"]);
    assert!(shown(&catalogue, "domain=c").is_empty());
}

#[test]
fn a_file_that_was_replaced_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::new(folder.path().to_owned());
    let look = || catalogue.page(&Question::default()).unwrap().sessions[0].clone();
    write(folder.path(), "65a1b2c300010001", r#"{"processes":[{}]}"#);
    assert_eq!((look().commands, look().live), (1, true));
    write(folder.path(), "65a1b2c300010001", r#"{"processes":[{},{}],"closed":"2026-01-02T03:04:05Z"}"#);
    assert_eq!((look().commands, look().live), (2, false));
}

#[test]
fn a_damaged_file_is_a_row_and_other_files_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::new(folder.path().to_owned());
    write(folder.path(), "65a1b2c300010001", "{");
    write(folder.path(), "notes", "{}");
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("65a1b2c300010002.json")).unwrap();
    let page = catalogue.page(&Question::default()).unwrap();
    assert_eq!(page.sessions.len(), 1);
    assert_eq!(page.sessions[0].error.as_deref(), Some("the object of session 65a1b2c300010001 is damaged"));
}

#[test]
fn without_a_folder_there_are_no_sessions() {
    let catalogue = Catalogue::new("/nonexistent".into());
    assert!(shown(&catalogue, "").is_empty());
}
