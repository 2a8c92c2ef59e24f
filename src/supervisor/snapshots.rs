//! What is done with snapshots of the state directory by who names them by their ids: the dashboard, which has no way to their files.
//!
//! Two memories are compared by a process of its own, which gives away what it does not need before it looks at what a guest wrote.

use std::fs::File;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use forensics::{Acquisition, DiskSource, RamRange};
use serde_json::{Value, json};

use super::clone;
use super::evidence;
use super::house::{House, HouseError};
use super::protocol::CloneRequest;
use crate::snapshot::{Chain, STATE, SavedError, listing, store};

/// Longest answer of the process that compares: every file of a disk, twice.
const DIFFERENCE_BYTES_MAX: u64 = 48 << 20;

/// Why nothing is done.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotsError {
    /// Each takes as much memory and disk as a domain.
    #[error("another snapshot is compared, verified or pulled just now: wait for it")]
    Busy,
    /// The process that compares.
    #[error("the snapshots cannot be compared")]
    Compare(#[source] io::Error),
    /// It did not.
    #[error("{0}")]
    Compared(String),
    /// A file of ours.
    #[error("the memory of the snapshot cannot be put together")]
    Memory(#[source] io::Error),
}

// Held over one long deed.
static LONG: Mutex<()> = Mutex::new(());

fn alone() -> Result<MutexGuard<'static, ()>, SnapshotsError> {
    LONG.try_lock().map_err(|_| SnapshotsError::Busy)
}

/// All of them, as `honeynet snapshots --json` has them.
pub fn list(house: &House) -> Result<Value, HouseError> {
    let entries = store::list(&house.state, None)?;
    Ok(entries.iter().map(listing::row).collect())
}

/// Whether one is as it was written.
pub fn verify(house: &House, id: &str) -> Result<Value, HouseError> {
    let _alone = alone()?;
    let chain = store::verify(&house.state, id)?;
    Ok(json!({ "snapshot": id, "whole": true, "chain": chain.depth() }))
}

/// What differs between two of them, as `honeynet snapshot-diff --json` says it.
pub fn diff(house: &House, before: &str, after: &str) -> Result<Value, HouseError> {
    let _alone = alone()?;
    // What is none is said as it is said everywhere.
    for id in [before, after] {
        store::find(&house.state, id)?;
    }
    Ok(compare_apart(house, before, after)?)
}

fn compare_apart(house: &House, before: &str, after: &str) -> Result<Value, SnapshotsError> {
    // This link goes on working when the file was replaced by a newer build.
    let mut command = Command::new("/proc/self/exe");
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.arg("--state").arg(house.state.root()).args(["--json", "snapshot-diff", before, after]);
    let mut child = command.spawn().map_err(SnapshotsError::Compare)?;
    let (mut said, mut text) = (String::new(), Vec::new());
    let read = child.stdout.take().map(|out| out.take(DIFFERENCE_BYTES_MAX + 1).read_to_end(&mut text));
    if text.len() as u64 > DIFFERENCE_BYTES_MAX {
        // It still writes, to nobody.
        let _ = child.kill();
    }
    let heard = child.stderr.take().map(|err| err.take(4096).read_to_string(&mut said));
    let status = child.wait().map_err(SnapshotsError::Compare)?;
    read.transpose().and_then(|_| heard.transpose()).map_err(SnapshotsError::Compare)?;
    if !status.success() {
        let sentence = said.lines().next_back().unwrap_or("the process that compares ended");
        return Err(SnapshotsError::Compared(sentence.trim_start_matches("honeynet: ").to_owned()));
    }
    serde_json::from_slice(&text).map_err(|error| SnapshotsError::Compare(error.into()))
}

/// One of them becomes a domain, beside the one that it was taken of.
pub fn restore_as_clone(house: &Arc<House>, id: &str, name: String) -> Result<Value, HouseError> {
    if !crate::domain_file::is_name(&name) {
        return Err(SavedError::Name(name).into());
    }
    let snapshot = store::find(&house.state, id)?;
    let request = CloneRequest { snapshot, count: 1, name: Some(name), parked: false };
    let mut rows = clone::clone(house, &request)?;
    Ok(rows[0].take())
}

/// Memory and disks of one into a case.
pub fn pull(house: &House, id: &str, reason: Option<String>) -> Result<Value, HouseError> {
    let _alone = alone()?;
    let chain = Chain::open(&store::find(&house.state, id)?)?;
    chain.check()?;
    let source = acquisition(house, &chain, id, reason.clone())?;
    let manifest = &chain.leaf().manifest;
    // A manifest may say anything.
    let pause = Duration::try_from_secs_f64(manifest.pause_ms / 1e3).unwrap_or_default();
    let domain = (manifest.domain.name.as_str(), None);
    evidence::write_case(house, domain, source, pause, reason)
}

fn acquisition(
    house: &House,
    chain: &Chain,
    id: &str,
    reason: Option<String>,
) -> Result<Acquisition, HouseError> {
    let (leaf, run) = (chain.leaf(), house.state.run());
    let memory = tempfile::tempfile_in(run).map_err(SnapshotsError::Memory)?;
    chain.merge_ram(&memory)?;
    let file = &leaf.manifest.domain;
    let memory_bytes = file.memory_mib << 20;
    let mut notes: Vec<String> = reason.into_iter().collect();
    notes.push(format!("from snapshot {id}, taken {}", leaf.manifest.taken));
    let kernel = file.kernel.as_ref().map(|kernel| File::open(leaf.manifest.folder.join(kernel)));
    // It costs the symbols, not the case.
    let kernel = kernel.transpose();
    let kernel = kernel.map_err(|error| notes.push(format!("no symbols for Volatility: kernel: {error}")));
    let vcpus = chain.registers().unwrap_or_else(|_| {
        notes.push("the registers of the vcpus are not known".to_owned());
        Vec::new()
    });
    // The number by which its guest knew it; none is better than a case that is not written.
    let state = leaf.file(STATE)?;
    let state: Value = serde_json::from_reader(io::BufReader::new(state)).unwrap_or_default();
    let domid = state["domid"].as_u64();
    let info = forensics::DomainInfo {
        name: file.name.clone(),
        domid: domid.and_then(|domid| u32::try_from(domid).ok()).unwrap_or(0),
        uuid: crate::uuid::text(file.uuid.unwrap_or_default()),
        memory_bytes,
        vcpus: file.maxvcpus,
    };
    let disk = |spec: &crate::domain_file::disk::DiskSpec| {
        let view = chain.disk(&spec.vdev);
        let open = move |_: Option<File>| evidence::opened_disk(view.map_err(io::Error::other)?);
        DiskSource { name: spec.vdev.clone(), changing: None, open: Box::new(open) }
    };
    let disks = file.disks.iter().map(disk).collect();
    let ranges = vec![RamRange { gpa: 0, file_offset: 0, bytes: memory_bytes }];
    let kernel = kernel.ok().flatten();
    Ok(Acquisition { domain: info, memory, memory_at: 0, ranges, vcpus, disks, kernel, notes })
}
