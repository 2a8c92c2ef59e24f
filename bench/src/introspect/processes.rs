//! `ps` of a guest with 200 tasks: how long the walk through its memory took, as the observer says, and the whole command from its start to
//! its end. The guest is not paused, and a tick in it says so.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::COMMAND_LIMIT;
use crate::honeynet::Domain;
use crate::sample::Samples;
use crate::shell::Shell;

const ROUNDS: usize = 21;
const SLEEPERS: usize = 150;
const TASKS_MIN: usize = 200;

/// Adds the walk's and the command's milliseconds, and how many tasks there were.
pub fn measure(domain: &Domain, shell: &mut Shell, samples: &mut Samples) -> anyhow::Result<()> {
    eprintln!("bench: ps");
    shell.run(&format!("for i in $(seq {SLEEPERS}); do sleep 1000 & done; echo started"), COMMAND_LIMIT)?;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let printed = domain.honeynet().run(&["ps", domain.name(), "--json"], COMMAND_LIMIT)?;
        samples.add("ps whole", begun.elapsed().as_secs_f64() * 1e3);
        let answer: Value = serde_json::from_str(&printed)?;
        ensure!(answer["incomplete"].is_null(), "ps is not whole: {}", answer["incomplete"]);
        let count = answer["processes"].as_array().map_or(0, Vec::len);
        ensure!(count >= TASKS_MIN, "ps shows {count} tasks");
        let walk_us = answer["walk_us"].as_f64().context("ps does not tell how long it took")?;
        samples.add("tasks", count as f64);
        samples.add("ps", walk_us / 1e3);
        std::thread::sleep(Duration::from_millis(50));
    }
    shell.run("pkill sleep", COMMAND_LIMIT)?;
    Ok(())
}
