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
    more(&mut stdout, answer)
}

/// `lsof`, with its columns.
pub fn lsof(answer: &Value, out: &Printer) -> Result<(), Failure> {
    if out.json {
        return out.tree(answer);
    }
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{:<16} {:>7} {:>6} {:>5} {:<10} {:>12} {:>9} NAME",
        "COMMAND", "PID", "UID", "FD", "TYPE", "SIZE/OFF", "NODE"
    )?;
    for row in rows(answer, "files") {
        let file = &row["file"];
        let fd = format!("{}{}", file["fd"], word(&file["access"]));
        let (comm, name) = (plain(word(&row["comm"])), plain(word(&file["name"])));
        let (pid, uid, size, inode) =
            (number(&row["pid"]), number(&row["uid"]), number(&file["size"]), number(&file["inode"]));
        writeln!(
            stdout,
            "{comm:<16} {pid:>7} {uid:>6} {fd:>5} {:<10} {size:>12} {inode:>9} {name}",
            word(&file["file_type"])
        )?;
    }
    more(&mut stdout, answer)
}

/// `netstat -anp`, with its columns.
pub fn netstat(answer: &Value, out: &Printer) -> Result<(), Failure> {
    if out.json {
        return out.tree(answer);
    }
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{:<8} {:>6} {:>6} {:<26} {:<26} {:<12} PID/Program",
        "Proto", "Recv-Q", "Send-Q", "Local Address", "Foreign Address", "State"
    )?;
    for socket in rows(answer, "sockets") {
        let end = |end: &Value| match (end["address"].as_str(), end["port"].as_u64()) {
            (Some(address), Some(port)) => format!("{address}:{port}"),
            _ => String::new(),
        };
        let local = socket["path"].as_str().map_or_else(|| end(&socket["local"]), plain);
        let owners =
            rows(socket, "owners").map(|owner| format!("{}/{}", owner["pid"], plain(word(&owner["comm"]))));
        let owners: Vec<String> = owners.collect();
        writeln!(
            stdout,
            "{:<8} {:>6} {:>6} {local:<26} {:<26} {:<12} {}",
            word(&socket["protocol"]),
            number(&socket["receive_queue"]),
            number(&socket["send_queue"]),
            end(&socket["remote"]),
            word(&socket["state"]),
            owners.join(" ")
        )?;
    }
    more(&mut stdout, answer)
}

/// `lsmod`, with its columns.
pub fn modules(answer: &Value, out: &Printer) -> Result<(), Failure> {
    if out.json {
        return out.tree(answer);
    }
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{:<24} {:>8}  Used by", "Module", "Size")?;
    for module in rows(answer, "modules") {
        let used: Vec<&str> = rows(module, "used_by").filter_map(Value::as_str).collect();
        let (name, used) = (plain(word(&module["name"])), plain(&used.join(",")));
        writeln!(stdout, "{name:<24} {:>8}  {} {used}", number(&module["size"]), module["references"])?;
    }
    more(&mut stdout, answer)
}

/// `dmesg`.
pub fn dmesg(answer: &Value, out: &Printer) -> Result<(), Failure> {
    if out.json {
        return out.tree(answer);
    }
    let mut stdout = io::stdout().lock();
    for record in rows(answer, "records") {
        let seconds = record["time_ns"].as_u64().unwrap_or(0) as f64 / 1e9;
        writeln!(stdout, "[{seconds:>12.6}] {}", plain(word(&record["text"])))?;
    }
    more(&mut stdout, answer)
}

fn rows<'a>(answer: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    answer[name].as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn more(stdout: &mut impl Write, answer: &Value) -> Result<(), Failure> {
    if let Some(why) = answer["incomplete"].as_str() {
        writeln!(stdout, "There may be more: {why}")?;
    }
    Ok(())
}

/// An intruder's text without what a terminal would obey.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
