//! The snapshots of a state directory: STATE/snapshots/DOMAIN/ID. Ids sort by time.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::FlockOperation;

use super::manifest::{MANIFEST, Manifest, Parent};
use super::{Chain, SavedError};
use crate::state::State;

/// What is not yet a snapshot, or no longer one.
const UNFINISHED: &str = ".new";
/// Snapshots of one domain that are listed; the oldest are left out.
const LISTED_MAX: usize = 10_000;

/// A snapshot of the list.
pub struct Entry {
    /// The folder that it is in: its domain's name.
    pub domain: String,
    /// Its id.
    pub id: String,
    /// What it is, or why it cannot be read.
    pub manifest: Result<Manifest, SavedError>,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
}

/// The id of a snapshot of this moment.
pub fn id_of(moment: Timestamp) -> String {
    moment.strftime("%Y%m%dT%H%M%S%3f").to_string()
}

/// Where the snapshots of a domain lie.
pub fn folder_of(state: &State, domain: &str) -> PathBuf {
    state.snapshots().join(domain)
}

/// How a diff names its parent: seen from where it lies itself, if both are of this state directory.
pub fn parent_of(state: &State, folder: &Path, uuid: &str) -> Parent {
    let folder = match folder.strip_prefix(state.snapshots()) {
        Ok(inside) => Path::new("../..").join(inside),
        Err(_) => folder.to_owned(),
    };
    Parent { folder, uuid: uuid.to_owned() }
}

/// All snapshots, or those of a domain; by domain, the oldest first.
///
/// # Errors
/// A folder cannot be read.
pub fn list(state: &State, domain: Option<&str>) -> Result<Vec<Entry>, SavedError> {
    let domains = match domain {
        Some(domain) => vec![domain.to_owned()],
        None => folders(&state.snapshots())?,
    };
    let mut found = Vec::new();
    for domain in domains {
        let folder = folder_of(state, &domain);
        let mut ids = folders(&folder)?;
        ids.retain(|id| !id.ends_with(UNFINISHED));
        for id in &ids[ids.len().saturating_sub(LISTED_MAX)..] {
            let path = folder.join(id);
            let manifest = Manifest::read(&path);
            let bytes = bytes_of(&path).map_err(SavedError::file(&path, "read"))?;
            found.push(Entry { domain: domain.clone(), id: id.clone(), manifest, bytes });
        }
    }
    Ok(found)
}

/// The folder of a snapshot: by id, or by DOMAIN/ID.
///
/// # Errors
/// There is none; there are several.
pub fn find(state: &State, id: &str) -> Result<PathBuf, SavedError> {
    let plain = |word: &str| !word.is_empty() && !word.starts_with('.') && !word.contains('/');
    let (domains, wanted) = match id.split_once('/') {
        Some((domain, id)) => (vec![domain.to_owned()], id),
        None => (folders(&state.snapshots())?, id),
    };
    let finished =
        plain(wanted) && !wanted.ends_with(UNFINISHED) && domains.iter().all(|domain| plain(domain));
    let folders = domains.iter().map(|domain| folder_of(state, domain).join(wanted));
    let mut found = folders.filter(|folder| finished && folder.is_dir());
    match (found.next(), found.next()) {
        (Some(folder), None) => Ok(folder),
        (None, _) => Err(SavedError::NotFound(id.to_owned())),
        (Some(_), Some(_)) => Err(SavedError::Ambiguous(id.to_owned())),
    }
}

/// Removes a snapshot that nobody needs.
///
/// # Errors
/// Another one lies over it, a domain goes on from it, or would if it were started again.
pub fn remove(state: &State, id: &str) -> Result<(), SavedError> {
    let folder = find(state, id)?;
    let needed = |by: String| SavedError::Needed { id: id.to_owned(), by };
    for entry in list(state, None)? {
        let own = folder_of(state, &entry.domain).join(&entry.id);
        let parent = entry.manifest.ok().and_then(|manifest| manifest.parent);
        let parent = parent.and_then(|parent| own.join(parent.folder).canonicalize().ok());
        if parent.is_some() && parent == folder.canonicalize().ok() {
            return Err(needed(format!("{}/{}", entry.domain, entry.id)));
        }
    }
    if let Some(domain) = domain_over(state, &folder)? {
        return Err(needed(format!("domain {domain}")));
    }
    let path = folder.join(MANIFEST);
    if let Ok(manifest) = File::open(&path)
        && rustix::fs::flock(&manifest, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        return Err(SavedError::InUse(id.to_owned()));
    }
    // Not a snapshot any more before the first file is gone.
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(UNFINISHED);
    let gone = folder.with_file_name(name);
    std::fs::rename(&folder, &gone)
        .and_then(|()| std::fs::remove_dir_all(&gone))
        .map_err(SavedError::file(&folder, "removed"))
}

/// Takes away what a supervisor that was killed has not finished, snapshots and passing copies.
///
/// # Errors
/// The host's.
pub fn remove_unfinished(state: &State) -> io::Result<()> {
    let mut places = vec![state.run()];
    match std::fs::read_dir(state.snapshots()) {
        Ok(domains) => places.extend(domains.flatten().map(|domain| domain.path())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for place in places {
        for entry in std::fs::read_dir(place)?.flatten() {
            if entry.path().is_dir() && entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Compares all of a snapshot, and of what it lies over, with what was written.
///
/// # Errors
/// The first thing that differs.
pub fn verify(state: &State, id: &str) -> Result<Chain, SavedError> {
    let chain = Chain::open(&find(state, id)?)?;
    chain.check()?;
    Ok(chain)
}

/// A domain whose disk lies over layers of this folder, though it may not run.
fn domain_over(state: &State, folder: &Path) -> Result<Option<String>, SavedError> {
    let domains = state.root().join("domains");
    for name in folders(&domains)? {
        let own = state.domain(&name);
        let entries = std::fs::read_dir(&own).map_err(SavedError::file(&own, "read"))?;
        let below = entries.flatten().map(|entry| entry.path());
        let below = below.filter(|path| path.extension().is_some_and(|extension| extension == "below"));
        for path in below {
            let text = std::fs::read(&path).map_err(SavedError::file(&path, "read"))?;
            let layers: Vec<PathBuf> = serde_json::from_slice(&text).unwrap_or_default();
            if layers.iter().any(|layer| layer.starts_with(folder)) {
                return Ok(Some(name));
            }
        }
    }
    Ok(None)
}

/// Names of the folders in a folder, sorted; none where there is no folder.
fn folders(folder: &Path) -> Result<Vec<String>, SavedError> {
    let read = || {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let folders = entries.iter().filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> =
            folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    };
    read().map_err(SavedError::file(folder, "read"))
}

fn bytes_of(folder: &Path) -> io::Result<u64> {
    /// Of `st_blocks`.
    const BLOCK_BYTES: u64 = 512;
    let entries = std::fs::read_dir(folder)?;
    entries.map(|entry| Ok(entry?.metadata()?.blocks() * BLOCK_BYTES)).sum()
}
