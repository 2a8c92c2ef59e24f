//! Commands that look into a running guest. Its observer answers on our connection.

use std::io::{self, Write};

use introspect::observer::Request as Question;
use serde_json::Value;

use super::args::Trace;
use super::domains::Printer;
use super::{Connection, Failure};
use crate::supervisor::protocol::Request;

/// `trace`: until it is interrupted, or the domain is gone.
pub fn trace(mut connection: Connection, out: &Printer, wanted: Trace) -> Result<(), Failure> {
    let question = Question::Trace { calls: wanted.expression, pid: wanted.pid };
    connection.request(&Request::Observe { name: wanted.name, question })?;
    let mut stdout = io::stdout().lock();
    while let Some(line) = connection.line()? {
        if out.json {
            write!(stdout, "{line}")?;
        } else {
            print(&mut stdout, &serde_json::from_str(&line)?)?;
        }
        stdout.flush()?;
    }
    Ok(())
}

fn print(out: &mut impl Write, call: &Value) -> io::Result<()> {
    if let Some(lost) = call["lost"].as_u64() {
        return writeln!(out, "[{lost} calls were not shown: this terminal is too slow]");
    }
    let seconds = call["time_ns"].as_u64().unwrap_or(0) as f64 / 1e9;
    let (tid, line) = (&call["tid"], call["line"].as_str().unwrap_or(""));
    writeln!(out, "[pid {tid}] {seconds:.6} {line}")
}

/// `ps`, with the columns of `ps -eo`.
pub fn ps(answer: &Value, out: &Printer) -> Result<(), Failure> {
    if out.json {
        return out.tree(answer);
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{:>7} {:>7} {:>6} S {:<8} COMMAND", "PID", "PPID", "UID", "TTY")?;
    for task in answer["processes"].as_array().into_iter().flatten() {
        let arguments = task["command_line"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let arguments: Vec<&str> = arguments.collect();
        let comm = task["comm"].as_str().unwrap_or("");
        // As ps shows a task that has no command line.
        let command = if arguments.is_empty() { format!("[{comm}]") } else { arguments.join(" ") };
        let tty = task["tty"].as_str().unwrap_or("?");
        let state = task["state"].as_str().unwrap_or("?");
        let (pid, ppid, uid) = (&task["tgid"], &task["ppid"], &task["rights"]["uid"]);
        let (pid, ppid, uid) = (pid.to_string(), ppid.to_string(), uid.to_string());
        writeln!(stdout, "{pid:>7} {ppid:>7} {uid:>6} {state} {tty:<8} {}", plain(&command))?;
    }
    if let Some(why) = answer["incomplete"].as_str() {
        writeln!(stdout, "There may be more: {why}")?;
    }
    Ok(())
}

/// An intruder's text without what a terminal would obey.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
