//! Commands about snapshots. They lie in the state directory, so most of this needs no supervisor.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use forensics::RamRange;
use serde_json::json;

use super::args::SnapshotWord;
use super::domains::{Printer, print};
use super::{Connection, Failure};
use crate::jail::{self, Jail};
use crate::snapshot::compare::{self, Side};
use crate::snapshot::{Chain, SavedError, compact as compact_folder, listing, store};
use crate::state::State;
use crate::supervisor::protocol::{CloneRequest, Request};

/// The user that looks at two memories.
const COMPARER_UID: u32 = 199_005;

/// Does what a word about snapshots asks.
pub fn run(state: &State, file: &Path, out: &Printer, word: SnapshotWord) -> Result<(), Failure> {
    match word {
        SnapshotWord::Snapshots { name } => list(state, out, name.as_deref()),
        SnapshotWord::SnapshotDiff { before, after } => diff(state, out, &before, &after),
        SnapshotWord::SnapshotVerify { id } => verify(state, out, &id),
        SnapshotWord::SnapshotCompact { id } => compact(state, out, &id),
        SnapshotWord::SnapshotRemove { id } => remove(state, out, &id),
        SnapshotWord::DumpCore { what, file } => dump_core(state, out, what, &file),
        SnapshotWord::Restore { what, name, paused, verify } => {
            let folder = folder(state, &what)?;
            let mut connection = Connection::open_or_start(state, file)?;
            out.tree(&connection.request(&Request::Restore { folder, name, paused, verify })?)
        }
        SnapshotWord::Clone { snapshot, count, name, parked } => {
            let snapshot = folder(state, &snapshot)?;
            let mut connection = Connection::open_or_start(state, file)?;
            let request = CloneRequest { snapshot, count, name, parked };
            out.list(&connection.request(&Request::Clone(request))?)
        }
    }
}

/// Exit code 3 where there is none.
fn failed(error: SavedError) -> Failure {
    match error {
        SavedError::NotFound(_) => Failure::with_code(events::sentence(&error), 3),
        _ => Failure::new(events::sentence(&error)),
    }
}

/// The folder of what is to go on: one that is there, or a snapshot's.
fn folder(state: &State, what: &str) -> Result<PathBuf, Failure> {
    match store::find(state, what) {
        Err(SavedError::NotFound(_)) => Ok(std::path::absolute(what)?),
        found => found.map_err(failed),
    }
}

/// `snapshots`.
fn list(state: &State, out: &Printer, domain: Option<&str>) -> Result<(), Failure> {
    let entries = store::list(state, domain).map_err(failed)?;
    if out.json {
        return out.done(&entries.iter().map(listing::row).collect());
    }
    let mut text = format!(
        "{:<24} {:<18} {:<5} {:>7} {:>9}  {:<18} {}\n",
        "Domain", "ID", "Kind", "Size", "Pause", "Parent", "Reason"
    );
    for row in entries.iter().map(listing::row) {
        let word = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let reason = if row["error"].is_string() { word("error") } else { word("reason") };
        let pause = row["pause_ms"].as_f64().map_or("-".to_owned(), |pause| format!("{pause:.1} ms"));
        text.push_str(&format!(
            "{:<24} {:<18} {:<5} {:>6}M {:>9}  {:<18} {}\n",
            word("domain"),
            word("id"),
            word("kind"),
            row["bytes"].as_u64().unwrap_or(0) >> 20,
            pause,
            word("parent"),
            reason.escape_debug(),
        ));
    }
    print(&text)
}

/// `snapshot-verify`.
fn verify(state: &State, out: &Printer, id: &str) -> Result<(), Failure> {
    let chain = store::verify(state, id).map_err(failed)?;
    out.tree(&json!({ "snapshot": id, "whole": true, "chain": chain.depth() }))
}

/// `snapshot-compact`.
fn compact(state: &State, out: &Printer, id: &str) -> Result<(), Failure> {
    let folder = store::find(state, id).map_err(failed)?;
    compact_folder(&folder).map_err(failed)?;
    out.done(&json!({ "snapshot": id }))
}

/// `snapshot-remove`.
fn remove(state: &State, out: &Printer, id: &str) -> Result<(), Failure> {
    store::remove(state, id).map_err(failed)?;
    out.done(&json!({ "snapshot": id }))
}

/// `snapshot-diff`. What the guest wrote is looked at by somebody who may do nothing else.
fn diff(state: &State, out: &Printer, before: &str, after: &str) -> Result<(), Failure> {
    let open = |id: &str| {
        let chain = Chain::open(&store::find(state, id).map_err(failed)?).map_err(failed)?;
        Side::open(&chain, state.root()).map_err(|error| Failure::new(events::sentence(&error)))
    };
    let (before, after) = (open(before)?, open(after)?);
    if rustix::process::geteuid().is_root() {
        jail::enter(&Jail { uid: Some(COMPARER_UID), isolated: true })?;
    }
    let found = compare::compare(before, after);
    match out.json {
        true => out.done(&found.to_json()),
        false => print(&found.to_text()),
    }
}

/// `dump-core`: of a domain that is there, else of a snapshot.
fn dump_core(state: &State, out: &Printer, what: String, file: &Path) -> Result<(), Failure> {
    let file = std::path::absolute(file)?;
    match store::find(state, &what) {
        Ok(folder) => {
            write_core(&Chain::open(&folder).map_err(failed)?, &file)?;
            out.tree(&json!({ "file": file }))
        }
        Err(SavedError::NotFound(_)) => {
            out.tree(&Connection::open(state)?.request(&Request::DumpCore { name: what, file })?)
        }
        Err(error) => Err(failed(error)),
    }
}

fn write_core(chain: &Chain, file: &Path) -> Result<(), Failure> {
    let leaf = chain.leaf();
    let vcpus = chain.registers().map_err(failed)?;
    let memory = tempfile::tempfile_in(file.parent().unwrap_or(Path::new("/")))?;
    chain.merge_ram(&memory).map_err(failed)?;
    let ranges = [RamRange { gpa: 0, file_offset: 0, bytes: leaf.manifest.domain.memory_mib << 20 }];
    let out = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(file)?;
    let written = forensics::write_core(&memory, &ranges, &vcpus, &out);
    if written.is_err() {
        // Half a core is none.
        let _ = std::fs::remove_file(file);
    }
    Ok(written?)
}
