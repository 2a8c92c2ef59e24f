//! The folder of a case below `STATE/evidence`: written under a hidden name, complete before it gets its own.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::manifest::{self, Manifest, ManifestError, is_plain_name};

/// Cases of the same domain in the same second.
const SAME_SECOND_MAX: u32 = 1000;
/// Cases that are listed.
const CASES_MAX: usize = 10_000;

/// Why a case cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A name that would lead elsewhere.
    #[error("not a case id: {id:?}")]
    Id {
        /// The name.
        id: String,
    },
    /// No such folder, or no manifest in it.
    #[error("cannot read the manifest of {case}")]
    Read {
        /// The folder.
        case: String,
        /// Why.
        source: io::Error,
    },
    /// A manifest that is not one of ours.
    #[error("manifest of {case} is refused")]
    Manifest {
        /// The folder.
        case: String,
        /// Why.
        source: ManifestError,
    },
}

/// What a list of cases shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaseSummary {
    /// The id.
    pub case: String,
    /// The domain's name.
    pub domain: String,
    /// When the domain stood still.
    pub taken: Timestamp,
    /// Bytes of all items.
    pub bytes: u64,
    /// Names of the items.
    pub items: Vec<String>,
}

/// The folder of a case below `evidence`. An id that is not a plain name is refused, wherever it came from.
pub fn folder(evidence: &Path, id: &str) -> Result<PathBuf, CaseError> {
    if !is_plain_name(id) {
        return Err(CaseError::Id { id: id.to_owned() });
    }
    Ok(evidence.join(id))
}

/// The manifest of a case, checked in form but not against the items.
pub fn read_manifest(case: &Path) -> Result<Manifest, CaseError> {
    let name = || case.display().to_string();
    let read = |source| CaseError::Read { case: name(), source };
    let path = case.join(manifest::FILE_NAME);
    if fs::symlink_metadata(&path).map_err(read)?.len() > manifest::BYTES_MAX {
        return Err(read(io::Error::other("it is too long")));
    }
    let bytes = fs::read(&path).map_err(read)?;
    Manifest::parse(&bytes).map_err(|source| CaseError::Manifest { case: name(), source })
}

/// All cases, newest first. Folders without a good manifest are left out.
pub fn list(evidence: &Path) -> io::Result<Vec<CaseSummary>> {
    let entries = match fs::read_dir(evidence) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut out: Vec<CaseSummary> = entries
        .take(CASES_MAX)
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(is_plain_name))
        .filter_map(|entry| read_manifest(&entry.path()).ok())
        .map(|manifest| CaseSummary {
            case: manifest.case,
            domain: manifest.domain.name,
            taken: manifest.taken,
            bytes: manifest.items.iter().map(|item| item.bytes).sum(),
            items: manifest.items.into_iter().map(|item| item.name).collect(),
        })
        .collect();
    out.sort_by(|a, b| (b.taken, &b.case).cmp(&(a.taken, &a.case)));
    Ok(out)
}

/// A case that is being written. Dropped before [`Draft::publish`], it is removed again.
pub struct Draft {
    hidden: PathBuf,
    evidence: PathBuf,
    /// The id that it will have.
    pub id: String,
    published: bool,
}

impl Draft {
    /// Begins a case; its id is `<time>-<domain>`, with a number if there is such a case already.
    pub fn begin(evidence: &Path, domain: &str, taken: Timestamp) -> io::Result<Draft> {
        fs::create_dir_all(evidence)?;
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let domain: String = domain.chars().take(64).map(plain).collect();
        let base = format!("{}-{domain}", taken.strftime("%Y%m%dT%H%M%SZ"));
        for number in 1..=SAME_SECOND_MAX {
            let id = if number == 1 { base.clone() } else { format!("{base}-{number}") };
            let hidden = evidence.join(format!(".{id}.partial"));
            if evidence.join(&id).exists() {
                continue;
            }
            match fs::create_dir(&hidden) {
                Ok(()) => return Ok(Draft { hidden, evidence: evidence.to_owned(), id, published: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{SAME_SECOND_MAX} cases named {base}")))
    }

    /// Where its files are written.
    pub fn path(&self) -> &Path {
        &self.hidden
    }

    /// A new, empty file of the case.
    pub fn create(&self, name: &str) -> io::Result<File> {
        File::options().read(true).write(true).create_new(true).open(self.hidden.join(name))
    }

    /// Writes a small file of the case and brings it to the disk.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut file = self.create(name)?;
        file.write_all(content)?;
        file.sync_all()
    }

    /// Gives the case its name. All files must be synced: whoever sees the name sees a whole case.
    pub fn publish(mut self) -> io::Result<PathBuf> {
        File::open(&self.hidden)?.sync_all()?;
        let path = self.evidence.join(&self.id);
        fs::rename(&self.hidden, &path)?;
        self.published = true;
        File::open(&self.evidence)?.sync_all()?;
        Ok(path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed keeps its hidden name and is never listed.
            let _ = fs::remove_dir_all(&self.hidden);
        }
    }
}

/// Removes what a killed acquisition left. Call it when none can be running: at the supervisor's start.
pub fn remove_partial(evidence: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(evidence)?.filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".partial") {
            fs::remove_dir_all(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}
