//! Saved domains: a folder with all that a domain needs to go on. It is written under another name, synced and renamed, so that half a
//! one is never taken for whole.
//!
//! `manifest.json` (last, with length and BLAKE3 of every other file), `state.json` (`honeyvmm::machine::DomainState`), `ram.img` and
//! `shim.img` (holes where nothing is), `VDEV.layer` of each disk. Images and kernel stay where they are.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::domain::{Domain, Life};
use super::house::{House, HouseError};
use super::resources;
use crate::domain_file::DomainFile;

/// Of the folder's form.
const VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
const RAM: &str = "ram.img";
const SHIM: &str = "shim.img";

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
        version: u32,
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
    /// Its disks are written without a layer: the image itself goes on changing.
    #[error("disk {vdev} of domain {name} has no copy-on-write layer (hn_layer = 1), so it cannot be saved")]
    NoLayer {
        /// The domain.
        name: String,
        /// The disk.
        vdev: String,
    },
}

/// What a saved domain is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    build: String,
    saved: Timestamp,
    /// The domain's file, and where its relative paths start.
    domain: DomainFile,
    folder: PathBuf,
    /// How long the domain stood still.
    pause_ms: f64,
    files: BTreeMap<String, Content>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    bytes: u64,
    blake3: String,
}

/// A saved domain that is about to go on.
pub struct Saved {
    /// `DomainState` as JSON.
    pub state: File,
    folder: PathBuf,
    layers: Vec<String>,
}

impl Saved {
    /// Gives memory the bytes that it held, and the domain's folder the layers of its disks.
    pub fn fill(&self, ram: &File, shim: &File, own: &Path) -> Result<(), SavedError> {
        for (name, memory) in [(RAM, ram), (SHIM, shim)] {
            let path = self.folder.join(name);
            let filled = File::open(&path).and_then(|image| resources::copy(&image, memory));
            filled.map_err(|source| SavedError::File { path, done: "read", source })?;
        }
        for name in &self.layers {
            let path = self.folder.join(name);
            let copied = File::open(&path).and_then(|layer| {
                let to = own.join(name);
                let fresh =
                    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(to)?;
                resources::copy(&layer, &fresh)
            });
            copied.map_err(|source| SavedError::File { path, done: "read", source })?;
        }
        Ok(())
    }
}

/// Writes the domain down and takes it away.
pub fn save(house: &Arc<House>, domain: &Arc<Domain>, folder: &Path) -> Result<Value, HouseError> {
    let begun = Timestamp::now();
    for disk in domain.disks() {
        if disk.layer.is_none() && !disk.spec.read_only {
            let (name, vdev) = (domain.name(), disk.spec.vdev.clone());
            return Err(SavedError::NoLayer { name, vdev }.into());
        }
    }
    if folder.exists() {
        return Err(SavedError::Exists(folder.to_owned()).into());
    }
    let was = domain.life();
    if was != Life::Paused {
        house.pause(domain)?;
    }
    let written = write(house, domain, folder, begun);
    match written {
        Ok(answer) => {
            house.destroy(domain)?;
            Ok(answer)
        }
        Err(error) => {
            if was != Life::Paused {
                house.unpause(domain)?;
            }
            Err(error)
        }
    }
}

fn write(house: &House, domain: &Domain, folder: &Path, begun: Timestamp) -> Result<Value, HouseError> {
    let state = house.ask(domain, "save")?;
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = folder.with_file_name(name);
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |source| SavedError::File { path, done: "written", source }
    };
    // What an earlier attempt left is nobody's.
    if fresh.exists() {
        std::fs::remove_dir_all(&fresh).map_err(wrong(&fresh))?;
    }
    house.state.make(&fresh).map_err(wrong(&fresh))?;
    let text = serde_json::to_vec(&state).unwrap_or_default();
    put(&fresh.join(STATE), |file| file.write_all(&text))?;
    put(&fresh.join(RAM), |file| resources::copy(&domain.ram, file))?;
    put(&fresh.join(SHIM), |file| resources::copy(domain.observer.shim(), file))?;
    for disk in domain.disks() {
        if let Some(layer) = &disk.layer {
            put(&fresh.join(layer_name(&disk.spec.vdev)), |file| resources::copy(layer, file))?;
        }
    }
    let pause_ms = Timestamp::now().duration_since(begun).as_secs_f64() * 1e3;
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&fresh).map_err(wrong(&fresh))? {
        let entry = entry.map_err(wrong(&fresh))?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), content(&entry.path())?);
    }
    let manifest = Manifest {
        version: VERSION,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        saved: Timestamp::now(),
        domain: DomainFile { uuid: Some(domain.uuid), ..domain.file.clone() },
        folder: domain.folder.clone(),
        pause_ms,
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| SavedError::Manifest { path: fresh.join(MANIFEST), source })?;
    put(&fresh.join(MANIFEST), |file| file.write_all(&text))?;
    let renamed = sync_folder(&fresh)
        .and_then(|()| std::fs::rename(&fresh, folder))
        .and_then(|()| sync_folder(folder.parent().unwrap_or(Path::new("/"))));
    renamed.map_err(wrong(folder))?;
    Ok(json!({ "folder": folder, "pause_ms": pause_ms }))
}

/// Writes one file and sees it on the disk.
fn put(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), SavedError> {
    let opened = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| write(&mut file).and_then(|()| file.sync_all()));
    written.map_err(|source| SavedError::File { path: path.to_owned(), done: "written", source })
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn content(path: &Path) -> Result<Content, SavedError> {
    let hashed = || -> io::Result<Content> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(Content { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
    };
    hashed().map_err(|source| SavedError::File { path: path.to_owned(), done: "read", source })
}

fn layer_name(vdev: &str) -> String {
    format!("{vdev}.layer")
}

/// Has a saved domain go on.
pub fn restore(house: &Arc<House>, folder: &Path, paused: bool) -> Result<Value, HouseError> {
    let manifest = read(folder)?;
    let path = folder.join(STATE);
    let state = File::open(&path).map_err(|source| SavedError::File { path, done: "read", source })?;
    let layers = manifest.files.keys().filter(|name| name.ends_with(".layer")).cloned().collect();
    let saved = Saved { state, folder: folder.to_owned(), layers };
    let uuid = manifest.domain.uuid.unwrap_or_default();
    let domain = house.build(manifest.domain, manifest.folder, uuid, Some(saved))?;
    if paused {
        house.pause(&domain)?;
    }
    Ok(domain.row())
}

/// The manifest, after every file was compared with it.
fn read(folder: &Path) -> Result<Manifest, SavedError> {
    let path = folder.join(MANIFEST);
    let text = std::fs::read(&path).map_err(|source| SavedError::File {
        path: path.clone(),
        done: "read",
        source,
    })?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|source| SavedError::Manifest { path, source })?;
    if manifest.version != VERSION {
        let (path, version, build) = (folder.to_owned(), manifest.version, manifest.build);
        return Err(SavedError::Version { path, version, build });
    }
    for (name, wanted) in &manifest.files {
        let path = folder.join(name);
        if Path::new(name).components().count() != 1 || name.starts_with('.') {
            return Err(SavedError::Damaged {
                path,
                what: "no file of a saved domain has that name".to_owned(),
            });
        }
        let found = content(&path)?;
        if found.bytes != wanted.bytes {
            let what = format!("it has {} bytes instead of {}", found.bytes, wanted.bytes);
            return Err(SavedError::Damaged { path, what });
        }
        if found.blake3 != wanted.blake3 {
            return Err(SavedError::Damaged { path, what: "its contents have changed".to_owned() });
        }
    }
    Ok(manifest)
}
