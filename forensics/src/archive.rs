//! A case as one tar stream, for download. Holes are sent as zeroes: every reader of tar understands that.

use std::io::{self, Write};
use std::path::Path;

use crate::case::{CaseError, read_manifest};
use crate::verify::open_regular;
use crate::{custody, manifest, signature};

/// Why no archive was written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Not a case.
    #[error(transparent)]
    Case(#[from] CaseError),
    /// Reading an item, or writing the stream.
    #[error("cannot archive {name}")]
    Item {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Writes manifest, signature, custody log and all items, below a folder of the case's name.
pub fn write(case: &Path, out: impl Write) -> Result<(), ArchiveError> {
    let manifest = read_manifest(case)?;
    let mut builder = tar::Builder::new(out);
    let fixed = [manifest::FILE_NAME, signature::FILE_NAME, custody::FILE_NAME];
    let items = manifest.items.iter().map(|item| item.name.as_str());
    for name in fixed.into_iter().chain(items) {
        let failed = |source| ArchiveError::Item { name: name.to_owned(), source };
        let Some(mut file) = open_regular(&case.join(name)).map_err(failed)? else {
            // Only the signature may be missing: not every case is signed.
            if name == signature::FILE_NAME {
                continue;
            }
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        builder.append_file(format!("{}/{name}", manifest.case), &mut file).map_err(failed)?;
    }
    let failed = |source| ArchiveError::Item { name: "the end".to_owned(), source };
    builder.into_inner().and_then(|mut out| out.flush()).map_err(failed)
}
