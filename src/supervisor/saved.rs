//! Saved domains: a folder with all that a domain needs to go on. It is written under another name, synced and renamed, so that half a
//! one is never taken for whole.
//!
//! `manifest.json` (last, with the lengths of all other files, and the BLAKE3 of the small ones), `state.json` (`honeyvmm::machine::DomainState`), `ram.img` and
//! `shim.img` (holes where nothing is), `VDEV.layer.N` of each disk, the lowest first;
//! beside each of the large ones its `.sums`. Images and kernel stay where they are.

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
use super::launch::Beginning;
use super::{resources, sums};
use crate::domain_file::DomainFile;

/// Of the folder's form.
const VERSION: u32 = 1;
const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
const RAM: &str = "ram.img";
const SHIM: &str = "shim.img";
const SUMS: &str = ".sums";

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
    /// Layers of each disk.
    depth: BTreeMap<String, usize>,
    files: BTreeMap<String, Content>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    bytes: u64,
    /// None: it has sums.
    blake3: Option<String>,
}

/// A saved domain that is about to go on.
pub struct Saved {
    /// `DomainState` as JSON.
    pub state: File,
    folder: PathBuf,
    depth: BTreeMap<String, usize>,
}

impl Saved {
    /// What RAM held; it is mapped, not read.
    pub fn ram(&self) -> Result<File, SavedError> {
        self.open(RAM)
    }

    /// Gives the shim's memory the bytes that it held.
    pub fn fill_shim(&self, shim: &File) -> Result<(), SavedError> {
        let copied = resources::copy(&self.open(SHIM)?, shim);
        copied.map_err(|source| SavedError::File { path: self.folder.join(SHIM), done: "read", source })
    }

    /// The layers of a disk, the lowest first.
    pub fn layers(&self, vdev: &str) -> Vec<PathBuf> {
        let count = self.depth.get(vdev).copied().unwrap_or(0);
        (0..count).map(|depth| self.folder.join(layer_name(vdev, depth))).collect()
    }

    /// Compares RAM and layers with their sums.
    pub fn check(&self) -> Result<(), SavedError> {
        let layers = self.depth.iter();
        let layers = layers.flat_map(|(vdev, count)| (0..*count).map(|depth| layer_name(vdev, depth)));
        [RAM.to_owned()].into_iter().chain(layers).try_for_each(|name| check(&self.folder.join(name)))
    }

    fn open(&self, name: &str) -> Result<File, SavedError> {
        let path = self.folder.join(name);
        File::open(&path).map_err(|source| SavedError::File { path, done: "read", source })
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
    put(&fresh.join(RAM), |file| domain.ram.copy_to(file))?;
    put(&fresh.join(SHIM), |file| resources::copy(domain.observer.shim(), file))?;
    let mut depth = BTreeMap::new();
    for disk in domain.disks() {
        let layers: Vec<&File> = disk.frozen.iter().chain(&disk.layer).collect();
        for (index, layer) in layers.iter().enumerate() {
            put(&fresh.join(layer_name(&disk.spec.vdev, index)), |file| resources::copy(layer, file))?;
        }
        depth.insert(disk.spec.vdev.clone(), layers.len());
    }
    let pause_ms = Timestamp::now().duration_since(begun).as_secs_f64() * 1e3;
    for path in large(&fresh).map_err(wrong(&fresh))? {
        let sums = File::open(&path).and_then(|file| sums::of(&file)).map_err(wrong(&path))?;
        put(&sums_of(&path), |file| file.write_all(&sums))?;
    }
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
        depth,
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

/// Files that have sums: memory and layers.
fn is_large(name: &str) -> bool {
    !name.ends_with(SUMS) && (name == RAM || name == SHIM || name.contains(".layer."))
}

fn large(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let large = entries.iter().filter(|entry| is_large(&entry.file_name().to_string_lossy()));
    Ok(large.map(std::fs::DirEntry::path).collect())
}

fn sums_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUMS);
    name.into()
}

/// Compares a file with its sums.
fn check(path: &Path) -> Result<(), SavedError> {
    let compared = || {
        let sums = std::fs::read(sums_of(path))?;
        sums::damaged(&File::open(path)?, &sums)
    };
    let damaged =
        compared().map_err(|source| SavedError::File { path: path.to_owned(), done: "read", source })?;
    match damaged {
        None => Ok(()),
        Some(sums::Damaged(at)) => {
            let what = format!("the page at byte {at:#x} has changed");
            Err(SavedError::Damaged { path: path.to_owned(), what })
        }
    }
}

fn content(path: &Path) -> Result<Content, SavedError> {
    let hashed = || -> io::Result<Content> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if is_large(&name) {
            return Ok(Content { bytes: std::fs::metadata(path)?.len(), blake3: None });
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(Content { bytes: hasher.count(), blake3: Some(hasher.finalize().to_hex().to_string()) })
    };
    hashed().map_err(|source| SavedError::File { path: path.to_owned(), done: "read", source })
}

fn layer_name(vdev: &str, depth: usize) -> String {
    format!("{vdev}.layer.{depth}")
}

/// A saved domain as it was found.
pub struct Opened {
    /// The domain's file, and where its relative paths start.
    pub file: DomainFile,
    pub folder: PathBuf,
    pub saved: Arc<Saved>,
}

/// Looks at a saved domain: all of it is there, and what is small or goes into ring 0 is as it was written.
pub fn open(folder: &Path) -> Result<Opened, SavedError> {
    let manifest = read(folder)?;
    let path = folder.join(STATE);
    let state = File::open(&path).map_err(|source| SavedError::File { path, done: "read", source })?;
    let saved = Arc::new(Saved { state, folder: folder.to_owned(), depth: manifest.depth });
    Ok(Opened { file: manifest.domain, folder: manifest.folder, saved })
}

/// Has a saved domain go on. Its RAM and disks are read when the guest comes there; that all of them are as they were written is looked at
/// meanwhile, and before if that is wanted.
pub fn restore(
    house: &Arc<House>,
    folder: &Path,
    paused: bool,
    verify_first: bool,
) -> Result<Value, HouseError> {
    let opened = open(folder)?;
    if verify_first {
        opened.saved.check()?;
    }
    let uuid = opened.file.uuid.unwrap_or_default();
    let saved = opened.saved;
    let beginning = Beginning { saved: Some(Arc::clone(&saved)), parked: paused, ..Beginning::default() };
    let domain = house.build(opened.file, opened.folder, uuid, beginning)?;
    if !verify_first {
        let doubtful = Arc::clone(&domain);
        let house = Arc::clone(house);
        check_beside(saved, move |error| house.take_down_damaged(&doubtful, error))?;
    }
    Ok(domain.row())
}

/// Compares a saved domain with its sums while it runs already. A guest that reads what was never its own does not run on: that is `damaged`'s.
pub fn check_beside(
    saved: Arc<Saved>,
    damaged: impl FnOnce(&SavedError) + Send + 'static,
) -> Result<(), SavedError> {
    let folder = saved.folder.clone();
    let checking = std::thread::Builder::new().name("verify".into()).spawn(move || {
        if let Err(error) = saved.check() {
            damaged(&error);
        }
    });
    checking.map(drop).map_err(|source| SavedError::File { path: folder, done: "verified", source })
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
    // What runs in ring 0, or is trusted by what does.
    check(&folder.join(SHIM))?;
    Ok(manifest)
}
