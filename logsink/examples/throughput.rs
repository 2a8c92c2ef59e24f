//! Events a second that a sink acknowledges and stores on this machine: `throughput STATE COUNT`, against a sink that it runs itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use events::{Emitter, Event, EventId};
use jiff::Timestamp;
use logsink::{Config, Store, socket_path, store_path};

/// Events between two waits: fewer than the emitter's queue holds, so none is dropped.
const BATCH: u64 = 2000;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let state: PathBuf = arguments.next().context("usage: throughput STATE COUNT")?.into();
    let count: u64 = arguments.next().context("usage: throughput STATE COUNT")?.parse()?;
    let config = Config::new(&state);
    std::thread::spawn(move || logsink::run(config));
    let emitter = Emitter::connect(&socket_path(&state), "throughput", None)?;
    ensure!(emitter.flush(Duration::from_secs(5)), "no sink");
    let start = Instant::now();
    for n in 1..=count {
        emitter.emit(
            Event::new(EventId::Alert, Timestamp::now()).with("signature", "ssh brute force").with("n", n),
        );
        ensure!(n % BATCH > 0 || emitter.flush(Duration::from_secs(60)), "the sink hangs");
    }
    ensure!(emitter.flush(Duration::from_secs(60)), "the sink hangs");
    println!("acknowledged: {:.0} events/s", count as f64 / start.elapsed().as_secs_f64());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open_readonly(&store_path(&state)).await?;
        while store.last_id().await? < count as i64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    })?;
    println!("in the store: {:.0} events/s", count as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
