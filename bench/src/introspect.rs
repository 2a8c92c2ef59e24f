//! `bench introspect`: what it costs a guest to be looked at, from outside by us, and from inside by strace (ptrace) and by auditd (the
//! kernel's audit), in the same guest and the same minutes. QEMU looks at no system call, so it is no peer here.

mod build;
mod calls;
mod processes;
mod terminal;
mod unarmed;

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use crate::cleanup::{self, Cleanup};
use crate::decoy;
use crate::honeynet::{Domain, Honeynet, decoy_domain};
use crate::project;
use crate::sample::Samples;
use crate::shell::Shell;
use crate::table::{Must, Row};

const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// The longest single measurement is a build below strace.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);
/// What the guest's console says when its shell reads.
const SHELL_LINE: &str = "bench shell up";

/// Who looks at the guest's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looker {
    Nobody,
    Ours,
    Strace,
    Audit,
}

impl Looker {
    const ALL: [Looker; 4] = [Looker::Nobody, Looker::Ours, Looker::Strace, Looker::Audit];
    const PEERS: [(Looker, &'static str); 2] = [(Looker::Strace, "strace -f"), (Looker::Audit, "auditd")];

    fn sample(self, name: &str) -> String {
        format!("{name} {self:?}")
    }
}

/// Runs the bench.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let decoy = decoy::build(&project::root().join("bench/recipes/introspect.toml"))?;
    let mut samples = Samples::default();
    unarmed::measure(&mut samples)?;
    let honeynet = Honeynet::start()?;
    let domain = honeynet.create("introspect", &decoy_domain(&decoy, "", &[]))?;
    domain.lines.wait_for(SHELL_LINE, BOOT_LIMIT).context("in our guest")?;
    let mut shell = Shell::attach(domain.command(&["console", domain.name()]))?;
    shell.run("bench-project && bench-audit off", COMMAND_LIMIT)?;
    calls::measure(&domain, &mut shell, &mut samples)?;
    processes::measure(&domain, &mut shell, &mut samples)?;
    terminal::measure(&honeynet, &mut samples)?;
    build::measure(&honeynet, &mut shell, &mut samples)?;
    rows(&samples)
}

fn rows(samples: &Samples) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut beside_peers = |what: &str, name: &str, unit: &'static str, must: Must| -> anyhow::Result<()> {
        for (index, (looker, peer)) in Looker::PEERS.into_iter().enumerate() {
            let theirs = samples.median(&looker.sample(name))?;
            let musts = if index == 0 { &[must][..] } else { &[] };
            rows.push(Row::new(
                what,
                samples.median(&Looker::Ours.sample(name))?,
                unit,
                Some((peer, theirs)),
                musts,
            ));
        }
        Ok(())
    };
    beside_peers("getppid recorded, added", "getppid", "us", Must::AtMost(1.0))?;
    beside_peers("openat with its path recorded, added", "openat", "us", Must::AtMost(2.0))?;
    beside_peers("build of 21 C files recorded, slower by", "build", "%", Must::AtMost(5.0))?;
    let least = |looker: Looker| samples.least(&looker.sample("build seconds"));
    rows.push(Row::new(
        "the same, fastest build of either",
        (least(Looker::Ours)? / least(Looker::Nobody)? - 1.0) * 100.0,
        "%",
        None,
        &[],
    ));
    rows.push(Row::new(
        "getppid not recorded, slower than no trace by",
        samples.median("unarmed")?,
        "%",
        None,
        &[Must::AtMost(2.0)],
    ));
    let (tasks, ps) = (samples.median("tasks")?, samples.median("ps")?);
    rows.push(Row::new(format!("ps of {tasks} tasks, guest runs"), ps, "ms", None, &[Must::AtMost(5.0)]));
    rows.push(Row::new("the same, round trip of honeynet ps", samples.median("ps whole")?, "ms", None, &[]));
    rows.push(Row::new(
        "100 MB of terminal output, bytes lost",
        samples.median("terminal lost")?,
        "B",
        None,
        &[Must::AtMost(0.0)],
    ));
    rows.push(Row::new("the same, recorded at", samples.median("terminal rate")?, "MB/s", None, &[]));
    Ok(rows)
}

/// `honeynet trace NAME -e CALLS`, whose output is thrown away; it ends when dropped.
struct Watch {
    _end: Cleanup,
}

impl Watch {
    fn start(domain: &Domain, calls: &str) -> anyhow::Result<Watch> {
        let mut command = domain.command(&["trace", domain.name(), "-e", calls]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Watch {
            _end: cleanup::at_end(move || {
                // It may have ended by itself; it is not reaped before, so the number is still its own.
                let _ = child.kill();
                let _ = child.wait();
            }),
        })
    }
}
