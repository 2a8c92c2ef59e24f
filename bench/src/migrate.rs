//! `bench migrate`: how long a Debian decoy that writes 50 MB/s stands still when it moves to another honeynet, over TLS, beside a QEMU with TCG that
//! migrates the same machine over plain TCP. Both sides move on one host.

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use netwatch::netns;
use serde_json::Value;

use crate::decoy::{self, Decoy, wait_for_banner};
use crate::honeynet::{ADDRESS, COMMAND_LIMIT, Honeynet, decoy_domain};
use crate::monitor::Monitor;
use crate::peer_network::PeerNetwork;
use crate::project;
use crate::qemu::{Access, Machine, Qemu, overlay};
use crate::sample::Samples;
use crate::table::{Must, QEMU, Row};

/// Migrations of ours, there and back; of the peer each takes another machine.
const OURS: usize = 6;
const THEIRS: usize = 3;
const TAPS: [&str; THEIRS] = ["tap1", "tap2", "tap3"];
/// The peer needs about half a minute to boot.
const BANNER_LIMIT: Duration = Duration::from_secs(240);
const SSH_LIMIT: Duration = Duration::from_secs(60);
/// After the banner the rest of the units start.
const SETTLE: Duration = Duration::from_secs(5);
/// So long the writer writes between two migrations.
const WRITING: Duration = Duration::from_secs(4);
const MIGRATION_LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "decoy";
const PASSWORD: &str = "toor";
/// Writes 50 MB a second over and over to 64 MiB; each second it notes how many it was since the start, and the longest time that it did not run.
const WRITER: &str = "import time
memory, block, at, done = bytearray(64 << 20), b'x' * 65536, 0, 0
begun = last = told = time.monotonic()
gap = 0
while True:
    now = time.monotonic()
    gap, last = max(gap, now - last), now
    if now - told > 1:
        with open('/run/written', 'a') as notes: notes.write('%f %f\\n' % (done / (now - begun) / 1e6, gap * 1e3))
        gap, told = 0, now
    while done < (now - begun) * 50e6:
        memory[at:at + 65536] = block
        at, done = (at + 65536) % len(memory), done + 65536
    time.sleep(0.002)
";

/// Runs the bench.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let decoy = decoy::build(&project::root().join("decoys/recipes/ssh-server.toml"))?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    our_side(&decoy, &mut ours).context("our decoy")?;
    peer_side(&decoy, &mut theirs).context("the peer's decoy")?;
    let row = |what: &str, name: &str, unit, musts: &[Must]| {
        let peer = Some((QEMU, theirs.median(name)?));
        anyhow::Ok(Row::new(what, ours.median(name)?, unit, peer, musts))
    };
    Ok(vec![
        row("migration downtime, 256 MB, 50 MB/s written", "downtime", "ms", &[Must::AtMost(100.0)])?,
        Row::new("longest gap that a program in it sees", ours.median("gap")?, "ms", None, &[]),
        row("migration, begin to end", "total", "ms", &[])?,
        row("what the program writes", "rate", "MB/s", &[Must::AtLeast(48.0)])?,
    ])
}

fn our_side(decoy: &Decoy, samples: &mut Samples) -> anyhow::Result<()> {
    let honeynets = Honeynet::pair()?;
    let domain = honeynets[0].create(NAME, &decoy_domain(decoy, "", &[]))?;
    wait_for_banner(&honeynets[0].namespace, ADDRESS, BANNER_LIMIT)?;
    std::thread::sleep(SETTLE);
    start_writer(&honeynets[0].namespace, ADDRESS)?;
    for round in 0..OURS {
        std::thread::sleep(WRITING);
        let (at, to) = (round % 2, (round + 1) % 2);
        let moved = honeynets[at].run(&["migrate", NAME, ["a", "b"][to], "--json"], COMMAND_LIMIT)?;
        let moved: Value = serde_json::from_str(&moved)?;
        samples.add("downtime", moved["downtime_ms"].as_f64().context("a migration has a downtime")?);
        samples.add("total", moved["seconds"].as_f64().context("a migration takes a time")? * 1e3);
        std::thread::sleep(WRITING);
        written(&honeynets[to].namespace, ADDRESS, samples)?;
    }
    drop(domain);
    Ok(())
}

