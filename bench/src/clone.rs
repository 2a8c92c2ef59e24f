//! `bench clone`: how soon a clone of a warm Debian decoy answers a stranger, what an idle one takes, and how many live side by side. The peers'
//! figures are their own: Cowrie's pool boots a machine in 17 s, and has five of 512 MB.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use netwatch::netns;
use serde_json::Value;

use crate::decoy::{self, wait_for_banner};
use crate::honeynet::{ADDRESS, COMMAND_LIMIT, Honeynet, decoy_domain};
use crate::project;
use crate::sample::{Samples, milliseconds};
use crate::table::{Must, Row};

/// Clones of each kind that are timed, one after the other.
const TIMED: usize = 100;
/// Clones that live side by side.
const CROWD: usize = 300;
/// Made by one command.
const AT_ONCE: usize = 50;
const BANNER_LIMIT: Duration = Duration::from_secs(120);
/// After the banner the rest of the units start.
const SETTLE: Duration = Duration::from_secs(8);
/// One attempt, and all of them.
const CONNECT_LIMIT: Duration = Duration::from_millis(50);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Processes wait for the next clone again.
const BETWEEN: Duration = Duration::from_millis(300);
/// How long idle clones are watched.
const WATCHED: Duration = Duration::from_secs(30);
const NAME: &str = "decoy";

/// Runs the bench.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let decoy = decoy::build(&project::root().join("decoys/recipes/ssh-server.toml"))?;
    let honeynet = Honeynet::start()?;
    let domain = honeynet.create(NAME, &decoy_domain(&decoy, "", &[]))?;
    wait_for_banner(&honeynet.namespace, ADDRESS, BANNER_LIMIT)?;
    std::thread::sleep(SETTLE);
    let taken: Value = serde_json::from_str(&domain.tell_json("snapshot")?)?;
    let id = taken["id"].as_str().context("a snapshot has an id")?;
    drop(domain);
    let mut samples = Samples::default();
    from_file(&honeynet, id, &mut samples)?;
    from_parked(&honeynet, id, &mut samples)?;
    let mut rows = Vec::new();
    for (name, what) in [("parked", "clone to first SYN-ACK, from parked"), ("file", "the same, from file")] {
        let (middle, late) = (samples.percentile(name, 50.0)?, samples.percentile(name, 99.0)?);
        rows.push(Row::new(format!("{what}, p50 of {TIMED}"), middle, "ms", None, &[Must::AtMost(30.0)]));
        rows.push(Row::new(format!("{what}, p99"), late, "ms", None, &[Must::AtMost(80.0)]));
    }
    rows.extend(crowd(&honeynet, id)?);
    Ok(rows)
}

fn from_file(honeynet: &Honeynet, id: &str, samples: &mut Samples) -> anyhow::Result<()> {
    for round in 1..=TIMED {
        let name = format!("f{round}");
        let begun = Instant::now();
        let made = honeynet.run(&["clone", id, "--name", &name, "--json"], COMMAND_LIMIT)?;
        let answered = first_answer(honeynet, address(&serde_json::from_str::<Value>(&made)?[0])?)?;
        samples.add("file", milliseconds(begun, answered));
        honeynet.run(&["destroy", &name], COMMAND_LIMIT)?;
        std::thread::sleep(BETWEEN);
    }
    Ok(())
}

fn from_parked(honeynet: &Honeynet, id: &str, samples: &mut Samples) -> anyhow::Result<()> {
    for round in 1..=TIMED {
        let name = format!("p{round}");
        let made = honeynet.run(&["clone", id, "--name", &name, "--parked", "--json"], COMMAND_LIMIT)?;
        let address = address(&serde_json::from_str::<Value>(&made)?[0])?;
        std::thread::sleep(BETWEEN);
        let begun = Instant::now();
        honeynet.run(&["unpause", &name], COMMAND_LIMIT)?;
        samples.add("parked", milliseconds(begun, first_answer(honeynet, address)?));
        honeynet.run(&["destroy", &name], COMMAND_LIMIT)?;
    }
    Ok(())
}

/// Many at a time: what each takes, and whether all of them answer.
fn crowd(honeynet: &Honeynet, id: &str) -> anyhow::Result<Vec<Row>> {
    let mut addresses = Vec::new();
    for group in 0..CROWD / AT_ONCE {
        let (name, count) = (format!("c{group}"), AT_ONCE.to_string());
        let words = ["clone", id, "--name", &name, "--count", &count, "--json"];
        let made: Value = serde_json::from_str(&honeynet.run(&words, COMMAND_LIMIT)?)?;
        for row in made.as_array().context("clone answers with rows")? {
            addresses.push(address(row)?);
        }
        eprintln!("bench: {} clones", addresses.len());
    }
    std::thread::sleep(SETTLE);
    let rows: Value = serde_json::from_str(&honeynet.run(&["list", "--json"], COMMAND_LIMIT)?)?;
    let rows = rows.as_array().context("list answers with rows")?;
    ensure!(rows.len() == CROWD, "{} domains are there", rows.len());
    let pids = |key: &str| -> Vec<u64> { rows.iter().filter_map(|row| row[key].as_u64()).collect() };
    let (vmms, observers) = (pids("pid"), pids("observer_pid"));
    let memory_mib = mean(&vmms, |pid| pss_kib(pid).map(|kib| kib / 1024.0))?;
    let observer_mib = mean(&observers, |pid| pss_kib(pid).map(|kib| kib / 1024.0))?;
    let before = mean(&vmms, cpu_s)?;
    std::thread::sleep(WATCHED);
    let cpu_percent = (mean(&vmms, cpu_s)? - before) / WATCHED.as_secs_f64() * 100.0;
    let mut alive = 0;
    for address in &addresses {
        alive += usize::from(first_answer(honeynet, *address).is_ok());
    }
    Ok(vec![
        Row::new("memory of an idle clone, PSS", memory_mib, "MiB", None, &[Must::AtMost(6.0)]),
        Row::new("the same, of the process that looks at it", observer_mib, "MiB", None, &[]),
        Row::new("idle clones that answer", alive as f64, "", None, &[Must::AtLeast(CROWD as f64)]),
        Row::new("cpu of an idle clone, of a core", cpu_percent, "%", None, &[Must::AtMost(0.2)]),
    ])
}

fn address(row: &Value) -> anyhow::Result<Ipv4Addr> {
    let address = row["address"].as_str().with_context(|| format!("a clone without an address: {row}"))?;
    Ok(address.parse()?)
}

/// When a stranger's connection was taken.
fn first_answer(honeynet: &Honeynet, address: Ipv4Addr) -> anyhow::Result<Instant> {
    let service = SocketAddr::from((address, 22));
    let answered = netns::within(&honeynet.namespace, || {
        let until = Instant::now() + ANSWER_LIMIT;
        loop {
            match TcpStream::connect_timeout(&service, CONNECT_LIMIT) {
                Ok(_) => return Ok(Instant::now()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => {}
            }
        }
    })?;
    answered.with_context(|| format!("{service} does not answer"))
}

fn mean(pids: &[u64], of: impl Fn(u64) -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    ensure!(!pids.is_empty(), "no processes");
    let all = pids.iter().map(|pid| of(*pid)).collect::<anyhow::Result<Vec<f64>>>()?;
    Ok(all.iter().sum::<f64>() / all.len() as f64)
}

/// Proportional set size: what is shared counts by its share.
fn pss_kib(pid: u64) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// proc_pid_stat(5): fields 14 and 15, in ticks of 1/100 s.
fn cpu_s(pid: u64) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no stat")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).context("a short stat")?.parse::<f64>().context("a number");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
