//! One full snapshot of a chain: the same moment, without what it lay over.

use std::path::Path;

use super::manifest::{Kind, MANIFEST, RAM, REGISTERS, SHIM, STATE, layer_name, put, seal};
use super::{Chain, SavedError};
use crate::sparse;

/// Makes the snapshot in this folder stand alone. It keeps its name and its uuid, so that what lies over it finds it; nobody may use it meanwhile.
/// Until the last moment the old one is there.
///
/// # Errors
/// It is full already, in use, or a member of its chain cannot be read.
pub fn compact(folder: &Path) -> Result<(), SavedError> {
    let id = || folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let chain = Chain::open(folder)?;
    let leaf = chain.leaf();
    if leaf.manifest.kind == Kind::Full {
        return Err(SavedError::Full(id()));
    }
    chain.check()?;
    let name = |suffix: &str| {
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        folder.with_file_name(name)
    };
    // What an earlier attempt left is nobody's.
    let (fresh, whole) = (name(".new"), name(".whole.new"));
    for left in [&fresh, &whole] {
        if left.exists() {
            std::fs::remove_dir_all(left).map_err(SavedError::file(left, "removed"))?;
        }
    }
    std::fs::create_dir(&fresh).map_err(SavedError::file(&fresh, "written"))?;
    for name in [STATE, REGISTERS, SHIM] {
        put(&fresh.join(name), |to| sparse::copy(&leaf.file(name).map_err(std::io::Error::other)?, to))?;
    }
    put(&fresh.join(RAM), |to| chain.merge_ram(to).map_err(std::io::Error::other))?;
    let mut manifest = leaf.manifest.clone();
    (manifest.kind, manifest.parent) = (Kind::Full, None);
    for (vdev, depth) in &mut manifest.depth {
        let layers = chain.layers(vdev);
        *depth = layers.len();
        for (index, layer) in layers.iter().enumerate() {
            let from = std::fs::File::open(layer).map_err(SavedError::file(layer, "read"))?;
            put(&fresh.join(layer_name(vdev, index)), |to| sparse::copy(&from, to))?;
        }
    }
    seal(&fresh, &whole, manifest)?;
    drop(chain);
    let lock = folder.join(MANIFEST);
    let lock = std::fs::File::open(&lock).map_err(SavedError::file(&lock, "read"))?;
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        let _ = std::fs::remove_dir_all(&whole);
        return Err(SavedError::InUse(id()));
    }
    // One exchange of names, so that there is a whole one at every moment.
    let exchanged = rustix::fs::renameat_with(
        rustix::fs::CWD,
        &whole,
        rustix::fs::CWD,
        folder,
        rustix::fs::RenameFlags::EXCHANGE,
    );
    exchanged.map_err(|errno| SavedError::file(folder, "written")(errno.into()))?;
    std::fs::remove_dir_all(&whole).map_err(SavedError::file(&whole, "removed"))
}
