//! Clones whose supervisor was killed: their memory went with it. Disks that were written are evidence and stay where they are; the others go.

use std::fs::File;
use std::path::Path;

use honeyvmm::disk::LayerReader;

use crate::state::State;

/// Looks at the folders of the clones of this pool that an earlier supervisor has left; answers how many stay.
pub fn clear(state: &State, pool: &str) -> usize {
    let folders = std::fs::read_dir(state.root().join("domains")).into_iter().flatten().flatten();
    let clones = folders.filter(|entry| is_clone(&entry.file_name().to_string_lossy(), pool));
    let mut kept = 0;
    for folder in clones.map(|entry| entry.path()) {
        if was_written(&folder) {
            kept += 1;
        } else if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!(%error, path = %folder.display(), "the folder of a clone stays");
        }
    }
    kept
}

/// `POOL-NUMBER`, or the one that sources share.
fn is_clone(name: &str, pool: &str) -> bool {
    let number = name.strip_prefix(pool).and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|number| number == "shared" || number.parse::<u64>().is_ok())
}

/// Whether one of its layers holds anything; one that cannot be read may.
fn was_written(folder: &Path) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut layers = files.filter(|path| path.to_string_lossy().contains(".layer"));
    layers.any(|path| {
        let reader = File::open(path).ok().and_then(|file| LayerReader::open(file).ok());
        let held = reader.and_then(|reader| reader.held().ok());
        held.is_none_or(|held| !held.is_clear())
    })
}

#[cfg(test)]
mod tests {
    use honeyvmm::disk::{CLUSTER_BYTES, Layer};

    use super::*;

    #[test]
    fn what_was_written_stays_and_all_else_of_the_pool_goes() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        let domain = |name: &str, written: bool| {
            let own = state.domain(name);
            std::fs::create_dir_all(&own).unwrap();
            let mut options = File::options();
            options.create(true).truncate(true).read(true).write(true);
            let file = options.open(own.join("xvda.layer")).unwrap();
            let mut layer = Layer::create(file, 4 * CLUSTER_BYTES, [0; 32]).unwrap();
            if written {
                layer.put(1, &[1; CLUSTER_BYTES as usize]).unwrap();
            }
        };
        for (name, written) in [
            ("farm-1", false),
            ("farm-2", true),
            ("farm-shared", false),
            ("farm-golden", false),
            ("farmer-1", false),
            ("farm", false),
        ] {
            domain(name, written);
        }
        assert_eq!(clear(&state, "farm"), 1);
        let there = |name: &str| state.domain(name).exists();
        assert_eq!(["farm-1", "farm-2", "farm-shared"].map(there), [false, true, false]);
        assert!(["farm-golden", "farmer-1", "farm"].into_iter().all(there));
        std::fs::write(state.domain("farm-2").join("xvda.layer"), "none").unwrap();
        assert_eq!(clear(&state, "farm"), 1, "what cannot be read is not thrown away");
    }
}
