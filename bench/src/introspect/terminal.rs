//! 100 MB on a terminal of one session: what a real client received, what the session says was shown, and what lies in the recording
//! must be as many bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::COMMAND_LIMIT;
use crate::honeynet::{ADDRESS, Honeynet};
use crate::sample::Samples;

const BYTES: u64 = 100_000_000;
/// After its end a session is written within a second.
const CLOSED_LIMIT: Duration = Duration::from_secs(60);

/// Adds the bytes by which they differ, and MB/s.
pub fn measure(honeynet: &Honeynet, samples: &mut Samples) -> anyhow::Result<()> {
    eprintln!("bench: 100 MB on a terminal");
    let mut command = ssh(honeynet, &["-tt"], &format!("head -c {BYTES} /dev/zero | tr '\\0' x"));
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().context("ssh cannot be run")?;
    let received = count(child.stdout.take().context("ssh has no output")?);
    let status = child.wait()?;
    let received = received?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(status.success() && received >= BYTES, "ssh: {status}, {received} bytes came");
    let tty = recording(honeynet)?;
    let shown = tty["bytes_shown"].as_u64().unwrap_or(0);
    let name = tty["name"].as_str().context("a recording has a name")?;
    let written = written(File::open(honeynet.state().join("tty").join(name))?)?;
    eprintln!("bench: {received} bytes came, {shown} were shown, {written} are in the recording");
    samples.add("terminal lost", received.abs_diff(shown).max(received.abs_diff(written)) as f64);
    samples.add("terminal rate", received as f64 / 1e6 / seconds);
    Ok(())
}

/// A client in the honeynet's namespace.
pub fn ssh(honeynet: &Honeynet, options: &[&str], words: &str) -> Command {
    let target = format!("root@{ADDRESS}");
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &honeynet.namespace, "sshpass", "-p", "bench", "ssh", "-o"])
        .args(["StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
        .args(options)
        .args([target.as_str(), words])
        .stdin(Stdio::null());
    command
}

fn count(mut from: impl Read) -> anyhow::Result<u64> {
    let mut chunk = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(bytes),
            more => bytes += more as u64,
        }
    }
}

/// The longest recording of the newest session, once that is closed.
fn recording(honeynet: &Honeynet) -> anyhow::Result<Value> {
    let deadline = Instant::now() + CLOSED_LIMIT;
    while Instant::now() < deadline {
        let sessions: Value = serde_json::from_str(&honeynet.run(&["sessions", "--json"], COMMAND_LIMIT)?)?;
        let newest = sessions.as_array().and_then(|sessions| sessions.last());
        if let Some(session) = newest.filter(|session| !session["closed"].is_null()) {
            let ttys = session["tty"].as_array().cloned().unwrap_or_default();
            let longest = ttys.into_iter().max_by_key(|tty| tty["bytes_shown"].as_u64());
            return longest.context("the session has no recording");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    bail!("the session did not end within {} s", CLOSED_LIMIT.as_secs())
}

/// Bytes of what was shown, in an asciicast.
fn written(file: File) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for line in BufReader::new(file).lines().skip(1) {
        let event: Value = serde_json::from_str(&line?)?;
        if event[1] == "o" {
            bytes += event[2].as_str().map_or(0, str::len) as u64;
        }
    }
    Ok(bytes)
}
