//! Verification of a case, offline: the manifest, its signature, every item, and that nothing else is there.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use crate::case::{CaseError, read_manifest};
use crate::manifest::{Item, Manifest};
use crate::signature::{self, SignatureVerdict};
use crate::{custody, digest, manifest};

/// Files beside the items that a report names.
const EXTRA_MAX: usize = 1000;

/// What is wrong with an item, if anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ItemVerdict {
    /// As the manifest says.
    Good,
    /// Not there, or not a regular file.
    Missing,
    /// Cannot be read.
    Unreadable(String),
    /// Another length.
    Length {
        /// In the manifest.
        expected: u64,
        /// On the disk.
        found: u64,
    },
    /// Same length, other content.
    Content {
        /// blake3 in the manifest.
        expected: String,
        /// blake3 of the file.
        found: String,
    },
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// The case's id.
    pub case: String,
    /// Each item of the manifest.
    pub items: Vec<(String, ItemVerdict)>,
    /// Files that the manifest does not name.
    pub extra: Vec<String>,
    /// The signature.
    pub signature: SignatureVerdict,
    /// The first line of the custody log that does not fit its chain; `Some(0)` if there is no log, or it does not begin with
    /// this manifest.
    pub custody_broken_at: Option<usize>,
    /// The folder has another name than the case.
    pub renamed: bool,
}

impl VerifyReport {
    /// Every item is as it was, nothing was added, and no signature says otherwise.
    pub fn is_intact(&self) -> bool {
        let signature_fits = matches!(
            self.signature,
            SignatureVerdict::Good { .. } | SignatureVerdict::GoodOfUnknownKey { .. }
        );
        let items_fit = self.items.iter().all(|(_, verdict)| *verdict == ItemVerdict::Good);
        items_fit && signature_fits && self.extra.is_empty() && self.custody_broken_at.is_none()
    }

    /// One line for each thing that is wrong.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        for (name, verdict) in &self.items {
            match verdict {
                ItemVerdict::Good => {}
                ItemVerdict::Missing => out.push(format!("{name} is missing")),
                ItemVerdict::Unreadable(why) => out.push(format!("{name} cannot be read: {why}")),
                ItemVerdict::Length { expected, found } => {
                    out.push(format!("{name} has {found} bytes, the manifest says {expected}"));
                }
                ItemVerdict::Content { expected, found } => {
                    out.push(format!("{name} was changed: blake3 is {found}, the manifest says {expected}"));
                }
            }
        }
        out.extend(self.extra.iter().map(|name| format!("{name} is not in the manifest")));
        match &self.signature {
            SignatureVerdict::Good { .. } | SignatureVerdict::GoodOfUnknownKey { .. } => {}
            SignatureVerdict::OtherKey { public_key } => {
                out.push(format!("signed by another key: {public_key}"))
            }
            SignatureVerdict::Bad => out.push("the signature does not fit the manifest".to_owned()),
            SignatureVerdict::Missing => out.push("the case is not signed".to_owned()),
        }
        match self.custody_broken_at {
            None => {}
            Some(0) => out.push("the custody log does not begin with this manifest".to_owned()),
            Some(line) => out.push(format!("the custody log is broken at line {line}")),
        }
        out
    }
}

/// Verifies a case. `expected_key` is the public key in hexadecimal; without it a signature proves only that manifest and
/// signature belong together. `tick` is told how many more bytes were read.
pub fn verify(
    case: &Path,
    expected_key: Option<&str>,
    tick: &(dyn Fn(u64) + Sync),
) -> Result<VerifyReport, CaseError> {
    let manifest = read_manifest(case)?;
    let bytes = manifest.to_bytes();
    let signature = match fs::read(case.join(signature::FILE_NAME)) {
        Ok(signature) => signature::verify(&bytes, &signature, expected_key),
        Err(_) => SignatureVerdict::Missing,
    };
    // Items are hashed two at a time: memory and disks are of a like size.
    let verdicts = std::thread::scope(|scope| {
        let (left, right) = manifest.items.split_at(manifest.items.len() / 2);
        let check_all =
            |items: &[Item]| items.iter().map(|item| check_item(case, item, tick)).collect::<Vec<_>>();
        let other = scope.spawn(move || check_all(right));
        let mut verdicts = check_all(left);
        verdicts.extend(other.join().unwrap_or_default());
        verdicts
    });
    let unreadable = || ItemVerdict::Unreadable("the verifying thread panicked".to_owned());
    let verdicts = verdicts.into_iter().chain(std::iter::repeat_with(unreadable));
    Ok(VerifyReport {
        case: manifest.case.clone(),
        items: manifest.items.iter().map(|item| item.name.clone()).zip(verdicts).collect(),
        extra: extra_files(case, &manifest),
        signature,
        custody_broken_at: custody_break(case, &bytes),
        renamed: case.file_name().is_none_or(|name| name != manifest.case.as_str()),
    })
}

fn check_item(case: &Path, item: &Item, tick: &(dyn Fn(u64) + Sync)) -> ItemVerdict {
    let file = match open_regular(&case.join(&item.name)) {
        Ok(Some(file)) => file,
        Ok(None) => return ItemVerdict::Missing,
        Err(error) => return ItemVerdict::Unreadable(error.to_string()),
    };
    match file.metadata() {
        Ok(metadata) if metadata.len() == item.bytes => {}
        Ok(metadata) => return ItemVerdict::Length { expected: item.bytes, found: metadata.len() },
        Err(error) => return ItemVerdict::Unreadable(error.to_string()),
    }
    match digest::of_file(&file, tick) {
        Ok(found) if found.sha256 == item.sha256 && found.blake3 == item.blake3 => ItemVerdict::Good,
        Ok(found) => ItemVerdict::Content { expected: item.blake3.clone(), found: found.blake3 },
        Err(error) => ItemVerdict::Unreadable(error.to_string()),
    }
}

/// Opens a regular file. A link could name a good file elsewhere, and a pipe would make us wait.
pub fn open_regular(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(descriptor) => {
            let file = File::from(descriptor);
            Ok(file.metadata()?.is_file().then_some(file))
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn extra_files(case: &Path, manifest: &Manifest) -> Vec<String> {
    let known = |name: &str| {
        matches!(name, manifest::FILE_NAME | signature::FILE_NAME | custody::FILE_NAME)
            || manifest.items.iter().any(|item| item.name == name)
    };
    let Ok(entries) = fs::read_dir(case) else { return Vec::new() };
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut out: Vec<String> = names.filter(|name| !known(name)).take(EXTRA_MAX).collect();
    out.sort();
    out
}

fn custody_break(case: &Path, manifest: &[u8]) -> Option<usize> {
    let Ok((entries, broken)) = custody::read(case) else { return Some(0) };
    let hash = blake3::hash(manifest).to_string();
    match entries.first() {
        Some(first) if first.action == "acquired" && first.detail.contains(&hash) => broken,
        Some(_) => Some(0),
        None => broken.or(Some(0)),
    }
}
