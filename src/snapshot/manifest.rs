//! The manifest of a snapshot, and the files that it vouches for.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{SavedError, sums};
use crate::domain_file::DomainFile;

/// Of the folder's form.
pub const VERSION: u64 = 2;
/// Names of its files.
pub const MANIFEST: &str = "manifest.json";
/// The domain's state.
pub const STATE: &str = "state.json";
/// The vcpus' registers.
pub const REGISTERS: &str = "registers.json";
/// RAM.
pub const RAM: &str = "ram.img";
/// Which pages of RAM a diff holds.
pub const RAM_MAP: &str = "ram.map";
/// The shim's memory.
pub const SHIM: &str = "shim.img";
const SUMS: &str = ".sums";
/// Bytes of a manifest: it names a few files for each disk.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Whether it can stand alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It holds everything.
    Full,
    /// It holds what differs from its parent.
    Diff,
}

/// What a diff lies over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// Its folder, seen from the diff's own where both are kept together.
    pub folder: PathBuf,
    /// Its uuid.
    pub uuid: String,
}

/// How far the capture of the domain's traffic was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The file's name in STATE/pcap.
    pub file: String,
    /// Bytes that it had.
    pub bytes: u64,
}

/// What a snapshot is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u64,
    /// Who wrote it.
    pub build: String,
    /// What a diff over it knows it by; it stays when it is compacted.
    pub uuid: String,
    /// Whether it can stand alone.
    pub kind: Kind,
    /// What it lies over.
    pub parent: Option<Parent>,
    /// Why it was taken.
    pub reason: Option<String>,
    /// The moment that it is of.
    pub taken: Timestamp,
    /// The domain's file, and where its relative paths start.
    pub domain: DomainFile,
    /// Where these start.
    pub folder: PathBuf,
    /// How long the domain stood still.
    pub pause_ms: f64,
    /// What there was of its capture at that moment.
    pub capture: Option<Capture>,
    /// The number of the last event that the supervisor had told at that moment.
    pub event_seq: u64,
    /// Layers of each disk that lie here.
    pub depth: BTreeMap<String, usize>,
    /// All files but this one; filled in by [`seal`].
    pub files: BTreeMap<String, Content>,
}

/// What is known of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Its length.
    pub bytes: u64,
    /// None: it has sums.
    pub blake3: Option<String>,
}

/// The name of a disk's layer.
pub fn layer_name(vdev: &str, depth: usize) -> String {
    format!("{vdev}.layer.{depth}")
}

/// Makes a file and has it written. It is not synced: [`seal`] does that.
pub fn put(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), SavedError> {
    let opened = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path);
    opened.and_then(|mut file| write(&mut file)).map_err(SavedError::file(path, "written"))
}

/// Sums of the large files, everything synced, the manifest written, and the folder given its name. Nothing is there under that name before.
pub fn seal(fresh: &Path, folder: &Path, mut manifest: Manifest) -> Result<(), SavedError> {
    let names = names(fresh)?;
    for name in names.iter().filter(|name| is_large(name)) {
        let path = fresh.join(name);
        let sums =
            File::open(&path).and_then(|file| sums::of(&file)).map_err(SavedError::file(&path, "read"))?;
        put(&sums_of(&path), |file| file.write_all(&sums))?;
    }
    manifest.files.clear();
    for name in self::names(fresh)? {
        let path = fresh.join(&name);
        sync(&path)?;
        manifest.files.insert(name, content(&path)?);
    }
    let path = fresh.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| SavedError::Manifest { path: path.clone(), source })?;
    put(&path, |file| file.write_all(&text))?;
    sync(&path)?;
    sync(fresh)?;
    std::fs::rename(fresh, folder).map_err(SavedError::file(folder, "written"))?;
    sync(folder.parent().unwrap_or(Path::new("/")))
}

fn sync(path: &Path) -> Result<(), SavedError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(SavedError::file(path, "written"))
}

