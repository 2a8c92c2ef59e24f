//! Commands about domains, and how their answers are printed.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use serde_json::{Value, json};

use super::args::Create;
use super::{Connection, Failure, console};
use crate::state::State;
use crate::supervisor::protocol::{self, Request};
use crate::supervisor::remove_left_over;

/// How often `shutdown -w` looks whether the domain is gone.
const GONE_INTERVAL: Duration = Duration::from_millis(100);
/// How long everything may take to go.
const DOWN_TIMEOUT: Duration = Duration::from_secs(60);

/// Prints answers.
pub struct Printer {
    /// As JSON, as they came.
    pub json: bool,
}

impl Printer {
    /// Prints nothing but, where asked for, the JSON.
    pub fn done(&self, answer: &Value) -> Result<(), Failure> {
        if self.json {
            print(&format!("{answer}\n"))?;
        }
        Ok(())
    }

    /// xl's list.
    pub fn list(&self, rows: &Value) -> Result<(), Failure> {
        if self.json {
            return self.done(rows);
        }
        let mut text =
            String::from("Name                                        ID   Mem VCPUs\tState\tTime(s)\n");
        for row in rows.as_array().into_iter().flatten() {
            text.push_str(&format!(
                "{:<40} {:>5} {:>5} {:>5}     {}  {:>8.1}\n",
                row["name"].as_str().unwrap_or("?"),
                row["domid"],
                row["mem_mib"],
                row["vcpus"],
                row["state"].as_str().unwrap_or("------"),
                row["time_s"].as_f64().unwrap_or(0.0),
            ));
        }
        print(&text)
    }

    /// Pools, and below each who has which clone.
    pub fn pools(&self, pools: &Value) -> Result<(), Failure> {
        if self.json {
            return self.done(pools);
        }
        let mut text = String::new();
        for pool in pools.as_array().into_iter().flatten() {
            text.push_str(&format!(
                "{}  {}  {} of {} clones taken, {} parked\n",
                pool["pool"].as_str().unwrap_or("?"),
                pool["address"].as_str().unwrap_or("?"),
                pool["taken"],
                pool["clones_max"],
                pool["parked"],
            ));
            for clone in pool["clones"].as_array().into_iter().flatten() {
                text.push_str(&format!(
                    "  {:<40} {:<32} {:>7.0} s, silent for {:.0} s\n",
                    clone["source"].as_str().unwrap_or("?"),
                    clone["clone"].as_str().unwrap_or("?"),
                    clone["age_s"].as_f64().unwrap_or(0.0),
                    clone["idle_s"].as_f64().unwrap_or(0.0),
                ));
            }
        }
        print(&text)
    }

    /// xl's vcpu-list. Vcpus are not bound to cpus, so their affinities are all of them.
    pub fn vcpus(&self, rows: &Value) -> Result<(), Failure> {
        if self.json {
            return self.done(rows);
        }
        let mut text = format!(
            "{:<32} {:>5} {:>5} {:>5} {:>5} {:>9} Affinity (Hard / Soft)\n",
            "Name", "ID", "VCPU", "CPU", "State", "Time(s)"
        );
        for row in rows.as_array().into_iter().flatten() {
            let letter =
                |key: &str, letter: char| if row[key].as_bool() == Some(true) { letter } else { '-' };
            let online = row["online"].as_bool() == Some(true);
            let (cpu, state) = match (online, row["cpu"].as_u64()) {
                (true, Some(cpu)) => {
                    let blocked =
                        row["running"].as_bool() == Some(false) && row["paused"].as_bool() == Some(false);
                    let state =
                        [letter("running", 'r'), if blocked { 'b' } else { '-' }, letter("paused", 'p')];
                    (cpu.to_string(), String::from_iter(state))
                }
                _ => ("-".to_owned(), "--p".to_owned()),
            };
            text.push_str(&format!(
                "{:<32} {:>5} {:>5} {:>5}   {} {:>9.1}  all / all\n",
                row["name"].as_str().unwrap_or("?"),
                row["domid"],
                row["vcpu"],
                cpu,
                state,
                row["time_s"].as_f64().unwrap_or(0.0),
            ));
        }
        print(&text)
    }

    /// An array of lines.
    pub fn lines(&self, lines: &Value) -> Result<(), Failure> {
        if self.json {
            return self.done(lines);
        }
        let lines = lines.as_array().into_iter().flatten().filter_map(Value::as_str);
        print(&lines.flat_map(|line| [line, "\n"]).collect::<String>())
    }

