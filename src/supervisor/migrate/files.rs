//! Kernel, initramfs and images of a domain that moves: they stay where they are, so the other host must have the same ones.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::MigrateError;
use crate::migration::HostFile;
use crate::sparse;
use crate::state::State;

/// A file as it is offered.
pub fn describe(state: &State, path: &Path) -> Result<HostFile, MigrateError> {
    let (bytes, blake3) = contents(path).map_err(|source| unreadable(path, source))?;
    let in_state = path.strip_prefix(state.root()).ok().map(Path::to_owned);
    Ok(HostFile { path: path.to_owned(), in_state, bytes, blake3 })
}

/// Where the same file is here: at the same path, or at the same place in the state directory.
pub fn find(state: &State, wanted: &HostFile) -> Result<PathBuf, MigrateError> {
    let in_state = wanted.in_state.as_ref().map(|path| state.root().join(path));
    for path in in_state.into_iter().chain([wanted.path.clone()]) {
        // Its length tells most others apart without a look at all of it.
        let same_length =
            File::open(&path).and_then(|file| length(&file)).is_ok_and(|bytes| bytes == wanted.bytes);
        if same_length && contents(&path).map_err(|source| unreadable(&path, source))?.1 == wanted.blake3 {
            return Ok(path);
        }
    }
    Err(MigrateError::Missing { path: wanted.path.clone() })
}

fn unreadable(path: &Path, source: io::Error) -> MigrateError {
    MigrateError::File { path: path.to_owned(), source }
}

fn length(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?)
}

/// Length, and BLAKE3 of every page that is not zero, each after its number: the same with holes and without.
fn contents(path: &Path) -> io::Result<(u64, String)> {
    let file = File::open(path)?;
    let bytes = length(&file)?;
    let mut hasher = blake3::Hasher::new();
    sparse::each_page(&file, |number, page| {
        if page.iter().any(|byte| *byte != 0) {
            hasher.update(&number.to_le_bytes()).update(page);
        }
        Ok(())
    })?;
    Ok((bytes, hasher.finalize().to_hex().to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn holes_and_zeros_are_the_same_and_places_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, pieces: &[(u64, &[u8])]| {
            let path = folder.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len(100_000).unwrap();
            pieces.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
            contents(&path).unwrap()
        };
        let holes = write("a", &[(40_960, b"x")]);
        assert_eq!(write("b", &[(0, &[0; 50_000]), (40_960, b"x")]), holes);
        assert_ne!(write("c", &[(45_056, b"x")]), holes);
        assert_ne!(write("d", &[(40_960, b"y")]), holes);
    }

    #[test]
    fn a_file_is_found_in_the_other_state_directory_and_only_if_it_is_the_same() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let states = folders.each_ref().map(|folder| State::new(folder.path()));
        for state in &states {
            state.make(&state.images()).unwrap();
            std::fs::write(state.images().join("k"), "kernel").unwrap();
        }
        let wanted = describe(&states[0], &states[0].images().join("k")).unwrap();
        let there = states[1].images().join("k");
        assert_eq!(find(&states[1], &wanted).unwrap(), there);
        std::fs::write(&there, "kernes").unwrap();
        // What lies at the source's own path counts as well: one disk may be seen by both.
        assert_eq!(find(&states[1], &wanted).unwrap(), states[0].images().join("k"));
        std::fs::remove_file(states[0].images().join("k")).unwrap();
        let sentence = find(&states[1], &wanted).unwrap_err().to_string();
        assert!(sentence.contains("is not there, nor in the state directory"), "{sentence}");
    }
}
