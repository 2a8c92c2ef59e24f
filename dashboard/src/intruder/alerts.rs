//! How many alerts belong to each session of a list: by the session that the event names, or by source address, domain and time.

use std::sync::Arc;

use events::StoredEvent;
use jiff::{SignedDuration, Timestamp};

use super::list::Summary;
use crate::question::Question;
use crate::store::Reader;

/// Newest alerts that are looked at for one list.
const ALERTS_MAX: u32 = 2000;
/// An alert may be told a moment before its session is, and after it.
const BEFORE: SignedDuration = SignedDuration::from_secs(2);
const AFTER: SignedDuration = SignedDuration::from_secs(10);

/// A number for each session, in their order; nothing where the store is away.
#[derive(Debug, Default)]
pub struct Counted {
    /// The numbers.
    pub alerts: Vec<Option<usize>>,
    /// Whether there were more alerts than are looked at, so that a number may be too small.
    pub at_least: bool,
}

/// Counts.
pub async fn count(reader: &Reader, sessions: &[Arc<Summary>], now: Timestamp) -> Counted {
    let since = sessions.iter().filter_map(|session| session.opened).min();
    let Some(since) = since else { return Counted { alerts: vec![None; sessions.len()], at_least: false } };
    // Of an older page the alerts of its own time, not the newest ones.
    let until = sessions.iter().map(|session| session.closed.unwrap_or(now)).max();
    let until = until.map(|until| until.saturating_add(AFTER).unwrap_or(until));
    let question = Question {
        event_type: Some("alert".into()),
        since: Some(since.saturating_sub(BEFORE).unwrap_or(since)),
        until,
        limit: Some(ALERTS_MAX),
        ..Question::default()
    };
    match reader.events(&question).await {
        Ok(page) => {
            let events: Vec<&StoredEvent> = page.rows.iter().map(|row| &row.event).collect();
            let alerts = sessions.iter().map(|session| Some(of(session, &events, now))).collect();
            Counted { alerts, at_least: page.next_before_id.is_some() }
        }
        // The list is worth showing without them.
        Err(_) => Counted { alerts: vec![None; sessions.len()], at_least: false },
    }
}

fn of(session: &Summary, events: &[&StoredEvent], now: Timestamp) -> usize {
    events.iter().filter(|event| belongs(session, event, now)).count()
}

fn belongs(session: &Summary, event: &StoredEvent, now: Timestamp) -> bool {
    if let Some(named) = &event.session {
        return *named == session.id;
    }
    let (Some(opened), Some(source)) = (session.opened, event.src_ip) else { return false };
    let same_source = session.src_ip.as_ref().and_then(|ip| ip.parse().ok()) == Some(source);
    let from = opened.saturating_sub(BEFORE).unwrap_or(opened);
    let until = session.closed.unwrap_or(now);
    let until = until.saturating_add(AFTER).unwrap_or(until);
    same_source && event.domain == session.domain && (from..=until).contains(&event.timestamp)
}

#[cfg(test)]
mod tests {
    use events::{Event, EventId, FlowTuple};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn alert(second: i64, domain: &str, source: &str) -> Event {
        let flow = FlowTuple {
            flow_id: 1,
            src_ip: source.parse().unwrap(),
            src_port: 1,
            dest_ip: "10.77.0.2".parse().unwrap(),
            dest_port: 22,
            proto: "TCP".into(),
            community_id: None,
        };
        Event::new(EventId::Alert, at(second)).domain(domain, None).flow(flow)
    }

    fn belongs(event: Event) -> bool {
        let session = Summary {
            id: "65a1b2c300010001".into(),
            opened: Some(at(100)),
            closed: Some(at(200)),
            domain: Some("web".into()),
            src_ip: Some("192.0.2.1".into()),
            ..Summary::default()
        };
        let event = StoredEvent::from_json(&event.to_json("test", 1).to_string()).unwrap();
        super::belongs(&session, &event, at(1000))
    }

    #[test]
    fn an_alert_of_the_same_source_domain_and_time_belongs_to_the_session() {
        assert!(belongs(alert(100, "web", "192.0.2.1")) && belongs(alert(205, "web", "192.0.2.1")));
        for other in [
            alert(90, "web", "192.0.2.1"),
            alert(211, "web", "192.0.2.1"),
            alert(150, "ssh", "192.0.2.1"),
            alert(150, "web", "192.0.2.2"),
        ] {
            assert!(!belongs(other));
        }
    }

    #[test]
    fn an_alert_that_names_a_session_belongs_to_that_one() {
        let named = |session: &str| {
            let mut event = alert(900, "ssh", "192.0.2.9");
            event.session = Some(session.into());
            belongs(event)
        };
        assert!(named("65a1b2c300010001") && !named("65a1b2c300010002"));
    }
}
