//! `trace`: a domain's system calls as they happen, in lines or as a capture of sysdig's. Its observer answers on our connection.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use introspect::observer::{Form, Request as Question};
use introspect::trace::scap::whole_blocks;
use serde_json::Value;

use super::args::Trace;
use super::domains::Printer;
use super::{Connection, Failure};
use crate::supervisor::protocol::Request;

/// The longest block of a capture; the lists that it begins with are the longest.
const BLOCK_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Until its time is over, it is interrupted, or the domain is gone.
pub fn trace(mut connection: Connection, out: &Printer, wanted: Trace) -> Result<(), Failure> {
    let form = if wanted.scap.is_some() { Form::Scap } else { Form::Lines };
    let question = Question::Trace { form, calls: wanted.expression, pid: wanted.pid };
    connection.request(&Request::Observe { name: wanted.name, question })?;
    if let Some(seconds) = wanted.seconds {
        connection.end_after(Duration::from_secs(seconds));
    }
    match wanted.scap {
        Some(path) => record(connection, &path),
        None => print(connection, out),
    }
}

fn print(mut connection: Connection, out: &Printer) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    while let Some(line) = connection.line()? {
        if out.json {
            write!(stdout, "{line}")?;
        } else {
            print_call(&mut stdout, &serde_json::from_str(&line)?)?;
        }
        stdout.flush()?;
    }
    Ok(())
}

fn print_call(out: &mut impl Write, call: &Value) -> io::Result<()> {
    if let Some(lost) = call["lost"].as_u64() {
        return writeln!(out, "[{lost} calls were not shown: this terminal is too slow]");
    }
    let seconds = call["time_ns"].as_u64().unwrap_or(0) as f64 / 1e9;
    let (tid, line) = (&call["tid"], call["line"].as_str().unwrap_or(""));
    writeln!(out, "[pid {tid}] {seconds:.6} {line}")
}

/// Whole blocks only, each lot by one write(2): whenever this process ends, what it leaves can be read to its end.
fn record(mut connection: Connection, path: &Path) -> Result<(), Failure> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    let (mut kept, mut bytes) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let count = connection.read(&mut bytes)?;
        if count == 0 {
            return Ok(());
        }
        kept.extend_from_slice(&bytes[..count]);
        let whole =
            whole_blocks(&kept).ok_or_else(|| Failure::new("what the observer sent is no capture"))?;
        file.write_all(&kept[..whole])?;
        kept.drain(..whole);
        if kept.len() > BLOCK_BYTES_MAX {
            return Err(Failure::new("what the observer sent is no capture: a block has no end"));
        }
    }
}