fn peer_side(decoy: &Decoy, samples: &mut Samples) -> anyhow::Result<()> {
    let network = PeerNetwork::make()?;
    netns::within(&network.namespace, || project::output_of("ip", &["link", "set", "lo", "up"], SSH_LIMIT))??;
    // What later machines are plugged into leads nowhere, so nobody asks them what they have seen.
    let cables = TAPS.map(|tap| network.second_cable(tap)).into_iter().collect::<Result<Vec<_>, _>>()?;
    let folder = tempfile::Builder::new().prefix("hn-bench-").tempdir()?;
    let disk = folder.path().join("disk.qcow2");
    overlay(&decoy.image.path, &disk)?;
    let machine = |cable, number: usize, incoming| Machine {
        disks: vec![(disk.clone(), Access::Own)],
        monitor: Some(folder.path().join(format!("monitor{number}"))),
        incoming,
        ..decoy.in_qemu(cable, "")
    };
    let first = machine(&network, 0, None);
    let mut running = (Qemu::start(&first)?, Monitor::open(first.monitor.as_deref().context("a monitor")?)?);
    wait_for_banner(&network.namespace, network.address, BANNER_LIMIT)?;
    std::thread::sleep(SETTLE);
    start_writer(&network.namespace, network.address)?;
    std::thread::sleep(WRITING);
    written(&network.namespace, network.address, samples)?;
    for (number, cable) in (1..).zip(&cables) {
        let port = netns::within(&network.namespace, || {
            anyhow::Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
        })??;
        let next = machine(cable, number, Some(port));
        let waiting = Qemu::start(&next)?;
        let monitor = Monitor::open(next.monitor.as_deref().context("a monitor")?)?;
        migrate(&mut running.1, port, samples)?;
        running = (waiting, monitor);
        std::thread::sleep(WRITING);
    }
    Ok(())
}

/// As fast as it can, with as little downtime as ours may have.
fn migrate(monitor: &mut Monitor, port: u16, samples: &mut Samples) -> anyhow::Result<()> {
    monitor.ask("migrate_set_parameter max-bandwidth 10g")?;
    monitor.ask("migrate_set_parameter downtime-limit 100")?;
    monitor.ask(&format!("migrate -d tcp:127.0.0.1:{port}"))?;
    let until = Instant::now() + MIGRATION_LIMIT;
    let said = loop {
        let said = monitor.ask("info migrate")?;
        if said.contains("Migration status: completed") {
            break said;
        }
        ensure!(!said.contains("failed") && Instant::now() < until, "the peer does not migrate: {said}");
        std::thread::sleep(Duration::from_millis(50));
    };
    for (name, word) in [("downtime", "downtime: "), ("total", "total time: ")] {
        let figure = said.split(word).nth(1).and_then(|rest| rest.split_whitespace().next());
        samples.add(
            name,
            figure.and_then(|figure| figure.parse().ok()).with_context(|| format!("no {word}: {said}"))?,
        );
    }
    Ok(())
}

fn start_writer(namespace: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let quoted = WRITER.replace('\'', "'\\''");
    ssh(namespace, address, &format!("setsid nohup python3 -c '{quoted}' </dev/null >/dev/null 2>&1 &"))
        .map(drop)
}

/// What it has noted since it was last asked.
fn written(namespace: &str, address: Ipv4Addr, samples: &mut Samples) -> anyhow::Result<()> {
    let notes = ssh(namespace, address, "cat /run/written; truncate -s 0 /run/written")?;
    let figures: Vec<(f64, f64)> = notes
        .lines()
        .filter_map(|line| {
            line.split_once(' ').and_then(|(rate, gap)| Some((rate.parse().ok()?, gap.parse().ok()?)))
        })
        .collect();
    let (rate, _) = figures.last().with_context(|| format!("the writer has noted nothing: {notes:?}"))?;
    samples.add("rate", *rate);
    samples.add("gap", figures.iter().map(|(_, gap)| *gap).fold(0.0, f64::max));
    Ok(())
}

fn ssh(namespace: &str, address: Ipv4Addr, command: &str) -> anyhow::Result<String> {
    let target = format!("root@{address}");
    let words =
        ["netns", "exec", namespace, "sshpass", "-p", PASSWORD, "ssh", "-o", "StrictHostKeyChecking=no"];
    let more = ["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", &target, command];
    project::output_of("ip", &[&words[..], &more].concat(), SSH_LIMIT)
}
