//! `bench snapshot`: how long a Debian decoy with sshd stands still for a snapshot, and how soon it is there again from one, beside a QEMU
//! with TCG that goes on by `-loadvm`.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::decoy::{self, Decoy, wait_for_banner};
use crate::honeynet::{ADDRESS, COMMAND_LIMIT, Honeynet, decoy_domain};
use crate::monitor::Monitor;
use crate::peer_network::PeerNetwork;
use crate::project;
use crate::qemu::{Access, Machine, Qemu, overlay};
use crate::sample::{Samples, milliseconds};
use crate::table::{Must, QEMU, Row};

/// Snapshots of each kind.
const SNAPSHOTS: usize = 7;
/// Restores on each side.
const RESTORES: usize = 5;
/// The peer needs about half a minute to boot.
const BANNER_LIMIT: Duration = Duration::from_secs(240);
/// After the banner the rest of the units start; an idle decoy is what is measured.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two snapshots, so that a diff has something in it.
const BETWEEN: Duration = Duration::from_millis(500);
const NAME: &str = "decoy";
const TAG: &str = "warm";

/// Runs the bench.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let decoy = decoy::build(&project::root().join("decoys/recipes/ssh-server.toml"))?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    our_side(&decoy, &mut ours).context("our decoy")?;
    peer_side(&decoy, &mut theirs).context("the peer's decoy")?;
    let peer = |name| theirs.median(name).map(|figure| Some((QEMU, figure)));
    let millisecond = |name| ours.median(name);
    Ok(vec![
        Row::new("pause of a full snapshot, 256 MB", millisecond("full")?, "ms", None, &[Must::AtMost(10.0)]),
        Row::new("pause of a diff", millisecond("diff")?, "ms", None, &[]),
        Row::new("snapshot, command to prompt, full", millisecond("full taken")?, "ms", peer("taken")?, &[]),
        Row::new("snapshot, command to prompt, diff", millisecond("diff taken")?, "ms", None, &[]),
        Row::new(
            "restore to the first instruction",
            millisecond("runs")?,
            "ms",
            peer("runs")?,
            &[Must::AtMost(20.0)],
        ),
        Row::new(
            "restore to the SSH banner",
            millisecond("banner")?,
            "ms",
            peer("banner")?,
            &[Must::AtMost(60.0)],
        ),
    ])
}

fn our_side(decoy: &Decoy, samples: &mut Samples) -> anyhow::Result<()> {
    let honeynet = Honeynet::start()?;
    let domain = honeynet.create(NAME, &decoy_domain(decoy, "", &[]))?;
    wait_for_banner(&honeynet.namespace, ADDRESS, BANNER_LIMIT)?;
    std::thread::sleep(SETTLE);
    let mut last = Value::Null;
    for _ in 0..SNAPSHOTS {
        for (kind, words) in
            [("full", &["snapshot", NAME, "--json"][..]), ("diff", &["snapshot", NAME, "--json", "--diff"])]
        {
            let begun = Instant::now();
            let taken: Value = serde_json::from_str(&honeynet.run(words, COMMAND_LIMIT)?)?;
            samples.add(&format!("{kind} taken"), milliseconds(begun, Instant::now()));
            ensure!(taken["kind"] == kind, "asked for {kind}: {taken}");
            samples.add(kind, taken["pause_ms"].as_f64().context("a snapshot has a pause")?);
            if kind == "full" {
                last = taken;
            }
            std::thread::sleep(BETWEEN);
        }
    }
    let id = last["id"].as_str().context("a snapshot has an id")?;
    for _ in 0..RESTORES {
        honeynet.run(&["destroy", NAME], COMMAND_LIMIT)?;
        std::thread::sleep(BETWEEN);
        let begun = Instant::now();
        // It answers when the first vcpu runs.
        honeynet.run(&["restore", id], COMMAND_LIMIT)?;
        samples.add("runs", milliseconds(begun, Instant::now()));
        let banner = wait_for_banner(&honeynet.namespace, ADDRESS, BANNER_LIMIT)?;
        samples.add("banner", milliseconds(begun, banner));
    }
    drop(domain);
    Ok(())
}

fn peer_side(decoy: &Decoy, samples: &mut Samples) -> anyhow::Result<()> {
    let network = PeerNetwork::make()?;
    let folder = tempfile::Builder::new().prefix("hn-bench-").tempdir()?;
    let (disk, monitor) = (folder.path().join("disk.qcow2"), folder.path().join("monitor"));
    overlay(&decoy.image.path, &disk)?;
    let machine = |loadvm: Option<&str>| Machine {
        disks: vec![(disk.clone(), Access::Own)],
        monitor: Some(monitor.clone()),
        loadvm: loadvm.map(str::to_owned),
        ..decoy.in_qemu(&network, "")
    };
    let qemu = Qemu::start(&machine(None))?;
    wait_for_banner(&network.namespace, network.address, BANNER_LIMIT)?;
    std::thread::sleep(SETTLE);
    let mut console = Monitor::open(&monitor)?;
    let begun = Instant::now();
    console.ask(&format!("savevm {TAG}"))?;
    samples.add("taken", milliseconds(begun, Instant::now()));
    drop(qemu);
    for _ in 0..RESTORES {
        let qemu = Qemu::start(&machine(Some(TAG)))?;
        let mut console = Monitor::open(&monitor)?;
        let said = console.ask("info status")?;
        ensure!(said.contains("running"), "the peer does not run: {said:?}");
        samples.add("runs", milliseconds(qemu.started, Instant::now()));
        let banner = wait_for_banner(&network.namespace, network.address, BANNER_LIMIT)?;
        samples.add("banner", milliseconds(qemu.started, banner));
    }
    Ok(())
}
