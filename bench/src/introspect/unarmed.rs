//! A system call while nothing of it is recorded, against a build whose shim has no trace in it. "Nothing" is what a domain has by
//! default: its observer waits for the beginnings of connections (accept, accept4), so the shim looks at every call's number.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::guest::{FIRST_LINE, StaticInit};
use crate::honeynet::Honeynet;
use crate::project;
use crate::sample::{self, Samples, median};

const ROUNDS: usize = 9;
/// Repetitions at a guest's beginning that are not counted: its observer still reads the kernel's symbols.
const SKIPPED: usize = 10;
const GUEST_LIMIT: Duration = Duration::from_secs(60);
/// As honeyvmm's build script has it.
const WITHOUT_TRACE: &str = "HONEYNET_SHIM_WITHOUT_TRACE";

/// Adds by how many percent a call is slower, a figure a round.
pub fn measure(samples: &mut Samples) -> anyhow::Result<()> {
    let init = StaticInit::build()?;
    let target = project::root().join("target/without-trace");
    eprintln!("bench: a build without the trace");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--release", "-p", "honeynet", "--target-dir"]).arg(&target);
    let built = cargo.current_dir(project::root()).env(WITHOUT_TRACE, "1").status()?;
    ensure!(built.success(), "honeynet cannot be built without the trace");
    let with = Honeynet::start()?;
    let without = Honeynet::start_program(target.join("release/honeynet"))?;
    for round in 1..=ROUNDS {
        eprintln!("bench: nothing recorded, round {round} of {ROUNDS}");
        let (first, second) = if round % 2 == 0 { (&with, &without) } else { (&without, &with) };
        let mut figures = [getppid_us(first, &init, round)?, getppid_us(second, &init, round)?];
        if round % 2 != 0 {
            figures.reverse();
        }
        let [with_us, without_us] = figures;
        eprintln!("bench: getppid {with_us:.3} us, without the trace {without_us:.3} us");
        samples.add("unarmed", (with_us / without_us - 1.0) * 100.0);
    }
    Ok(())
}

fn getppid_us(honeynet: &Honeynet, init: &StaticInit, round: usize) -> anyhow::Result<f64> {
    let domain = honeynet.create(&format!("unarmed{round}"), &init.domain("getppid"))?;
    domain.lines.wait_for(FIRST_LINE, GUEST_LIMIT)?;
    let deadline = Instant::now() + GUEST_LIMIT;
    let mut figures = Vec::new();
    loop {
        let line = domain.lines.next(deadline).context("the guest's last line did not come")?;
        match sample::parse(&line.text, "us") {
            Some(("getppid", value)) => figures.push(value),
            _ if line.text.contains("init done") => break,
            _ => {}
        }
    }
    median(figures.get(SKIPPED..).unwrap_or_default()).context("getppid was not measured")
}
