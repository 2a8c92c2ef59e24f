//! `bench guest`: what a system call, a process and a page cost inside a guest, and what is left of the processor's speed.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use decoys::initramfs;
use decoys::kernel::Kernel;

use crate::decoy;
use crate::honeynet::{Honeynet, init_domain};
use crate::lines::Lines;
use crate::project;
use crate::qemu::{Machine, Qemu};
use crate::sample::{self, Samples};
use crate::table::{Must, QEMU, Row};

/// Runs of each side, by turns.
const ROUNDS: usize = 5;
/// How long a guest may take for all its measurements; the peer needs half a minute for SHA-256 alone.
const GUEST_LIMIT: Duration = Duration::from_secs(240);
const HOST_LIMIT: Duration = Duration::from_secs(60);
/// What the guest's program says at its very beginning.
pub const FIRST_LINE: &str = "init up";
const LAST_LINE: &str = "init done";

/// The static program, and the initramfs in which it is init.
pub struct StaticInit {
    /// Debian's kernel.
    pub kernel: Kernel,
    /// The initramfs, for both sides.
    pub initramfs: PathBuf,
    program: PathBuf,
}

impl StaticInit {
    /// Compiles and packs it.
    pub fn build() -> anyhow::Result<StaticInit> {
        let folder = project::output()?;
        let (program, initramfs) = (folder.join("init"), folder.join("init.cpio"));
        let source = project::root().join("bench/guest/init.c");
        let compiled = Command::new("gcc")
            .args(["-O2", "-static", "-Wall", "-Wextra", "-o"])
            .args([&program, &source])
            .status()
            .context("gcc cannot be run")?;
        ensure!(compiled.success(), "{} cannot be compiled", source.display());
        let kernel = decoy::kernel()?;
        std::fs::write(&initramfs, initramfs::with_init(&program, &kernel.modules_dir, &[])?)?;
        Ok(StaticInit { kernel, initramfs, program })
    }

    /// The peer's command line; what follows `--` is for the program.
    pub fn cmdline(what: &str) -> String {
        format!("quiet panic=-1 -- {what}")
    }

    /// The machine of the peer that runs it.
    pub fn in_qemu(&self, what: &str) -> Machine<'static> {
        Machine {
            kernel: self.kernel.vmlinuz.clone(),
            initramfs: self.initramfs.clone(),
            cmdline: Self::cmdline(what),
            ..Machine::default()
        }
    }

    /// The domain file of a domain that runs it.
    pub fn domain(&self, what: &str) -> String {
        init_domain(&self.kernel.vmlinux, &self.initramfs, &Self::cmdline(what))
    }
}

/// What one run has measured.
#[derive(Default)]
struct Report {
    samples: Samples,
    digests: Vec<String>,
}

/// Runs the bench.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let init = StaticInit::build()?;
    let honeynet = Honeynet::start()?;
    let (mut ours, mut theirs, mut host) = (Report::default(), Report::default(), Report::default());
    for round in 1..=ROUNDS {
        eprintln!("bench: guest, round {round} of {ROUNDS}");
        let domain = honeynet.create(&format!("guest{round}"), &init.domain("all"))?;
        ours.extend(listen(&domain.lines).context("in our guest")?);
        drop(domain);
        let program = init.program.to_string_lossy();
        let printed = project::output_of(&*program, &["sha256"], HOST_LIMIT)?;
        host.extend(listen(&Lines::of_reader(std::io::Cursor::new(printed)))?);
        let qemu = Qemu::start(&init.in_qemu("all"))?;
        theirs.extend(listen(&qemu.lines).context("in the peer's guest")?);
    }
    let digests: Vec<&String> = [&ours, &theirs, &host].iter().flat_map(|report| &report.digests).collect();
    ensure!(digests.windows(2).all(|pair| pair[0] == pair[1]), "the digests differ: {digests:?}");
    rows(&ours.samples, &theirs.samples, &host.samples)
}

fn rows(ours: &Samples, theirs: &Samples, host: &Samples) -> anyhow::Result<Vec<Row>> {
    let table: [(&str, &str, &'static str, f64, &[Must]); 5] = [
        ("getppid", "getppid", "us", 1.0, &[Must::AtMost(22.0)]),
        ("fork", "fork+wait", "ms", 1e3, &[Must::AtMost(1.7)]),
        ("exec", "fork+exec+wait, static", "ms", 1e3, &[Must::AtMost(5.5)]),
        ("fault", "first touch of a page", "us", 1.0, &[Must::AtMost(70.0)]),
        ("pipe", "pipe round trip", "us", 1.0, &[]),
    ];
    let mut rows = Vec::new();
    for (name, what, unit, scale, musts) in table {
        let peer = theirs.median(name)? / scale;
        rows.push(Row::new(what, ours.median(name)? / scale, unit, Some((QEMU, peer)), musts));
    }
    let sha256 = |samples: &Samples| samples.median("sha256").map(|us| us / 1e3);
    let (ours, theirs, host) = (sha256(ours)?, sha256(theirs)?, sha256(host)?);
    let native = [Must::RatioAtMost(1.05)];
    rows.push(Row::new("sha256 of 100 MB, user space", ours, "ms", Some(("this host", host)), &native));
    rows.push(Row::new("sha256 of 100 MB, user space", ours, "ms", Some((QEMU, theirs)), &[]));
    Ok(rows)
}

impl Report {
    fn extend(&mut self, other: Report) {
        self.samples.extend(other.samples);
        self.digests.extend(other.digests);
    }
}

/// Reads one run from its first line to its last.
fn listen(lines: &Lines) -> anyhow::Result<Report> {
    let begun = lines.wait_for(FIRST_LINE, GUEST_LIMIT)?.at;
    let deadline = Instant::now() + GUEST_LIMIT;
    let mut report = Report::default();
    loop {
        let line = lines.next(deadline).with_context(|| format!("{LAST_LINE:?} did not come"))?;
        let digest = line.text.strip_prefix("digest ").and_then(|rest| rest.strip_suffix(" hex"));
        if line.text.contains(LAST_LINE) {
            return Ok(report);
        } else if let Some(digest) = digest {
            report.digests.push(digest.to_owned());
        } else if let Some(("elapsed", guest_us)) = sample::parse(&line.text, "us") {
            sample::check_clock(guest_us, line.at.duration_since(begun).as_secs_f64() * 1e6)?;
        } else if let Some((name, value)) = sample::parse(&line.text, "us") {
            report.samples.add(name, value);
        }
    }
}
