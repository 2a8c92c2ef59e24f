//! Why a snapshot cannot be written, read or used.

use std::io;
use std::path::{Path, PathBuf};

use honeyvmm::disk::DiskError;
use honeyvmm::page_map::PageMapError;

use super::chain::CHAIN_MAX;
use super::manifest::VERSION;

/// Why a domain is not saved, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// There is something already.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// A file cannot be read or written.
    #[error("{path} cannot be {done}")]
    File {
        /// Which.
        path: PathBuf,
        /// Read, or written.
        done: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The manifest is none.
    #[error("{path} is no manifest of a saved domain")]
    Manifest {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Another form.
    #[error(
        "saved domain {path} has version {version}, this build reads {VERSION}; it was written by honeynet {build}"
    )]
    Version {
        /// The folder.
        path: PathBuf,
        /// Its version.
        version: u64,
        /// Who wrote it.
        build: String,
    },
    /// A file is not as it was written.
    #[error("{path} is not as it was written: {what}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How it differs.
        what: String,
    },
    /// A layer is none.
    #[error("layer {path} cannot be used")]
    Layer {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: DiskError,
    },
    /// The map of a diff is none.
    #[error("{path} is not the map of a diff")]
    Map {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: PageMapError,
    },
    /// Its disks are written without a layer: the image itself goes on changing.
    #[error("disk {vdev} of domain {name} has no copy-on-write layer (hn_layer = 1), so it cannot be saved")]
    NoLayer {
        /// The domain.
        name: String,
        /// The disk.
        vdev: String,
    },
    /// What a diff lies over cannot be used.
    #[error("snapshot {folder} needs {parent}")]
    Parent {
        /// The diff.
        folder: PathBuf,
        /// Its parent.
        parent: PathBuf,
        /// What is wrong with that.
        #[source]
        source: Box<SavedError>,
    },
    /// Something else lies where the parent was.
    #[error("{0} is another snapshot than the one that was there")]
    OtherParent(PathBuf),
    /// Diff over diff over diff.
    #[error("{0} lies over more than {CHAIN_MAX} others; compact one of them")]
    TooDeep(PathBuf),
    /// A domain cannot have that name.
    #[error("{0:?} is not a plain name of at most 64 characters")]
    Name(String),
    /// No such snapshot.
    #[error("there is no snapshot {0}")]
    NotFound(String),
    /// Several domains have one of this id.
    #[error("several domains have a snapshot {0}: name it as DOMAIN/ID")]
    Ambiguous(String),
    /// Others lie over it.
    #[error("snapshot {id} is needed by {by}")]
    Needed {
        /// Which.
        id: String,
        /// Who needs it.
        by: String,
    },
    /// A domain goes on from it, or somebody reads it.
    #[error("snapshot {0} is in use")]
    InUse(String),
    /// It has no parent.
    #[error("snapshot {0} is full already")]
    Full(String),
}

impl SavedError {
    /// For an error at this file.
    pub fn file(path: &Path, done: &'static str) -> impl FnOnce(io::Error) -> SavedError {
        let path = path.to_owned();
        move |source| SavedError::File { path, done, source }
    }
}
