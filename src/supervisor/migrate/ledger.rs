//! What became of each migration: one file each, made by whoever decides first and never changed, so that a domain runs on one side only
//! though the connection breaks at the worst moment and either supervisor is killed.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::migration::Decision;
use crate::state::State;

/// Nobody asks about one that is older: who is asked about it has long been told.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Decides, if nobody has; answers what is decided. The token has been checked: it is a plain name.
pub fn decide(state: &State, token: &str, decision: Decision) -> io::Result<Decision> {
    let folder = folder(state);
    state.make(&folder)?;
    forget_old(&folder);
    let path = folder.join(token);
    let fresh = folder.join(format!("{token}.{}", hex::encode(crate::uuid::random())));
    write(&fresh, decision)?;
    // A link is made whole or not at all, and only where there is none.
    let made = std::fs::hard_link(&fresh, &path);
    std::fs::remove_file(&fresh)?;
    match made {
        Ok(()) => {
            File::open(&folder)?.sync_all()?;
            Ok(decision)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(&path),
        Err(error) => Err(error),
    }
}

fn folder(state: &State) -> PathBuf {
    state.migration().join("decided")
}

fn write(path: &Path, decision: Decision) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(&decision)?)?;
    file.sync_all()
}

fn read(path: &Path) -> io::Result<Decision> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn forget_old(folder: &Path) {
    let old = |path: &Path| {
        let changed = std::fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
        SystemTime::now().duration_since(changed).ok().filter(|age| *age > KEPT)
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| old(path).is_some()) {
        // It is tried again the next time.
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_decides_first_decides() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        assert_eq!(decide(&state, "aa", Decision::Came).unwrap(), Decision::Came);
        assert_eq!(decide(&state, "aa", Decision::Refused).unwrap(), Decision::Came);
        assert_eq!(decide(&state, "bb", Decision::Refused).unwrap(), Decision::Refused);
        assert_eq!(decide(&state, "bb", Decision::Came).unwrap(), Decision::Refused);
    }

    #[test]
    fn of_many_who_decide_at_once_all_hear_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        let all: Vec<Decision> = std::thread::scope(|scope| {
            let decide = |index: usize| {
                let state = &state;
                let decision = if index.is_multiple_of(2) { Decision::Came } else { Decision::Refused };
                scope.spawn(move || decide(state, "cc", decision).unwrap())
            };
            let threads: Vec<_> = (0..8).map(decide).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|decision| *decision == all[0]));
    }
}
