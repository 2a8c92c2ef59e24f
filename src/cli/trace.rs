//! `trace`: a domain's system calls as they happen. Its observer answers on our connection.

use std::io::{self, Write};

use introspect::observer::Request as Question;
use serde_json::Value;

use super::args::Trace;
use super::domains::Printer;
use super::{Connection, Failure};
use crate::supervisor::protocol::Request;

/// Until it is interrupted, or the domain is gone.
pub fn trace(mut connection: Connection, out: &Printer, wanted: Trace) -> Result<(), Failure> {
    let question = Question::Trace { calls: wanted.expression, pid: wanted.pid };
    connection.request(&Request::Observe { name: wanted.name, question })?;
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
