//! veth and macvlan devices in the host's namespace: noted before they are made, so that they go although their supervisor is killed.

use std::io;
use std::path::PathBuf;

use netwatch::uplink;

use crate::state::State;

/// Devices of this honeynet; removed when dropped.
pub struct Devices {
    names: Vec<String>,
    mark: PathBuf,
}

impl Devices {
    /// None yet; those of a supervisor that was killed go first.
    pub fn begin(state: &State) -> Devices {
        remove_left_over(state);
        Devices { names: Vec::new(), mark: mark(state) }
    }

    /// One that is about to be made; what is there already is somebody else's.
    pub fn note(&mut self, name: &str) -> io::Result<()> {
        if pnet::datalink::interfaces().iter().any(|interface| interface.name == name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("there is a device {name}")));
        }
        self.names.push(name.to_owned());
        std::fs::write(&self.mark, self.names.join("\n"))
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        remove(&self.names);
        let _ = std::fs::remove_file(&self.mark);
    }
}

/// Removes the devices of a supervisor that was killed. The caller holds the supervisor's lock.
pub fn remove_left_over(state: &State) {
    let mark = mark(state);
    let Ok(noted) = std::fs::read_to_string(&mark) else { return };
    remove(&noted.lines().map(str::to_owned).collect::<Vec<_>>());
    let _ = std::fs::remove_file(mark);
}

fn mark(state: &State) -> PathBuf {
    state.run().join("devices")
}

fn remove(names: &[String]) {
    let there = pnet::datalink::interfaces();
    // One that could not be made is noted all the same.
    for name in names.iter().filter(|name| there.iter().any(|interface| interface.name == **name)) {
        if let Err(error) = uplink::remove_interface(name) {
            tracing::error!(%error, name, "uplink cannot be removed");
        }
    }
}
