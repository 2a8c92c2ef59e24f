use super::*;
use events::wire::{Received, Source};
use events::{Event, EventId, Severity};
use jiff::Timestamp;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn entry(index: u64, event: &Event) -> Entry {
    let source = Source { sensor: "test".into(), run: "0123456789abcdef".into() };
    let json = event.to_json("test", index).to_string();
    Entry {
        index,
        hash: [index as u8; 32],
        received: event.timestamp,
        message: Some(Received { source, seq: index, json }),
    }
}

async fn filled(path: &Path) -> (StoreWriter, Store) {
    let mut writer = StoreWriter::open(path).await.unwrap();
    let alert = Event::new(EventId::Alert, at(10)).domain("web", Some(1)).with("signature", "100% evil_x");
    let login = Event::new(EventId::GuestLogin, at(20)).domain("ssh", Some(2)).with("src_ip", "10.0.0.9");
    let log =
        Event::new(EventId::GuestLog, at(30)).domain("ssh", Some(2)).with("msg", "'; DROP TABLE events; --");
    writer.insert(&[entry(1, &alert), entry(2, &login), entry(3, &log)]).await.unwrap();
    let store = Store::open_readonly(path).await.unwrap();
    (writer, store)
}

#[tokio::test]
async fn a_filter_restricts_by_each_of_its_fields() {
    let dir = tempfile::tempdir().unwrap();
    let (_writer, store) = filled(&dir.path().join("db")).await;
    let all = Filter::default;
    let cases: Vec<(Filter, &[i64])> = vec![
        (all(), &[3, 2, 1]),
        (Filter { event_type: Some("guest".into()), ..all() }, &[3, 2]),
        (Filter { event_id: Some("guest.login".into()), ..all() }, &[2]),
        (Filter { domain: Some("web".into()), ..all() }, &[1]),
        (Filter { src_ip: Some("10.0.0.9".into()), ..all() }, &[2]),
        (Filter { severity: Some(Severity::Warning), ..all() }, &[2, 1]),
        (Filter { since: Some(at(20)), ..all() }, &[3, 2]),
        (Filter { until: Some(at(20)), ..all() }, &[1]),
        (Filter { before_id: Some(3), limit: Some(1), ..all() }, &[2]),
        (Filter { after_id: Some(1), ..all() }, &[3, 2]),
        (Filter { text: Some("EVIL_x".into()), ..all() }, &[1]),
        (Filter { text: Some("evil%x".into()), ..all() }, &[]),
        (Filter { text: Some("'; drop".into()), ..all() }, &[3]),
        (Filter { domain: Some("' OR 1 --".into()), ..all() }, &[]),
    ];
    for (filter, want) in cases {
        let ids: Vec<i64> = store.events(&filter).await.unwrap().iter().map(|row| row.id).collect();
        assert_eq!(ids, want, "{filter:?}");
    }
    let counts = store.counts(&Filter { domain: Some("ssh".into()), ..all() }).await.unwrap();
    assert_eq!(counts.len(), 2);
    assert_eq!((counts[0].count, counts[0].last), (1, at(30)));
    assert_eq!(store.event(2).await.unwrap().unwrap().to_json()["id"], 2);
    assert!(store.event(9).await.unwrap().is_none());
}

#[tokio::test]
async fn a_reader_follows_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, store) = filled(&dir.path().join("db")).await;
    let mut tail = store.tail(store.last_id().await.unwrap());
    let entries = [entry(4, &Event::new(EventId::FimChange, at(40)))];
    let (rows, written) = tokio::join!(tail.next(), writer.insert(&entries));
    written.unwrap();
    assert_eq!(rows.unwrap()[0].event.event_id, "fim.change");
}

#[tokio::test]
async fn a_store_that_nobody_writes_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let (writer, store) = filled(&path).await;
    store.pool.close().await;
    writer.close().await.unwrap();
    let store = Store::open_readonly(&path).await.unwrap();
    assert_eq!(store.last_id().await.unwrap(), 3);
    assert!(Store::open_readonly(&dir.path().join("none")).await.is_err());
}

#[tokio::test]
async fn trimming_goes_by_number_and_by_age_and_keeps_the_place_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, store) = filled(&dir.path().join("db")).await;
    assert_eq!(writer.trim(2, None).await.unwrap(), 1);
    assert_eq!(writer.trim(100, Some(at(30))).await.unwrap(), 1);
    assert_eq!(store.events(&Filter::default()).await.unwrap().len(), 1);
    assert_eq!(writer.last_index().await.unwrap(), 3);
    assert_eq!(writer.runs().await.unwrap()[0].1, 3);
}

fn flow(second: i64, to: (&str, u16)) -> Event {
    let tuple = events::FlowTuple {
        flow_id: 7,
        src_ip: "10.0.0.9".parse().unwrap(),
        src_port: 4000,
        dest_ip: to.0.parse().unwrap(),
        dest_port: to.1,
        proto: "TCP".to_owned(),
        community_id: None,
    };
    Event::new(EventId::FlowEnd, at(second)).domain("ssh", Some(2)).flow(tuple)
}

#[tokio::test]
async fn a_flow_is_its_sessions_whichever_is_told_of_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut writer = StoreWriter::open(&path).await.unwrap();
    let of_session = |id, second| {
        let mut event = Event::new(id, at(second)).domain("ssh", Some(2)).with("pid", 220);
        event.session = Some("00000000000000aa".to_owned());
        event
    };
    let opened = of_session(EventId::SessionOpened, 101)
        .with("service", "sshd")
        .with("src_ip", "10.0.0.9")
        .with("src_port", 4000);
    let connect = of_session(EventId::ProcessConnect, 300)
        .with("exe", "/usr/bin/wget")
        .with("address", "1.2.3.4")
        .with("port", 80);
    let events = [
        flow(100, ("10.77.0.10", 22)),
        opened,
        flow(110, ("10.77.0.10", 22)),
        connect,
        flow(1, ("10.77.0.10", 22)),
    ];
    let entries: Vec<Entry> =
        events.iter().enumerate().map(|(i, event)| entry(i as u64 + 1, event)).collect();
    writer.insert(&entries).await.unwrap();
    let mut outwards = flow(301, ("1.2.3.4", 80));
    outwards.flow.as_mut().unwrap().src_port = 5000;
    writer.insert(&[entry(6, &outwards)]).await.unwrap();
    let store = Store::open_readonly(&path).await.unwrap();
    let json = |row: Option<Row>| row.unwrap().to_json();
    for (id, exe) in [(1, "sshd"), (3, "sshd"), (6, "/usr/bin/wget")] {
        let event = json(store.event(id).await.unwrap());
        assert_eq!(
            (&event["session"], &event["pid"], &event["exe"]),
            (&"00000000000000aa".into(), &220.into(), &exe.into()),
            "{id}"
        );
    }
}
