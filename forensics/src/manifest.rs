//! The manifest of a case: what was taken, when, by what, and the hashes of every item. Canonical JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::canonical;
use crate::digest::Digest;

/// Name of the manifest in its case.
pub const FILE_NAME: &str = "manifest.json";
const FORMAT: &str = "honeynet-case";
const VERSION: u32 = 1;
/// A manifest has a few items; this is room for hundreds.
pub const BYTES_MAX: u64 = 1 << 20;
/// Items of a case.
pub const ITEMS_MAX: usize = 1000;

/// The domain that a case is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainInfo {
    /// Its name.
    pub name: String,
    /// Its number while it ran.
    pub domid: u32,
    /// Its UUID.
    pub uuid: String,
    /// RAM in bytes.
    pub memory_bytes: u64,
    /// Number of vcpus.
    pub vcpus: u32,
}

/// One file of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// File name in the case's folder.
    pub name: String,
    /// What it is, in words.
    pub what: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// blake3, hexadecimal.
    pub blake3: String,
}

impl Item {
    /// An item with its digest.
    pub fn new(name: &str, what: &str, digest: Digest) -> Item {
        let Digest { bytes, sha256, blake3 } = digest;
        Item { name: name.to_owned(), what: what.to_owned(), bytes, sha256, blake3 }
    }
}

/// The kernel's own note about itself, as found in guest memory: the guest can forge it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmcoreinfoHint {
    /// Guest-physical address of the one that went into the core.
    pub gpa: u64,
    /// How many were found; more than one is a sign of forgery.
    pub found: u64,
    /// Always false: it comes from the guest.
    pub trusted: bool,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `honeynet-case`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// The case's id, which is its folder's name.
    pub case: String,
    /// What it is about.
    pub domain: DomainInfo,
    /// When the domain stood still.
    pub taken: Timestamp,
    /// How long the copy under the pause took, in milliseconds.
    pub copy_ms: u64,
    /// When the case was complete.
    pub written: Timestamp,
    /// What wrote it: `honeynet 0.1.0`.
    pub tool: String,
    /// Head of the journal's hash chain at that time, hexadecimal.
    pub chain_head: Option<String>,
    /// What the operator or the toolstack wants to be said.
    pub notes: Vec<String>,
    /// The kernel's own note, if there was one.
    pub vmcoreinfo: Option<VmcoreinfoHint>,
    /// The files, sorted by name.
    pub items: Vec<Item>,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of this shape.
    #[error("manifest is not what this version writes")]
    Shape(#[from] serde_json::Error),
    /// Right in content, but not byte for byte in the canonical form.
    #[error("manifest is not in canonical form")]
    NotCanonical,
    /// Of another kind or version.
    #[error("manifest has format {format:?} version {version}, not {FORMAT:?} version {VERSION}")]
    Version {
        /// Its format.
        format: String,
        /// Its version.
        version: u32,
    },
    /// A name that would lead out of the folder, or stands twice, or one too many.
    #[error("manifest has an item that cannot be: {name:?}")]
    Name {
        /// The name.
        name: String,
    },
}

impl Manifest {
    /// Format and version of this program.
    pub fn format() -> (String, u32) {
        (FORMAT.to_owned(), VERSION)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical::to_bytes(self)
    }

    /// Parses a manifest; only the canonical form is taken.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            return Err(ManifestError::Version { format: manifest.format, version: manifest.version });
        }
        for (i, item) in manifest.items.iter().enumerate() {
            let twice = i > 0 && manifest.items[i - 1].name >= item.name;
            if twice || i >= ITEMS_MAX || !is_plain_name(&item.name) {
                return Err(ManifestError::Name { name: item.name.clone() });
            }
        }
        if manifest.to_bytes() != bytes {
            return Err(ManifestError::NotCanonical);
        }
        Ok(manifest)
    }
}

/// A file name of letters, digits, `-`, `_` and `.`, which does not begin with a dot.
pub fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(plain)
}
