//! Snapshots that alerts set off, as `[[snapshot]]` of honeynet.toml asks. Alerts are seen in the store, like by everybody who reads events: a
//! moment after they came, and without a way by which a flood of them could hold anybody up.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::EventId;
use events::StoredEvent;
use logsink::{Store, StoreError};

use super::house::House;
use super::snapshot::{self, Diff};
use crate::honeynet_file::SnapshotRule;
use crate::snapshot::store;

/// Until logsink has made its store.
const STORE_INTERVAL: Duration = Duration::from_secs(1);
/// Snapshots of one domain above which none is taken by itself, so that an intruder cannot fill the disk.
const KEPT_MAX: usize = 100;
/// Domains whose last snapshot is remembered; beyond, the oldest are forgotten, which costs a snapshot too many.
const REMEMBERED_MAX: usize = 4096;

/// Watches the store on a thread of its own, if there is a rule.
pub fn watch(house: &Arc<House>, rules: &[SnapshotRule]) -> io::Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    let (house, mut limits) = (Arc::clone(house), Limits::new(rules));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watching = std::thread::Builder::new().name("alerts".into());
    watching.spawn(move || {
        let path = logsink::store_path(house.state.root());
        loop {
            if path.exists()
                && let Err(error) = runtime.block_on(follow(&path, |event| take(&house, event, &mut limits)))
            {
                tracing::warn!(%error, "the store cannot be followed for alerts");
            }
            std::thread::sleep(STORE_INTERVAL);
        }
    })?;
    Ok(())
}

/// Tells of each event that comes from now on.
async fn follow(path: &Path, mut each: impl FnMut(&StoredEvent)) -> Result<(), StoreError> {
    let store = Store::open_readonly(path).await?;
    let last_id = store.last_id().await?;
    let mut tail = store.tail(last_id);
    loop {
        tail.next().await?.iter().for_each(|row| each(&row.event));
    }
}

fn take(house: &House, event: &StoredEvent, limits: &mut Limits) {
    let Some((name, reason)) = limits.wanted(event, Instant::now()) else { return };
    // One that has gone meanwhile is no failure.
    let Ok(domain) = house.domain(&name) else { return };
    let kept = store::list(&house.state, Some(&name)).map_or(0, |entries| entries.len());
    if kept >= KEPT_MAX {
        let sentence = format!("no snapshot of domain {name} at {reason}: there are {kept} already");
        house.announcer.line(&sentence);
        return;
    }
    if let Err(error) = snapshot::take(house, &domain, Diff::IfPossible, Some(reason)) {
        house.announcer.line(&format!("no snapshot of domain {name}: {}", events::sentence(&error)));
    }
}

/// The rules, and when each last had its way.
struct Limits {
    rules: Vec<SnapshotRule>,
    last: HashMap<(usize, String), Instant>,
}

impl Limits {
    fn new(rules: &[SnapshotRule]) -> Limits {
        Limits { rules: rules.to_vec(), last: HashMap::new() }
    }

    /// The domain that this event wants a snapshot of, and why.
    fn wanted(&mut self, event: &StoredEvent, now: Instant) -> Option<(String, String)> {
        if event.event_id != EventId::Alert.as_str() {
            return None;
        }
        let domain = event.domain.clone()?;
        let body = &event.body;
        let (sid, priority) =
            (body.get("signature_id")?.as_u64()?, body.get("severity").and_then(|it| it.as_u64()));
        let fits = |rule: &SnapshotRule| {
            rule.sid.is_none_or(|wanted| wanted == sid)
                && rule.domain.as_ref().is_none_or(|wanted| *wanted == domain)
                && rule
                    .classtype
                    .as_deref()
                    .is_none_or(|wanted| body.get("category").is_some_and(|it| it == wanted))
                && rule.priority.is_none_or(|wanted| priority.is_some_and(|priority| priority <= wanted))
        };
        let due = |(index, rule): &(usize, &SnapshotRule)| {
            let last = self.last.get(&(*index, domain.clone()));
            last.is_none_or(|last| now.duration_since(*last) >= rule.every.0)
        };
        let (index, _) = self.rules.iter().enumerate().filter(|(_, rule)| fits(rule)).find(due)?;
        if self.last.len() >= REMEMBERED_MAX
            && let Some(oldest) = self.last.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())
        {
            self.last.remove(&oldest);
        }
        self.last.insert((index, domain.clone()), now);
        let signature = body.get("signature").and_then(|it| it.as_str()).unwrap_or_default();
        Some((domain, format!("alert {sid}: {signature}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::honeynet_file;

    fn alert(domain: &str, sid: u64, classtype: &str, priority: u64) -> StoredEvent {
        let event = events::Event::new(EventId::Alert, jiff::Timestamp::UNIX_EPOCH).domain(domain, Some(1));
        let event = event.with("signature_id", sid).with("category", classtype).with("severity", priority);
        StoredEvent::from_json(&event.with("signature", "a rule").to_json("netwatch", 1).to_string()).unwrap()
    }

    fn limits(text: &str) -> Limits {
        Limits::new(&honeynet_file::parse(text).unwrap().snapshots)
    }

    #[test]
    fn only_what_a_rule_names_is_wanted() {
        let rule = "[[snapshot]]\non=\"alert\"\nclasstype=\"malware-traffic\"\npriority=2\ndomain=\"a\"";
        let wanted = |event: &StoredEvent| limits(rule).wanted(event, Instant::now());
        let found = wanted(&alert("a", 7, "malware-traffic", 1)).unwrap();
        assert_eq!(found, ("a".to_owned(), "alert 7: a rule".to_owned()));
        for other in [
            alert("b", 7, "malware-traffic", 1),
            alert("a", 7, "network-scan", 1),
            alert("a", 7, "malware-traffic", 3),
        ] {
            assert_eq!(wanted(&other), None, "{other:?}");
        }
        let mut by_sid = limits("[[snapshot]]\non=\"alert\"\nsid=8");
        assert_eq!(by_sid.wanted(&alert("a", 7, "x", 1), Instant::now()), None);
        assert!(by_sid.wanted(&alert("a", 8, "x", 1), Instant::now()).is_some());
    }

    #[test]
    fn a_flood_of_alerts_is_one_snapshot_a_domain() {
        let mut limits = limits("[[snapshot]]\non=\"alert\"\nevery=\"30s\"");
        let begun = Instant::now();
        let mut at = |seconds: u64, domain: &str| {
            limits.wanted(&alert(domain, 7, "x", 1), begun + Duration::from_secs(seconds)).is_some()
        };
        assert!(at(0, "a") && !at(1, "a") && at(1, "b") && !at(29, "a") && at(30, "a") && !at(31, "a"));
    }
}
