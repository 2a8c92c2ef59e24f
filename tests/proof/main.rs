//! Proof runs (root, /dev/kvm): every checksum holds through hundreds of snapshots, restores, clones and migrations at random moments, and nothing
//! leaks where processes are killed at random moments. A few rounds by default; `make proof` runs HONEYNET_PROOF_ROUNDS of them, and
//! HONEYNET_PROOF_SEED repeats what another run did.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

use std::sync::{Mutex, MutexGuard, PoisonError};

mod checksums;
mod dice;
mod leaks;
#[path = "../util/mod.rs"]
mod util;

/// One test at a time: one of them counts what there is on this host.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rounds that are wanted, or this many.
fn rounds(default: u32) -> u32 {
    std::env::var("HONEYNET_PROOF_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(default)
}
