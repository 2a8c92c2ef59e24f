//! Snapshots of running domains: which kind is taken, what is noted of the moment, and where they go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use events::{Event, EventId};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::copying::{self, CopyError, Folder, Last, Scope, Standing, Turn, Written};
use super::domain::Domain;
use super::house::{House, HouseError};
use crate::domain_file::DomainFile;
use crate::snapshot::{CHAIN_MAX, Capture, Chain, Kind, Manifest, SavedError, VERSION, store};
use crate::uuid;

/// Whether a diff is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Diff {
    /// A full one.
    No,
    /// A diff, if there is something that it can be one of.
    IfPossible,
}

/// What is to be written.
pub struct Wanted {
    /// The folder that is made.
    pub folder: PathBuf,
    /// Why.
    pub reason: Option<String>,
    /// Whether a diff will do.
    pub diff: Diff,
}

/// How a snapshot is taken.
struct Plan {
    scope: Scope,
    /// What it is a diff of.
    over: Option<Chain>,
}

/// What of the moment is noted while the domain stands.
struct Moment {
    taken: Timestamp,
    capture: Option<Capture>,
    event_seq: u64,
}

/// Takes one into the state directory; answers its id, kind, and how long the domain stood still.
pub fn take(house: &House, domain: &Domain, diff: Diff, reason: Option<String>) -> Result<Value, HouseError> {
    let id = store::id_of(Timestamp::now());
    let folder = store::folder_of(&house.state, &domain.name()).join(&id);
    if folder.exists() {
        return Err(SavedError::Exists(folder).into());
    }
    let wanted = Wanted { folder, reason, diff };
    let (manifest, _) = write(house, domain, &wanted, Standing::go_on)?;
    let event = Event::new(EventId::SnapshotTaken, manifest.taken).domain(domain.name(), Some(domain.domid));
    let event =
        event.with("id", id.as_str()).with("kind", json!(manifest.kind)).with("pause_ms", manifest.pause_ms);
    house.announcer.event(event.with("reason", manifest.reason.clone().unwrap_or_default()));
    Ok(json!({
        "id": id,
        "kind": manifest.kind,
        "pause_ms": manifest.pause_ms,
        "folder": wanted.folder,
    }))
}

/// Writes a domain to a folder. `then` is what becomes of it when all but sums and syncing is done: it goes on, or it stands until the folder is whole.
pub fn write<'a>(
    house: &House,
    domain: &'a Domain,
    wanted: &Wanted,
    then: impl FnOnce(&mut Standing<'a>) -> Result<Duration, CopyError>,
) -> Result<(Manifest, Standing<'a>), HouseError> {
    let mut turn = domain.copies.turn();
    let written = write_in_turn(house, domain, wanted, &mut turn, then);
    // Nothing costs where no diff will be taken.
    if turn.last.is_none()
        && let Err(error) = copying::forget(domain)
    {
        tracing::warn!(%error, "what a domain writes is logged on");
    }
    written
}

