//! Commands that look into a running guest: what its observer has answered.

use std::io::{self, Write};

use serde_json::Value;

use super::Failure;
use super::domains::Printer;

/// Prints an answer for people.
pub type Table = fn(&mut dyn Write, &Value) -> io::Result<()>;

/// An answer as JSON, or as this table with why there may be more.
pub fn show(answer: &Value, out: &Printer, table: Table) -> Result<(), Failure> {
    if out.json {
        return out.tree(answer);
    }
    let mut stdout = io::stdout().lock();
    table(&mut stdout, answer)?;
    if let Some(why) = answer["incomplete"].as_str() {
        writeln!(stdout, "There may be more: {why}")?;
    }
    Ok(())
}

/// `ps`, with the columns of `ps -eo`.
pub fn ps(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    writeln!(out, "{:>7} {:>7} {:>6} S {:<8} COMMAND", "PID", "PPID", "UID", "TTY")?;
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
        writeln!(out, "{pid:>7} {ppid:>7} {uid:>6} {state} {tty:<8} {}", plain(&command))?;
    }
    Ok(())
}

/// `lsof`, with its columns.
pub fn lsof(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    writeln!(
        out,
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
            out,
            "{comm:<16} {pid:>7} {uid:>6} {fd:>5} {:<10} {size:>12} {inode:>9} {name}",
            word(&file["file_type"])
        )?;
    }
    Ok(())
}

/// `netstat -anp`, with its columns.
pub fn netstat(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    writeln!(
        out,
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
            out,
            "{:<8} {:>6} {:>6} {local:<26} {:<26} {:<12} {}",
            word(&socket["protocol"]),
            number(&socket["receive_queue"]),
            number(&socket["send_queue"]),
            end(&socket["remote"]),
            word(&socket["state"]),
            owners.join(" ")
        )?;
    }
    Ok(())
}

/// `lsmod`, with its columns.
pub fn modules(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    writeln!(out, "{:<24} {:>8}  Used by", "Module", "Size")?;
    for module in rows(answer, "modules") {
        let used: Vec<&str> = rows(module, "used_by").filter_map(Value::as_str).collect();
        let (name, used) = (plain(word(&module["name"])), plain(&used.join(",")));
        writeln!(out, "{name:<24} {:>8}  {} {used}", number(&module["size"]), module["references"])?;
    }
    Ok(())
}

/// `dmesg`.
pub fn dmesg(out: &mut dyn Write, answer: &Value) -> io::Result<()> {
    for record in rows(answer, "records") {
        let seconds = record["time_ns"].as_u64().unwrap_or(0) as f64 / 1e9;
        writeln!(out, "[{seconds:>12.6}] {}", plain(word(&record["text"])))?;
    }
    Ok(())
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

/// An intruder's text without what a terminal would obey.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
