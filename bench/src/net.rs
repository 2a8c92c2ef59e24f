//! `bench net`: TCP between a guest and its namespace, both ways, and a ping. Ours goes through netwatch with its rules, the
//! peer's through a TAP device and nothing else.
//!
//! A decoy's containment lets nothing out but replies, so the server is in the guest and the guest sends on a connection that
//! came from outside: `iperf3 --reverse`.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::decoy::{self, Decoy};
use crate::honeynet::{ADDRESS, Honeynet, decoy_domain};
use crate::peer_network::PeerNetwork;
use crate::project;
use crate::qemu::Qemu;
use crate::sample::Samples;
use crate::table::{Must, QEMU, Row};

/// Measurements of each side, by turns; the other one is stopped meanwhile.
const ROUNDS: usize = 3;
const SECONDS: &str = "5";
const CLIENT_LIMIT: Duration = Duration::from_secs(40);
/// The peer boots in about half a minute.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// What the guest's console says when the server listens.
const SERVER_LINE: &str = "bench iperf3 up";
/// Runs of the client before a measurement counts as failed.
const ATTEMPTS: usize = 5;

/// Runs the bench.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let decoy = bench_decoy()?;
    let honeynet = Honeynet::start()?;
    let network = PeerNetwork::make()?;
    let domain = honeynet.create("net", &decoy_domain(&decoy, "", &[]))?;
    domain.lines.wait_for(SERVER_LINE, BOOT_LIMIT).context("in our guest")?;
    domain.tell("pause")?;
    let qemu = Qemu::start(&decoy.in_qemu(&network, ""))?;
    qemu.lines.wait_for(SERVER_LINE, BOOT_LIMIT).context("in the peer's guest")?;
    qemu.freeze()?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 1..=ROUNDS {
        eprintln!("bench: net, round {round} of {ROUNDS}");
        domain.tell("unpause")?;
        measure(&honeynet.namespace, ADDRESS, &mut ours).context("our guest")?;
        domain.tell("pause")?;
        qemu.thaw()?;
        measure(&network.namespace, network.address, &mut theirs).context("the peer's guest")?;
        qemu.freeze()?;
    }
    rows(&ours, &theirs)
}

/// The decoy of the bench's own recipe.
pub fn bench_decoy() -> anyhow::Result<Decoy> {
    decoy::build(&project::root().join("bench/recipes/bench.toml"))
}

fn measure(namespace: &str, address: Ipv4Addr, samples: &mut Samples) -> anyhow::Result<()> {
    samples.add("ping", ping_ms(namespace, address)?);
    samples.add("from guest", iperf3_gbit(namespace, address, &["--reverse"])?);
    samples.add("to guest", iperf3_gbit(namespace, address, &[])?);
    Ok(())
}

/// What the receiver has counted, in Gbit/s. The server may still be busy with the connection before, or starting anew.
fn iperf3_gbit(namespace: &str, address: Ipv4Addr, direction: &[&str]) -> anyhow::Result<f64> {
    let mut attempt = 1;
    loop {
        match iperf3_once(namespace, address, direction) {
            Err(error) if attempt < ATTEMPTS => eprintln!("bench: once more: {error:#}"),
            result => return result,
        }
        std::thread::sleep(Duration::from_secs(1));
        attempt += 1;
    }
}

fn iperf3_once(namespace: &str, address: Ipv4Addr, direction: &[&str]) -> anyhow::Result<f64> {
    let address = address.to_string();
    let client = ["netns", "exec", namespace, "iperf3", "--client", &address, "--time", SECONDS, "--json"];
    let printed = project::output_of("ip", &[&client, direction].concat(), CLIENT_LIMIT)?;
    let report: Value = serde_json::from_str(&printed)?;
    let received = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(received.with_context(|| format!("iperf3 counted nothing: {}", report["error"]))? / 1e9)
}

fn ping_ms(namespace: &str, address: Ipv4Addr) -> anyhow::Result<f64> {
    let address = address.to_string();
    let arguments = ["netns", "exec", namespace, "ping", "-q", "-c", "40", "-i", "0.05", &address];
    let printed = project::output_of("ip", &arguments, CLIENT_LIMIT)?;
    average_ms(&printed).with_context(|| format!("ping has no average: {printed}"))
}

/// `rtt min/avg/max/mdev = 0.041/0.052/0.081/0.011 ms`
fn average_ms(printed: &str) -> Option<f64> {
    let (_, figures) = printed.lines().find(|line| line.starts_with("rtt "))?.split_once(" = ")?;
    figures.split('/').nth(1)?.parse().ok()
}

fn rows(ours: &Samples, theirs: &Samples) -> anyhow::Result<Vec<Row>> {
    let table: [(&str, &str, &'static str, &[Must]); 3] = [
        ("from guest", "TCP, guest to namespace", "Gbit/s", &[Must::RatioAtLeast(1.0)]),
        ("to guest", "TCP, namespace to guest", "Gbit/s", &[Must::RatioAtLeast(1.0)]),
        ("ping", "ping, average", "ms", &[]),
    ];
    let row = |(name, what, unit, musts)| {
        Ok(Row::new(what, ours.median(name)?, unit, Some((QEMU, theirs.median(name)?)), musts))
    };
    table.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_is_the_second_figure() {
        let printed = "\n--- 10.77.0.10 ping statistics ---\n40 packets transmitted, 40 received, 0% packet loss\n\
                       rtt min/avg/max/mdev = 0.041/0.052/0.081/0.011 ms\n";
        assert_eq!(average_ms(printed), Some(0.052));
        assert_eq!(average_ms("40 packets transmitted, 0 received\n"), None);
    }
}