fn write_in_turn<'a>(
    house: &House,
    domain: &'a Domain,
    wanted: &Wanted,
    turn: &mut Turn,
    then: impl FnOnce(&mut Standing<'a>) -> Result<Duration, CopyError>,
) -> Result<(Manifest, Standing<'a>), HouseError> {
    let plan = plan(domain, turn, wanted.diff)?;
    let kind = if plan.over.is_some() { Kind::Diff } else { Kind::Full };
    let mut fresh = wanted.folder.file_name().unwrap_or_default().to_owned();
    fresh.push(".new");
    let mut folder = Folder::begin(&wanted.folder.with_file_name(fresh), domain, kind)?;
    let capture = newest_capture(house, domain);
    let mut moment = None;
    let noted = || moment = Some(note(house, capture));
    let mut standing = copying::copy(domain, turn, plan.scope, &mut folder, noted)?;
    let stood = then(&mut standing)?;
    let moment = moment.unwrap_or_else(|| note(house, None));
    if let Some(parent) = &plan.over {
        folder.leave_out_known(parent)?;
    }
    let parent = plan.over.as_ref().map(|over| {
        let leaf = over.leaf();
        store::parent_of(&house.state, &leaf.folder, &leaf.manifest.uuid)
    });
    let manifest = Manifest {
        version: VERSION,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        uuid: uuid::text(uuid::random()),
        kind,
        parent,
        reason: wanted.reason.clone(),
        taken: moment.taken,
        domain: DomainFile { uuid: Some(domain.uuid), ..domain.file.clone() },
        folder: domain.folder.clone(),
        pause_ms: stood.as_secs_f64() * 1e3,
        capture: moment.capture,
        event_seq: moment.event_seq,
        depth: folder.depth().collect(),
        files: Default::default(),
    };
    folder.finish(&wanted.folder, &standing.rest, manifest.clone())?;
    if domain.copies.origin().is_none() {
        turn.last = Some(Last { folder: wanted.folder.clone(), since: Written::default() });
    }
    Ok((manifest, standing))
}

/// A domain that was booted: what it wrote since its last snapshot; one that went on from a snapshot: what it wrote since then.
fn plan(domain: &Domain, turn: &Turn, diff: Diff) -> Result<Plan, SavedError> {
    let full = Plan { scope: Scope::Everything, over: None };
    let (scope, over) = match (diff, domain.copies.origin(), &turn.last) {
        (Diff::No, _, _) | (Diff::IfPossible, None, None) => return Ok(full),
        (Diff::IfPossible, Some(origin), _) => (Scope::SinceRestored, &origin.chain().leaf().folder),
        // One that was removed is nothing that a diff could lie over.
        (Diff::IfPossible, None, Some(last)) if !last.folder.exists() => return Ok(full),
        (Diff::IfPossible, None, Some(last)) => (Scope::SinceLast, &last.folder),
    };
    let over = Chain::open(over)?;
    let layers = domain.disks().iter().map(|disk| over.layers(&disk.spec.vdev).len()).max().unwrap_or(0);
    // A new chain begins before the old one is too long.
    if over.depth().max(layers) >= CHAIN_MAX {
        return Ok(full);
    }
    Ok(Plan { scope, over: Some(over) })
}

/// The file that the domain's traffic goes to, looked for before it stands still.
fn newest_capture(house: &House, domain: &Domain) -> Option<PathBuf> {
    netwatch::capture::newest(&house.state.pcap(), &domain.file.name)
}

fn note(house: &House, capture: Option<PathBuf>) -> Moment {
    let capture = capture.and_then(|path| {
        let bytes = std::fs::metadata(&path).ok()?.len();
        Some(Capture { file: path.file_name()?.to_string_lossy().into_owned(), bytes })
    });
    Moment { taken: Timestamp::now(), capture, event_seq: house.announcer.last_seq() }
}

/// A copy for those who look at it and throw it away: it disturbs no diff.
pub fn passing_copy<'a>(
    domain: &'a Domain,
    path: &Path,
) -> Result<(Folder, Standing<'a>, Duration), HouseError> {
    let mut turn = domain.copies.turn();
    let copied = copy_and_go_on(domain, path, &mut turn);
    if turn.last.is_none()
        && let Err(error) = copying::forget(domain)
    {
        tracing::warn!(%error, "what a domain writes is logged on");
    }
    copied
}

fn copy_and_go_on<'a>(
    domain: &'a Domain,
    path: &Path,
    turn: &mut Turn,
) -> Result<(Folder, Standing<'a>, Duration), HouseError> {
    let mut folder = Folder::begin(path, domain, Kind::Full)?;
    let mut standing = copying::copy(domain, turn, Scope::Everything, &mut folder, || ())?;
    let stood = standing.go_on()?;
    Ok((folder, standing, stood))
}
