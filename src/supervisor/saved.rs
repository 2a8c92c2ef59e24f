//! Domains that are written down and go on: `save` and `restore`. What the folder holds is `crate::snapshot`'s.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::beginning::{Beginning, Origin};
use super::domain::Domain;
use super::house::{House, HouseError};
use super::snapshot::{self, Diff, Wanted};
use crate::domain_file;
pub use crate::snapshot::SavedError;
use crate::snapshot::{Chain, Manifest, STATE};
use crate::sparse;

/// A saved domain that is about to go on, or has: nobody removes or changes what it lies over meanwhile.
pub struct Saved {
    /// `DomainState` as JSON.
    pub state: File,
    chain: Chain,
}

impl Saved {
    /// Opens it; all but RAM and layers is compared with what was written.
    pub fn open(folder: &Path) -> Result<Saved, SavedError> {
        let chain = Chain::open(folder)?;
        Ok(Saved { state: chain.leaf().file(STATE)?, chain })
    }

    /// It and what it lies over.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// What it is.
    pub fn manifest(&self) -> &Manifest {
        &self.chain.leaf().manifest
    }

    /// What RAM held, but for what diffs hold; it is mapped, not read.
    pub fn ram(&self) -> Result<File, SavedError> {
        self.chain.ram()
    }

    /// Pages that differ from that and the maps of these, the oldest first; they are read before the first instruction.
    pub fn ram_diffs(&self) -> Result<Vec<(File, File)>, SavedError> {
        self.chain.ram_diffs()
    }

    /// Gives the shim's memory the bytes that it held.
    pub fn fill_shim(&self, shim: &File) -> Result<(), SavedError> {
        let leaf = self.chain.leaf();
        let path = leaf.folder.join(crate::snapshot::SHIM);
        sparse::copy(&leaf.file(crate::snapshot::SHIM)?, shim).map_err(SavedError::file(&path, "read"))
    }

    /// The layers of a disk, the lowest first.
    pub fn layers(&self, vdev: &str) -> Vec<PathBuf> {
        self.chain.layers(vdev)
    }

    /// Compares RAM and layers with their sums.
    pub fn check(&self) -> Result<(), SavedError> {
        self.chain.check()
    }
}

/// Writes the domain down and takes it away.
pub fn save(house: &Arc<House>, domain: &Arc<Domain>, folder: &Path) -> Result<Value, HouseError> {
    if folder.exists() {
        return Err(SavedError::Exists(folder.to_owned()).into());
    }
    let wanted = Wanted { folder: folder.to_owned(), reason: None, diff: Diff::No };
    // It does not run on meanwhile: what it would do here, it will do when it goes on.
    let (written, standing) = snapshot::write(house, domain, &wanted, |standing| Ok(standing.elapsed()))?;
    house.destroy(domain)?;
    standing.stay();
    Ok(json!({ "folder": folder, "pause_ms": written.pause_ms }))
}

/// Has a saved domain go on. Its RAM and disks are read when the guest comes there; that all of them are as they were written is looked at
/// meanwhile, and before if that is wanted.
pub fn restore(
    house: &Arc<House>,
    folder: &Path,
    name: Option<String>,
    paused: bool,
    verify_first: bool,
) -> Result<Value, HouseError> {
    if let Some(name) = name.as_ref().filter(|name| !domain_file::is_name(name)) {
        return Err(SavedError::Name(name.clone()).into());
    }
    let saved = Arc::new(Saved::open(folder)?);
    if verify_first {
        saved.check()?;
    }
    let manifest = saved.manifest();
    let (mut file, uuid) = (manifest.domain.clone(), manifest.domain.uuid.unwrap_or_default());
    file.name = name.unwrap_or(file.name);
    let origin = Origin::Saved(Arc::clone(&saved));
    let beginning = Beginning { origin, parked: paused, ..Beginning::default() };
    let domain = house.build(file, manifest.folder.clone(), uuid, beginning)?;
    if !verify_first {
        let (house, doubtful) = (Arc::clone(house), Arc::clone(&domain));
        check_beside(saved, move |error| house.take_down_damaged(&doubtful, error))?;
    }
    Ok(domain.row())
}

/// Compares a saved domain with its sums while it runs already. A guest that reads what was never its own does not run on: that is `damaged`'s.
pub fn check_beside(
    saved: Arc<Saved>,
    damaged: impl FnOnce(&SavedError) + Send + 'static,
) -> Result<(), SavedError> {
    let folder = saved.chain.leaf().folder.clone();
    let checking = std::thread::Builder::new().name("verify".into()).spawn(move || {
        if let Err(error) = saved.check() {
            damaged(&error);
        }
    });
    checking.map(drop).map_err(|source| SavedError::File { path: folder, done: "verified", source })
}
