//! `bench boot`: how soon a guest is there, what its VMM takes beside its RAM, and how long a case stops it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::decoy::{self, Decoy, wait_for_banner};
use crate::guest::{FIRST_LINE, StaticInit};
use crate::honeynet::{self, ADDRESS, Honeynet, decoy_domain};
use crate::memory::{self, OwnMemory};
use crate::peer_network::PeerNetwork;
use crate::project;
use crate::qemu::{self, Qemu};
use crate::sample::Samples;
use crate::table::{Must, QEMU, Row};

/// Starts of the static init on each side, by turns.
const INIT_ROUNDS: usize = 7;
/// Starts of the whole decoy on each side, by turns.
const DECOY_ROUNDS: usize = 3;
/// Cases of each of our decoys.
const CASES: usize = 2;
const LINE_LIMIT: Duration = Duration::from_secs(60);
/// The peer needs about half a minute.
const BANNER_LIMIT: Duration = Duration::from_secs(240);
/// After the banner the rest of the units start; memory is looked at when that is over.
const SETTLE: Duration = Duration::from_secs(3);

/// Runs the bench.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let init = StaticInit::build()?;
    let decoy = decoy::build(&recipe())?;
    let honeynet = Honeynet::start()?;
    let network = PeerNetwork::make()?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 1..=INIT_ROUNDS {
        eprintln!("bench: static init, round {round} of {INIT_ROUNDS}");
        let domain = honeynet.create(&format!("init{round}"), &init.domain("boot"))?;
        let line = domain.lines.wait_for(FIRST_LINE, LINE_LIMIT).context("in our guest")?;
        ours.add("init", line.at.duration_since(domain.started).as_secs_f64());
        drop(domain);
        let qemu = Qemu::start(&init.in_qemu("boot"))?;
        let line = qemu.lines.wait_for(FIRST_LINE, LINE_LIMIT).context("in the peer's guest")?;
        theirs.add("init", line.at.duration_since(qemu.started).as_secs_f64());
    }
    for round in 1..=DECOY_ROUNDS {
        eprintln!("bench: Debian decoy, round {round} of {DECOY_ROUNDS}");
        our_decoy(&honeynet, &decoy, round, &mut ours)?;
        peer_decoy(&network, &decoy, &mut theirs)?;
    }
    rows(&ours, &theirs)
}

/// A decoy that comes with the project, with the server that the banner is from.
fn recipe() -> PathBuf {
    project::root().join("decoys/recipes/ssh-server.toml")
}

fn our_decoy(honeynet: &Honeynet, decoy: &Decoy, round: usize, ours: &mut Samples) -> anyhow::Result<()> {
    let domain = honeynet.create(&format!("decoy{round}"), &decoy_domain(decoy, "", &[]))?;
    let at = wait_for_banner(&honeynet.namespace, ADDRESS, BANNER_LIMIT).context("our decoy")?;
    ours.add("banner", at.duration_since(domain.started).as_secs_f64());
    std::thread::sleep(SETTLE);
    add_memory(ours, memory::own(domain.pid()?, honeynet::RAM_MAPPING)?);
    for _ in 0..CASES {
        ours.add("pause", domain.pull_pause_s()?);
    }
    Ok(())
}

fn peer_decoy(network: &PeerNetwork, decoy: &Decoy, theirs: &mut Samples) -> anyhow::Result<()> {
    let qemu = Qemu::start(&decoy.in_qemu(network, ""))?;
    let at =
        wait_for_banner(&network.namespace, network.address, BANNER_LIMIT).context("the peer's decoy")?;
    theirs.add("banner", at.duration_since(qemu.started).as_secs_f64());
    std::thread::sleep(SETTLE);
    add_memory(theirs, memory::own(qemu.pid, qemu::RAM_MAPPING)?);
    Ok(())
}

fn add_memory(samples: &mut Samples, own: OwnMemory) {
    samples.add("pss", own.pss_kib as f64 / 1024.0);
    samples.add("rss", own.rss_kib as f64 / 1024.0);
}

fn rows(ours: &Samples, theirs: &Samples) -> anyhow::Result<Vec<Row>> {
    let peer = |name| theirs.median(name).map(|figure| Some((QEMU, figure)));
    Ok(vec![
        Row::new(
            "process start to first line of a static init",
            ours.median("init")?,
            "s",
            peer("init")?,
            &[Must::AtMost(0.5), Must::RatioAtMost(0.25)],
        ),
        Row::new(
            "Debian decoy, create to SSH banner",
            ours.median("banner")?,
            "s",
            peer("banner")?,
            &[Must::AtMost(10.0)],
        ),
        Row::new(
            "VMM's memory beside RAM, PSS",
            ours.median("pss")?,
            "MiB",
            peer("pss")?,
            &[Must::AtMost(10.0)],
        ),
        Row::new("VMM's memory beside RAM, RSS", ours.median("rss")?, "MiB", peer("rss")?, &[]),
        Row::new("pause of a case, 256 MB", ours.median("pause")?, "s", None, &[Must::AtMost(0.5)]),
    ])
}
