//! `bench smp`: a build with `make -j4` in a guest with four vcpus, beside the same in a guest with two, by turns. On a host with two
//! cores the four cannot be faster; they should not be much slower, and must not stall.

use std::time::Duration;

use anyhow::Context;

use crate::decoy::{self, Decoy};
use crate::honeynet::{Honeynet, decoy_domain};
use crate::project;
use crate::sample::Samples;
use crate::shell::Shell;
use crate::table::{Must, Row};

/// Guests of each kind, by turns.
const ROUNDS: usize = 3;
/// Builds in each guest.
const BUILDS: usize = 4;
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// A build takes some seconds.
const BUILD_LIMIT: Duration = Duration::from_secs(120);
/// What the guest's console says when its shell reads.
const SHELL_LINE: &str = "bench shell up";
/// A login's environment: gcc looks for its parts in every folder of PATH.
const CLEAN: &str = "make -s -C /opt/project clean";
const BUILD: &str =
    "env -i PATH=/usr/local/bin:/usr/bin calls time build make -s -j4 -C /opt/project program";
/// What the kernel says when a cpu did nothing for long.
const STALLS: &str = "dmesg | grep -cE 'self-detected stall|detected stalls|kthread starved|soft lockup -|hard LOCKUP|blocked for more than' || true";

/// Runs the bench.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let decoy = decoy::build(&project::root().join("bench/recipes/introspect.toml"))?;
    let honeynet = Honeynet::start()?;
    let mut samples = Samples::default();
    let mut stalls = 0.0;
    for round in 1..=ROUNDS {
        for vcpus in [4, 2] {
            stalls += one(&honeynet, &decoy, vcpus, round, &mut samples)
                .with_context(|| format!("in a guest with {vcpus} vcpus"))?;
        }
    }
    let (four, two) = (samples.median("4")?, samples.median("2")?);
    let least = (samples.least("4")?, samples.least("2")?);
    Ok(vec![
        Row::new("make -j4, 4 vcpus", four, "s", Some(("2 vcpus", two)), &[Must::RatioAtMost(1.15)]),
        Row::new("the same, fastest build of either", least.0, "s", Some(("2 vcpus", least.1)), &[]),
        Row::new("stalls that the kernels complained of", stalls, "", None, &[Must::AtMost(0.0)]),
    ])
}

/// Answers how often its kernel complained.
fn one(
    honeynet: &Honeynet,
    decoy: &Decoy,
    vcpus: u32,
    round: usize,
    samples: &mut Samples,
) -> anyhow::Result<f64> {
    let file = format!("{}vcpus = {vcpus}\n", decoy_domain(decoy, "", &[]));
    let domain = honeynet.create(&format!("smp{vcpus}-{round}"), &file)?;
    domain.lines.wait_for(SHELL_LINE, BOOT_LIMIT)?;
    let mut shell = Shell::attach(domain.command(&["console", domain.name()]))?;
    shell.run("bench-project", BUILD_LIMIT)?;
    // Once for the page cache.
    shell.run(BUILD, BUILD_LIMIT)?;
    for build in 1..=BUILDS {
        shell.run(CLEAN, BUILD_LIMIT)?;
        let seconds = shell.measure(BUILD, "s", BUILD_LIMIT)?.median("build")?;
        eprintln!("bench: {vcpus} vcpus, round {round} of {ROUNDS}, build {build}: {seconds:.3} s");
        samples.add(&vcpus.to_string(), seconds);
    }
    let complaints = shell.run(STALLS, BUILD_LIMIT)?;
    complaints
        .first()
        .and_then(|count| count.parse().ok())
        .context("the kernel's complaints were not counted")
}