fn names(folder: &Path) -> Result<Vec<String>, SavedError> {
    let read = || {
        let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
    };
    read().map_err(SavedError::file(folder, "read"))
}

/// Files that have sums: memory and layers.
fn is_large(name: &str) -> bool {
    !name.ends_with(SUMS) && (name == RAM || name == SHIM || name.contains(".layer."))
}

fn sums_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(SUMS);
    name.into()
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
    hashed().map_err(SavedError::file(path, "read"))
}

impl Manifest {
    /// Reads one, without a look at the files that it names.
    ///
    /// # Errors
    /// Anything but a manifest of this version.
    pub fn read(folder: &Path) -> Result<Manifest, SavedError> {
        let path = folder.join(MANIFEST);
        let text = File::open(&path).and_then(|file| {
            let mut text = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, MANIFEST_BYTES_MAX), &mut text).map(|_| text)
        });
        let text = text.map_err(SavedError::file(&path, "read"))?;
        let wrong = |source| SavedError::Manifest { path: path.clone(), source };
        // Another version may have other fields.
        let value: Value = serde_json::from_slice(&text).map_err(wrong)?;
        let version = value["version"].as_u64().unwrap_or(0);
        if version != VERSION && value["version"].is_u64() {
            let build = value["build"].as_str().unwrap_or("of another time").to_owned();
            return Err(SavedError::Version { path: folder.to_owned(), version, build });
        }
        serde_json::from_value(value).map_err(wrong)
    }

    /// Compares every file with it: lengths of the large ones, contents of the small ones.
    ///
    /// # Errors
    /// [`SavedError::Damaged`] with the file's name.
    pub fn check_files(&self, folder: &Path) -> Result<(), SavedError> {
        if let Some(missing) = self.needed().find(|name| !self.files.contains_key(name)) {
            let what = format!("it does not name {missing}");
            return Err(SavedError::Damaged { path: folder.join(MANIFEST), what });
        }
        for (name, wanted) in &self.files {
            let path = folder.join(name);
            let damaged = |what: String| Err(SavedError::Damaged { path: path.clone(), what });
            if Path::new(name).components().count() != 1 || name.starts_with('.') {
                return damaged("no file of a saved domain has that name".to_owned());
            }
            let found = content(&path)?;
            if found.bytes != wanted.bytes {
                return damaged(format!("it has {} bytes instead of {}", found.bytes, wanted.bytes));
            }
            if found.blake3 != wanted.blake3 {
                return damaged("its contents have changed".to_owned());
            }
        }
        Ok(())
    }

    /// Compares one large file with its sums.
    ///
    /// # Errors
    /// [`SavedError::Damaged`] with the page.
    pub fn check_sums(&self, folder: &Path, name: &str) -> Result<(), SavedError> {
        let path = folder.join(name);
        let compared = || sums::damaged(&File::open(&path)?, &std::fs::read(sums_of(&path))?);
        match compared().map_err(SavedError::file(&path, "read"))? {
            None => Ok(()),
            Some(sums::Damaged(at)) => {
                let what = format!("the page at byte {at:#x} has changed");
                Err(SavedError::Damaged { path, what })
            }
        }
    }

    /// Files without which it is none.
    fn needed(&self) -> impl Iterator<Item = String> {
        let map = (self.kind == Kind::Diff).then(|| RAM_MAP.to_owned());
        let large = [RAM.to_owned(), SHIM.to_owned()].into_iter().chain(self.layers());
        let large = large.flat_map(|name| [format!("{name}{SUMS}"), name]);
        [STATE.to_owned(), REGISTERS.to_owned()].into_iter().chain(map).chain(large)
    }

    /// Names of the layers that lie here.
    pub fn layers(&self) -> impl Iterator<Item = String> {
        self.depth.iter().flat_map(|(vdev, count)| (0..*count).map(|depth| layer_name(vdev, depth)))
    }
}
