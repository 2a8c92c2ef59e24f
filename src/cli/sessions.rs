//! `sessions` and `play`: what the observers have written of intruders' sessions. Neither needs a running honeynet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::time::Duration;

use introspect::session::report::Report;
use serde_json::{Value, json};

use super::Failure;
use super::args::{Play, Sessions};
use super::domains::Printer;
use super::introspection::plain;
use crate::state::State;

/// The longest line of a recording.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// `sessions`.
pub fn list(state: &State, out: &Printer, wanted: &Sessions) -> Result<(), Failure> {
    if let Some(id) = &wanted.session {
        let report = read(state, id)?;
        return match (wanted.cowrie, out.json) {
            (true, _) => cowrie(&report),
            _ => out.tree(&serde_json::to_value(&report)?),
        };
    }
    let mut reports = all(state)?;
    reports.retain(|report| wanted.domain.as_ref().is_none_or(|domain| *domain == report.domain));
    if wanted.cowrie {
        return reports.iter().try_for_each(cowrie);
    }
    if out.json {
        return out.tree(&serde_json::to_value(&reports)?);
    }
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{:<16} {:<20} {:>8}  {:<15} {:<12} {:<12} {:>8}",
        "Session", "Opened", "Seconds", "From", "Domain", "User", "Commands"
    )?;
    for report in &reports {
        let user = report.logins.iter().find(|login| login.success).map_or("-", |login| &login.user);
        let seconds = report.closed.map_or_else(
            || "lives".to_owned(),
            |closed| format!("{:.0}", closed.duration_since(report.opened).as_secs_f64()),
        );
        writeln!(
            stdout,
            "{:<16} {:<20} {seconds:>8}  {:<15} {:<12} {:<12} {:>8}",
            report.id,
            format!("{:.0}", report.opened),
            report.src_ip,
            plain(&report.domain),
            plain(user),
            report.processes.len()
        )?;
    }
    Ok(())
}

/// `play`: to the terminal, with the recording's own timing.
pub fn play(state: &State, wanted: &Play) -> Result<(), Failure> {
    let report = read(state, &wanted.session)?;
    let tty = match wanted.tty {
        Some(number) => number.checked_sub(1).and_then(|index| report.tty.get(index)),
        None => report.tty.iter().max_by_key(|tty| tty.bytes_shown),
    };
    let tty =
        tty.ok_or_else(|| Failure::with_code(format!("session {} has no such recording", report.id), 3))?;
    if !(wanted.speed > 0.0 && wanted.idle >= 0.0) {
        return Err(Failure::with_code("speed must be more than 0, and idle not less than 0", 2));
    }
    let file = File::open(state.tty().join(&tty.name))?;
    let mut lines = BufReader::new(file);
    let mut stdout = io::stdout().lock();
    let (mut line, mut at) = (Vec::new(), 0.0);
    loop {
        line.clear();
        if io::Read::take(&mut lines, LINE_BYTES_MAX).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        // The head is an object; only what was shown is played.
        let Ok(Value::Array(event)) = serde_json::from_slice(&line) else {
            continue;
        };
        let [time, kind, text] = &event[..] else {
            continue;
        };
        if kind != "o" {
            continue;
        }
        let time = time.as_f64().unwrap_or(at);
        let pause = (time - at).clamp(0.0, wanted.idle.max(0.0)) / wanted.speed;
        at = time;
        std::thread::sleep(Duration::try_from_secs_f64(pause).unwrap_or_default());
        stdout.write_all(text.as_str().unwrap_or("").as_bytes())?;
        stdout.flush()?;
    }
    // Whatever the intruder's programs did to the terminal ends here: attributes, modes, character sets.
    stdout.write_all(b"\x1b[0m\x1b[?25h\x1b[?1049l\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1006l\x0f\r\n")?;
    Ok(())
}

fn all(state: &State) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::new();
    let entries = match std::fs::read_dir(state.sessions()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(reports),
        Err(error) => return Err(error.into()),
    };
    for entry in entries {
        let path = entry?.path();
        let whole = path.extension().is_some_and(|extension| extension == "json");
        if whole && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            reports.push(parse(&path)?);
        }
    }
    reports.sort_by(|a, b| (a.opened, &a.id).cmp(&(b.opened, &b.id)));
    Ok(reports)
}

fn read(state: &State, id: &str) -> Result<Report, Failure> {
    let path = state.sessions().join(format!("{id}.json"));
    if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) || !path.exists() {
        return Err(Failure::with_code(format!("there is no session {id}"), 3));
    }
    parse(&path)
}

fn parse(path: &PathBuf) -> Result<Report, Failure> {
    let bytes = std::fs::read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure::new(format!("{} is damaged: {error}", path.display())))
}

/// Cowrie's `eventid` lines (its docs/OUTPUT.rst), in the order in which they happened.
fn cowrie(report: &Report) -> Result<(), Failure> {
    let mut lines: Vec<(jiff::Timestamp, Value)> = Vec::new();
    // Cowrie knows the first two.
    let protocol = match report.service.as_str() {
        service if service.contains("telnet") => "telnet",
        service if service.contains("ftpd") => "ftp",
        _ => "ssh",
    };
    let base = |eventid: &str, time: jiff::Timestamp| {
        json!({
            "eventid": eventid, "timestamp": format!("{time:.6}"), "session": report.id, "src_ip": report.src_ip,
            "sensor": report.domain, "protocol": protocol,
        })
    };
    let mut push = |eventid: &str, time: jiff::Timestamp, more: Value| {
        let mut line = base(eventid, time);
        if let (Some(line), Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        lines.push((time, line));
    };
    push("cowrie.session.connect", report.opened, json!({ "src_port": report.src_port }));
    for login in &report.logins {
        let id = if login.success { "cowrie.login.success" } else { "cowrie.login.failed" };
        push(id, login.time, json!({ "username": login.user, "password": login.password }));
    }
    for input in &report.inputs {
        push("cowrie.command.input", input.time, json!({ "input": input.text }));
    }
    for sample in &report.samples {
        push(
            "cowrie.session.file_download",
            sample.time,
            json!({ "shasum": sample.sha256, "destfile": sample.path }),
        );
    }
    for tty in &report.tty {
        let time = report.closed.unwrap_or(report.opened);
        push("cowrie.log.closed", time, json!({ "ttylog": tty.name, "size": tty.bytes_shown }));
    }
    if let Some(closed) = report.closed {
        let seconds = closed.duration_since(report.opened).as_secs_f64();
        push("cowrie.session.closed", closed, json!({ "duration": seconds }));
    }
    lines.sort_by_key(|(time, _)| *time);
    let mut stdout = io::stdout().lock();
    lines.iter().try_for_each(|(_, line)| writeln!(stdout, "{line}"))?;
    Ok(())
}
