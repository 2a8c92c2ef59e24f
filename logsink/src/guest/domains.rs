//! Which domain has which address: a JSON file of the toolstack's, `{"10.66.0.2": {"name": "web", "domid": 3}}`.
//!
//! The toolstack writes a new file and renames it over the old one; logsink looks once a second. netwatch has checked that
//! nobody sends from another's address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A domain, as the toolstack names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRef {
    /// Name.
    pub name: String,
    /// Number.
    pub domid: u32,
}

/// Address to domain: the content of `domains.json`.
pub type DomainMap = HashMap<IpAddr, DomainRef>;

/// The map as last read.
#[derive(Debug)]
pub struct Domains {
    path: PathBuf,
    map: DomainMap,
    /// Inode, size and time of the file that `map` came from.
    stamp: Option<(u64, u64, i64, i64)>,
}

impl Domains {
    /// An empty map that `refresh` fills from this file.
    pub fn new(path: &Path) -> Domains {
        Domains { path: path.to_owned(), map: DomainMap::new(), stamp: None }
    }

    /// The domain that has this address. An IPv4 address may come mapped into IPv6.
    pub fn get(&self, address: IpAddr) -> Option<&DomainRef> {
        self.map.get(&address.to_canonical())
    }

    /// Reads the file again if it is another. A file that cannot be read leaves the map as it was.
    pub fn refresh(&mut self) {
        let Ok(meta) = std::fs::metadata(&self.path) else { return };
        let stamp = Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()));
        if stamp == self.stamp || meta.len() > FILE_BYTES_MAX {
            return;
        }
        self.stamp = stamp;
        let read = std::fs::read(&self.path).map_err(serde_json::Error::io);
        match read.and_then(|bytes| serde_json::from_slice(&bytes)) {
            Ok(map) => self.map = map,
            Err(error) => tracing::error!("{} cannot be read: {error}", self.path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("domains.json");
        let mut domains = Domains::new(&path);
        domains.refresh();
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write(r#"{"10.0.0.2": {"name": "web", "domid": 3}}"#);
        domains.refresh();
        assert_eq!(domains.get("::ffff:10.0.0.2".parse().unwrap()).unwrap().domid, 3);
        write("{");
        domains.refresh();
        assert_eq!(domains.get("10.0.0.2".parse().unwrap()).unwrap().name, "web");
        write("{}");
        domains.refresh();
        assert_eq!(domains.get("10.0.0.2".parse().unwrap()), None);
    }
}
