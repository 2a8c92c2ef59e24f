//! Ours against QEMU's TCG, in the same minute: `bench boot | guest | net | disk | introspect | smp | snapshot | clone | migrate`. `make bench-NAME` builds what is needed first.
//!
//! Ends with 0 also where a figure misses its mark, for that is a result; with 1 where something could not be measured.

mod boot;
mod cleanup;
mod clone;
mod decoy;
mod disk;
mod guest;
mod honeynet;
mod introspect;
mod lines;
mod memory;
mod migrate;
mod monitor;
mod net;
mod peer_network;
mod project;
mod qemu;
mod sample;
mod shell;
mod smp;
mod snapshot;
mod table;

use std::process::ExitCode;

use anyhow::{Context, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    cleanup::on_signals()?;
    let name = std::env::args()
        .nth(1)
        .context("usage: bench boot | guest | net | disk | introspect | smp | snapshot | clone | migrate")?;
    let rows = match name.as_str() {
        "boot" => boot::run(),
        "guest" => guest::run(),
        "net" => net::run(),
        "disk" => disk::run(),
        "introspect" => introspect::run(),
        "smp" => smp::run(),
        "snapshot" => snapshot::run(),
        "clone" => clone::run(),
        "migrate" => migrate::run(),
        other => {
            bail!(
                "there is no bench {other}; there are boot, guest, net, disk, introspect, smp, snapshot, clone, migrate"
            )
        }
    };
    let rows = rows.with_context(|| format!("{name} cannot be measured"))?;
    table::print(&rows);
    table::write(&name, &rows)
}
