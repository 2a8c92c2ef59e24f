//! `[migration]`: where domains may come in, and the honeynets that they come from and move to.

use std::net::SocketAddr;

use serde::Deserialize;

use super::HoneynetFileError;
use crate::domain_file;
use crate::migration::Fingerprint;

/// Peers of one honeynet.
pub const PEERS_MAX: usize = 64;

/// Live migration; without a peer nobody comes in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Migration {
    /// Where domains come in; nowhere by default. Xen's own port for it is 8002.
    pub listen: Option<SocketAddr>,
    /// `[[migration.peer]]`.
    #[serde(rename = "peer")]
    pub peers: Vec<Peer>,
}

/// Another honeynet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// What `honeynet migrate` calls it.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What `honeynet fingerprint` prints there.
    pub fingerprint: Fingerprint,
}

impl Migration {
    /// Refuses what cannot be.
    pub(super) fn check(&self) -> Result<(), HoneynetFileError> {
        if self.peers.len() > PEERS_MAX {
            return Err(HoneynetFileError::TooMany { limit: PEERS_MAX, what: "peers of migration" });
        }
        for (index, peer) in self.peers.iter().enumerate() {
            let key = format!("migration.peer {}: name", peer.name);
            if !domain_file::is_name(&peer.name) {
                let wanted = "a plain name of at most 64 characters";
                return Err(HoneynetFileError::Value { key, value: peer.name.clone(), wanted });
            }
            let same = |other: &&Peer| other.name == peer.name || other.fingerprint == peer.fingerprint;
            if self.peers[..index].iter().any(|other| same(&other)) {
                let (value, other) = (peer.name.clone(), "another peer, or its fingerprint is".to_owned());
                return Err(HoneynetFileError::Twice { key, value, other });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::honeynet_file::parse;

    fn file(name: &str, digit: &str) -> String {
        format!(
            "[[migration.peer]]\nname = {name:?}\naddress = \"192.0.2.1:8002\"\nfingerprint = \"{}\"\n",
            digit.repeat(64)
        )
    }

    #[test]
    fn peers_are_read() {
        let text =
            "[migration]\nlisten = \"192.0.2.9:8002\"\n".to_owned() + &file("a", "1") + &file("b", "2");
        let migration = parse(&text).unwrap().migration;
        assert_eq!(migration.listen.unwrap().port(), 8002);
        assert_eq!(migration.peers[1].name, "b");
        assert!(migration.peers[1].fingerprint.to_string().starts_with("22"));
        assert_eq!(parse("").unwrap().migration, Default::default());
    }

    #[test]
    fn peers_that_cannot_be_are_refused() {
        for (text, part) in [
            (file("a/b", "1"), "is not a plain name"),
            (file("a", "1") + &file("a", "2"), "another peer"),
            (file("a", "1") + &file("b", "1"), "another peer"),
            (file("a", "x"), "is no fingerprint"),
            ("[migration]\nlisten = \"8002\"\n".to_owned(), "line 2"),
        ] {
            let sentence = parse(&text).unwrap_err().to_string();
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}
