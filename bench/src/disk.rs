//! `bench disk`: dd in the guest, past the guest's page cache, on one raw file that the host's page cache holds: what is
//! measured is the way through the split driver, not the host's disk. Ours reads it below a copy-on-write layer, as a decoy
//! does; the peer read-only, cache=writeback, aio=threads.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::honeynet::{Honeynet, decoy_domain};
use crate::lines::Lines;
use crate::net::bench_decoy;
use crate::peer_network::PeerNetwork;
use crate::project;
use crate::qemu::{Access, Qemu};
use crate::sample::{self, Samples};
use crate::table::{Must, QEMU, Row};

/// Boots of each side, by turns; the guest measures five times in each.
const ROUNDS: usize = 2;
const DISK_MIB: usize = 256;
const GUEST_LIMIT: Duration = Duration::from_secs(300);
const LAST_LINE: &str = "bench disk done";
/// Seen by the guest's unit.
const WORD: &str = "bench.disk";
/// Reads of 4 KiB in one measurement, and MiB in one of 1 MiB: as in the recipe's script.
const SMALL_READS: f64 = 16384.0;
const LARGE_READS: f64 = 256.0;

/// Runs the bench.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let decoy = bench_decoy()?;
    let image = image()?;
    let honeynet = Honeynet::start()?;
    let network = PeerNetwork::make()?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 1..=ROUNDS {
        eprintln!("bench: disk, round {round} of {ROUNDS}");
        warm(&image)?;
        let domain = honeynet.create(&format!("disk{round}"), &decoy_domain(&decoy, WORD, &[&image]))?;
        listen(&domain.lines, &mut ours).context("in our guest")?;
        eprintln!("bench: our guest took {:.1} s in all", domain.started.elapsed().as_secs_f64());
        drop(domain);
        warm(&image)?;
        let mut machine = decoy.in_qemu(&network, WORD);
        machine.disks.push((image.clone(), Access::Read));
        let qemu = Qemu::start(&machine)?;
        listen(&qemu.lines, &mut theirs).context("in the peer's guest")?;
        eprintln!("bench: the peer's guest took {:.1} s in all", qemu.started.elapsed().as_secs_f64());
    }
    rows(&ours, &theirs)
}

/// A file of bytes that differ, so that nothing of it is a hole.
fn image() -> anyhow::Result<PathBuf> {
    let path = project::output()?.join("disk.img");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    let mut word: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..DISK_MIB << 17 {
        // xorshift64 (Marsaglia 2003).
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        file.write_all(&word.to_le_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    Ok(path)
}

/// Reads it once, so that the host's page cache has it for either side.
fn warm(path: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::open(path)?;
    let mut chunk = vec![0; 1 << 20];
    while file.read(&mut chunk)? > 0 {}
    Ok(())
}

fn listen(lines: &Lines, samples: &mut Samples) -> anyhow::Result<()> {
    let deadline = Instant::now() + GUEST_LIMIT;
    loop {
        let line = lines.next(deadline).with_context(|| format!("{LAST_LINE:?} did not come"))?;
        if line.text.contains(LAST_LINE) {
            return Ok(());
        }
        if let Some((name, seconds)) = sample::parse(&line.text, "s") {
            samples.add(name, seconds);
        }
    }
}

fn rows(ours: &Samples, theirs: &Samples) -> anyhow::Result<Vec<Row>> {
    let least = [Must::RatioAtLeast(1.0)];
    let rate = |samples: &Samples, name, reads| samples.median(name).map(|seconds| reads / seconds);
    let small = |samples| rate(samples, "disk-4k", SMALL_READS);
    let large = |samples| rate(samples, "disk-1m", LARGE_READS);
    Ok(vec![
        Row::new("reads of 4 KiB, one at a time", small(ours)?, "1/s", Some((QEMU, small(theirs)?)), &least),
        Row::new(
            "reads of 1 MiB, one at a time",
            large(ours)?,
            "MiB/s",
            Some((QEMU, large(theirs)?)),
            &least,
        ),
    ])
}
