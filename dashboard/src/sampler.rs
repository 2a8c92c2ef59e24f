//! The house as it was a moment ago: asked for every few seconds, whoever looks or not, so that a page never waits for the supervisor
//! and a processor's load has a past.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::supervisor::{LOOK, Supervisor};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(3);
/// Looks that are remembered of each domain: three minutes.
const HISTORY_MAX: usize = 60;
/// Domains of one look; the supervisor has no more.
const DOMAINS_MAX: usize = 256;
/// Two looks closer than this say nothing about the load between them: the kernel counts in hundredths of a second.
const LOAD_SPAN_MIN: Duration = Duration::from_millis(500);

/// A domain, as `list` has it.
#[derive(Debug, Clone, Deserialize)]
pub struct DomainRow {
    /// Its name.
    pub name: String,
    /// Its number.
    pub domid: u32,
    #[serde(default)]
    mem_mib: u64,
    #[serde(default)]
    vcpus: u32,
    #[serde(default)]
    state: String,
    #[serde(default)]
    time_s: f64,
    #[serde(default)]
    uptime_s: Option<f64>,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    macs: Vec<String>,
}

/// A domain as the overview shows it.
#[derive(Debug, Clone, Serialize)]
struct DomainView<'a> {
    name: &'a str,
    domid: u32,
    mem_mib: u64,
    vcpus: u32,
    state: &'a str,
    state_words: Vec<&'static str>,
    time_s: f64,
    uptime_s: Option<f64>,
    address: Option<&'a str>,
    macs: &'a [String],
    cpu_percent: Option<f64>,
    cpu_history: Vec<f64>,
}

#[derive(Debug, Default)]
struct Past {
    // Time of the look and processor time then.
    last: Option<(Instant, f64)>,
    load: VecDeque<f64>,
}

#[derive(Debug, Default)]
struct Seen {
    domains: Vec<DomainRow>,
    past: HashMap<u32, Past>,
    info: Value,
    switch: Value,
    at: Option<Timestamp>,
    error: Option<String>,
}

/// What was seen last.
#[derive(Debug, Default)]
pub struct Sampler {
    // Locked for short looks and changes, never over a request.
    seen: Mutex<Seen>,
    look_now: Notify,
}

impl Sampler {
    /// Looks for ever.
    pub async fn run(self: Arc<Sampler>, supervisor: Arc<Supervisor>) {
        loop {
            self.look(&supervisor).await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.look_now.notified() => {}
            }
        }
    }

    /// Something was changed: the next look is now.
    pub fn look_now(&self) {
        self.look_now.notify_one();
    }

    /// What the overview shows.
    pub fn view(&self) -> Value {
        let seen = self.seen();
        let domains: Vec<DomainView> = seen.domains.iter().map(|row| view(row, &seen.past)).collect();
        json!({
            "at": seen.at,
            "error": seen.error,
            "domains": domains,
            "info": seen.info,
            "switch": seen.switch,
        })
    }

    async fn look(&self, supervisor: &Supervisor) {
        let (list, info, net) = (json!({ "op": "list" }), json!({ "op": "info" }), json!({ "op": "net" }));
        let (list, info, switch) = tokio::join!(
            supervisor.ask(&list, LOOK),
            supervisor.ask(&info, LOOK),
            supervisor.ask(&net, LOOK)
        );
        let mut seen = self.seen();
        match (list, info) {
            (Ok(list), Ok(info)) => {
                seen.take(list, Instant::now());
                seen.info = info;
                // netwatch may be between two lives; the rest is known all the same.
                seen.switch = switch.unwrap_or_default();
                seen.at = Some(Timestamp::now());
                seen.error = None;
            }
            (Err(error), _) | (_, Err(error)) => seen.error = Some(events::sentence(&error)),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn take(&mut self, list: Value, now: Instant) {
        let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let rows = rows.iter().take(DOMAINS_MAX).filter_map(|row| DomainRow::deserialize(row).ok());
        self.domains = rows.collect();
        let domains = &self.domains;
        self.past.retain(|domid, _| domains.iter().any(|row| row.domid == *domid));
        for row in domains {
            let past = self.past.entry(row.domid).or_default();
            past.take(row.time_s, now);
        }
    }
}

impl Past {
    fn take(&mut self, time_s: f64, now: Instant) {
        let Some((then, before_s)) = self.last else {
            self.last = Some((now, time_s));
            return;
        };
        let span = now.duration_since(then);
        if span < LOAD_SPAN_MIN {
            return;
        }
        let load = 100.0 * (time_s - before_s) / span.as_secs_f64();
        // A restarted process counts from nothing again.
        self.load.push_back(if load.is_finite() { load.max(0.0) } else { 0.0 });
        if self.load.len() > HISTORY_MAX {
            self.load.pop_front();
        }
        self.last = Some((now, time_s));
    }
}

fn view<'a>(row: &'a DomainRow, past: &HashMap<u32, Past>) -> DomainView<'a> {
    let load = past.get(&row.domid).map(|past| past.load.iter().copied().collect()).unwrap_or_default();
    let load: Vec<f64> = load;
    DomainView {
        name: &row.name,
        domid: row.domid,
        mem_mib: row.mem_mib,
        vcpus: row.vcpus,
        state: &row.state,
        state_words: words(&row.state),
        time_s: row.time_s,
        uptime_s: row.uptime_s,
        address: row.address.as_deref(),
        macs: &row.macs,
        cpu_percent: load.last().copied(),
        cpu_history: load,
    }
}

/// xl's state letters in words (xl(1), "list").
fn words(state: &str) -> Vec<&'static str> {
    let word = |letter| match letter {
        'r' => Some("running"),
        'b' => Some("idle"),
        'p' => Some("paused"),
        's' => Some("shut down"),
        'c' => Some("crashed"),
        'd' => Some("dying"),
        _ => None,
    };
    state.chars().take(6).filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(time_s: f64) -> Value {
        json!([{ "name": "web", "domid": 3, "mem_mib": 256, "vcpus": 1, "state": "r-----", "time_s": time_s,
                 "address": "10.77.0.2", "macs": [], "pid": 1, "uuid": "x" }, "nonsense", { "name": 3 }])
    }

    #[test]
    fn load_is_processor_time_over_time_between_looks() {
        let start = Instant::now();
        let mut seen = Seen::default();
        seen.take(list(10.0), start);
        seen.take(list(11.0), start + Duration::from_secs(4));
        seen.take(list(11.0), start + Duration::from_secs(4));
        seen.take(list(0.5), start + Duration::from_secs(8));
        assert_eq!(seen.domains.len(), 1);
        let view = view(&seen.domains[0], &seen.past);
        assert_eq!(view.cpu_history, [25.0, 0.0]);
        assert_eq!((view.cpu_percent, view.state_words), (Some(0.0), vec!["running"]));
    }

    #[test]
    fn the_past_is_bounded_and_goes_with_its_domain() {
        let start = Instant::now();
        let mut seen = Seen::default();
        for n in 0..3 * HISTORY_MAX as u32 {
            seen.take(list(f64::from(n)), start + INTERVAL * n);
        }
        assert_eq!(seen.past[&3].load.len(), HISTORY_MAX);
        seen.take(json!({}), start);
        assert!(seen.past.is_empty() && seen.domains.is_empty());
    }

    #[test]
    fn state_letters_are_xls() {
        assert_eq!(words("-b----"), ["idle"]);
        assert_eq!(words("--p---"), ["paused"]);
        assert_eq!(words("---s--"), ["shut down"]);
        assert_eq!(words("zzzzzzzzr"), [""; 0]);
    }
}
