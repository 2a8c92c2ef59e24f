//! Commands that read what is on disk: doctor, cases, events. None of them needs the supervisor.

use std::path::{Path, PathBuf};

use logsink::{Filter, Store};
use serde_json::json;

use super::Failure;
use super::args::Events;
use super::domains::{Printer, print};
use crate::doctor;
use crate::migration::Identity;
use crate::state::State;

/// What other honeynets know this one by.
pub fn fingerprint(state: &State, out: &Printer) -> Result<(), Failure> {
    let fingerprint = Identity::load_or_make(state)?.fingerprint()?;
    match out.json {
        true => out.done(&json!({ "fingerprint": fingerprint })),
        false => print(&format!("{fingerprint}\n")),
    }
}

/// `doctor`: one line for each thing, and a failure where one is wrong.
pub fn doctor(state: &State, out: &Printer) -> Result<(), Failure> {
    let checks = doctor::examine(state);
    match out.json {
        true => out.done(&json!(checks))?,
        false => {
            let line = |check: &doctor::Check| {
                let word = if check.good { "ok " } else { "BAD" };
                let remedy = check.remedy.as_ref().map(|remedy| format!(" -> {remedy}")).unwrap_or_default();
                format!("{word} {:<13} {}{remedy}\n", check.what, check.found)
            };
            print(&checks.iter().map(line).collect::<String>())?;
        }
    }
    match checks.iter().filter(|check| !check.good).count() {
        0 => Ok(()),
        1 => Err(Failure::new("one thing is wrong with this host")),
        bad => Err(Failure::new(format!("{bad} things are wrong with this host"))),
    }
}

/// `evidence`: the cases.
pub fn evidence(state: &State, out: &Printer) -> Result<(), Failure> {
    let cases = match forensics::case::list(&state.evidence()) {
        Ok(cases) => cases,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let value = serde_json::to_value(&cases)?;
    match out.json {
        true => out.done(&value),
        false => out.tree(&value),
    }
}

/// `verify`: a case by its folder, or by its id.
pub fn verify(state: &State, out: &Printer, case: &str, key: Option<&str>) -> Result<(), Failure> {
    let folder = match Path::new(case).is_dir() {
        true => PathBuf::from(case),
        false => forensics::case::folder(&state.evidence(), case)
            .ok()
            .filter(|folder| folder.is_dir())
            .ok_or_else(|| Failure::with_code(format!("there is no case {case}"), 3))?,
    };
    let folder = folder.canonicalize()?;
    let report = forensics::verify(&folder, key, &|_| {})?;
    match out.json {
        true => out.done(&serde_json::to_value(&report)?)?,
        false if report.is_intact() => {
            print(&format!("{}: intact, {} items\n", report.case, report.items.len()))?
        }
        false => print(&report.problems().iter().flat_map(|line| [line, "\n"]).collect::<String>())?,
    }
    match report.is_intact() {
        true => Ok(()),
        false => Err(Failure::new(format!("case {} is not as it was written", report.case))),
    }
}

/// `events`: the last ones, and with `--follow` those to come.
pub fn events(state: &State, out: &Printer, wanted: Events) -> Result<(), Failure> {
    let path = logsink::store_path(state.root());
    if !path.exists() {
        return Err(Failure::new("there are no events yet: nothing was ever up in this state directory"));
    }
    let filter = Filter {
        event_type: wanted.event_type,
        event_id: wanted.id,
        domain: wanted.domain,
        text: wanted.text,
        limit: Some(wanted.number),
        ..Filter::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open_readonly(&path).await?;
        let last_id = store.last_id().await?;
        let mut rows = store.events(&filter).await?;
        // The store gives the newest first; one reads downwards.
        rows.sort_by_key(|row| row.id);
        rows.iter().try_for_each(|row| show(out, row))?;
        let mut tail = store.tail(last_id);
        if !wanted.follow {
            return Ok(());
        }
        loop {
            let rows = tail.next().await?;
            rows.iter().filter(|row| is_wanted(row, &filter)).try_for_each(|row| show(out, row))?;
        }
    })
}

fn is_wanted(row: &logsink::Row, filter: &Filter) -> bool {
    let json = row.to_json();
    let same = |key: &str, wanted: &Option<String>| {
        wanted.as_ref().is_none_or(|wanted| json[key] == wanted.as_str())
    };
    same("event_type", &filter.event_type)
        && same("event_id", &filter.event_id)
        && same("domain", &filter.domain)
}

fn show(out: &Printer, row: &logsink::Row) -> Result<(), Failure> {
    let json = row.to_json();
    if out.json {
        return out.done(&json);
    }
    let text = |key: &str| json[key].as_str().unwrap_or("-").to_owned();
    let kind = text("event_type");
    let details = json[events::details_key(&kind)].to_string();
    // JSON escapes control characters, so an intruder's bytes do not reach the terminal as such; names are escaped too.
    let line = format!("{} {:<20} {:<16} {details}", text("timestamp"), text("event_id"), text("domain"));
    print(&format!("{}\n", line.replace(|c: char| c.is_control(), "?")))
}