    /// A report that brings its own text; a failure where it is not clean.
    pub fn report(&self, answer: &Value) -> Result<(), Failure> {
        match self.json {
            true => self.done(&answer["report"])?,
            false => print(answer["text"].as_str().unwrap_or_default())?,
        }
        match answer["clean"].as_bool() {
            Some(true) => Ok(()),
            _ => Err(Failure::new("the disk differs from its baseline")),
        }
    }

    /// Names and values, indented where they are inside each other.
    pub fn tree(&self, answer: &Value) -> Result<(), Failure> {
        if self.json {
            return self.done(answer);
        }
        let mut text = String::new();
        write_tree(&mut text, answer, 0);
        print(&text)
    }
}

fn write_tree(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let mut entry = |key: &str, value: &Value| match value {
        Value::Object(_) | Value::Array(_) => {
            text.push_str(&format!("{indent}{key}:\n"));
            write_tree(text, value, depth + 1);
        }
        Value::String(string) => text.push_str(&format!("{indent}{key}: {}\n", string.escape_debug())),
        other => text.push_str(&format!("{indent}{key}: {other}\n")),
    };
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| entry(key, value)),
        Value::Array(entries) => {
            entries.iter().enumerate().for_each(|(index, value)| entry(&index.to_string(), value))
        }
        Value::String(string) => string.lines().for_each(|line| text.push_str(&format!("{indent}{line}\n"))),
        other => text.push_str(&format!("{indent}{other}\n")),
    }
}

/// Prints to standard output. `println!` panics where the reader of a pipe has gone; that is no failure of ours.
pub fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// `create`.
pub fn create(state: &State, honeynet: &Path, out: &Printer, create: Create) -> Result<(), Failure> {
    let path = &create.domain_file;
    let file = std::fs::read_to_string(path);
    let file = file.map_err(|error| Failure::new(format!("{} cannot be read: {error}", path.display())))?;
    let named = |error: &dyn std::error::Error| Failure::new(format!("{}: {error}", path.display()));
    // Looked at here as well, so that a wrong file starts no supervisor, and the sentence names it.
    let parsed = crate::domain_file::parse(&file).map_err(|error| named(&error))?;
    for warning in &parsed.warnings {
        eprintln!("honeynet: {}: warning: {warning}", path.display());
    }
    let mut connection = Connection::open_or_start(state, honeynet)?;
    let request = protocol::Create { file, folder: std::env::current_dir()?, paused: create.paused };
    let row = connection.request(&Request::Create(request))?;
    out.done(&row)?;
    if create.console {
        let name = row["domid"].to_string();
        return console::attach(connection, name);
    }
    Ok(())
}

/// `shutdown`, waiting where a name is given.
pub fn ask_to_go(
    state: &State,
    out: &Printer,
    request: Request,
    wait: Option<String>,
) -> Result<(), Failure> {
    let mut connection = Connection::open(state)?;
    // The number stays its own; the name may be another domain's after a restart.
    let domid = match &wait {
        Some(name) => connection.request(&Request::List { name: Some(name.clone()) })?[0]["domid"].as_u64(),
        None => None,
    };
    let answer = connection.request(&request)?;
    if let Some(domid) = domid {
        while is_there(&mut connection, domid)? {
            std::thread::sleep(GONE_INTERVAL);
        }
    }
    out.done(&answer)
}

fn is_there(connection: &mut Connection, domid: u64) -> Result<bool, Failure> {
    let rows = connection.request(&Request::List { name: None })?;
    let mut rows = rows.as_array().into_iter().flatten();
    let row = rows.find(|row| row["domid"].as_u64() == Some(domid));
    Ok(row.is_some_and(|row| !row["state"].as_str().is_some_and(|state| state.contains(['s', 'c']))))
}

/// `down`.
pub fn down(state: &State, out: &Printer) -> Result<(), Failure> {
    let was_up = take_down(state)?;
    out.done(&json!({ "was_up": was_up }))
}

/// Asks the supervisor to take everything down and waits until it is gone; false where none runs.
pub fn take_down(state: &State) -> Result<bool, Failure> {
    // The supervisor holds its lock as long as it lives.
    let lock = match File::open(state.lock()) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let Some(mut connection) = Connection::try_open(state)? else {
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove_left_over(state)?;
        }
        return Ok(false);
    };
    connection.request(&Request::Down)?;
    let begun = Instant::now();
    while begun.elapsed() < DOWN_TIMEOUT {
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
            return Ok(true);
        }
        std::thread::sleep(GONE_INTERVAL);
    }
    Err(Failure::new(format!("the supervisor is still there after {} s", DOWN_TIMEOUT.as_secs())))
}
