//! Watches: who is told when a node changes.

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::path::{Home, is_at_or_below};
use super::tree::Touched;
use super::wire::Message;

/// Watches of a domain. Linux sets about one a device and a few of its own.
pub const WATCHES_MAX: usize = 512;
/// Longest token; Linux' is an address in hex.
pub const TOKEN_BYTES_MAX: usize = 256;

/// One watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Watch {
    /// As the guest named it: events name the node in the same way.
    named: String,
    absolute: String,
    token: Vec<u8>,
}

/// A domain's watches.
#[derive(Debug, Default)]
pub struct Watches {
    watches: Vec<Watch>,
}

impl Watches {
    /// All of them, in the order in which they were set.
    pub(super) fn save(&self) -> Vec<Watch> {
        self.watches.clone()
    }

    /// The same again.
    ///
    /// # Errors
    /// E2BIG.
    pub(super) fn restore(watches: &[Watch]) -> Result<Self, StoreError> {
        if watches.len() > WATCHES_MAX || watches.iter().any(|watch| watch.token.len() > TOKEN_BYTES_MAX) {
            return Err(StoreError::TooBig);
        }
        Ok(Self { watches: watches.to_vec() })
    }

    /// Sets a watch; the answer is the event that each new watch gets at once.
    ///
    /// # Errors
    /// EINVAL for path or token, EEXIST, E2BIG.
    pub fn add(&mut self, home: &Home, path: &str, token: &[u8]) -> Result<Message, StoreError> {
        let watch = Watch { named: path.to_owned(), absolute: home.watchable(path)?, token: token.to_vec() };
        if token.len() > TOKEN_BYTES_MAX {
            return Err(StoreError::Invalid);
        }
        if self.watches.contains(&watch) {
            return Err(StoreError::Exists);
        }
        if self.watches.len() >= WATCHES_MAX {
            return Err(StoreError::TooBig);
        }
        self.watches.push(watch);
        Ok(Message::watch_event(path, token))
    }

    /// Takes a watch away.
    ///
    /// # Errors
    /// EINVAL, ENOENT.
    pub fn remove(&mut self, home: &Home, path: &str, token: &[u8]) -> Result<(), StoreError> {
        home.watchable(path)?;
        let at = self.watches.iter().position(|watch| watch.named == path && watch.token == token);
        self.watches.remove(at.ok_or(StoreError::NotFound)?);
        Ok(())
    }

    /// Takes all watches away.
    pub fn clear(&mut self) {
        self.watches.clear();
    }

    /// The events for one change, in the order in which the watches were set. The guest is not told of nodes that it may not read.
    pub fn events<'a>(
        &'a self,
        home: &'a Home,
        touched: &'a Touched,
    ) -> impl Iterator<Item = Message> + use<'a> {
        let (Touched::Node(path) | Touched::Below(path)) = touched;
        let readable = home.may_read(path);
        let told = move |watch: &&Watch| match touched {
            Touched::Node(path) => is_at_or_below(path, &watch.absolute),
            Touched::Below(path) => *path == watch.absolute,
        };
        self.watches.iter().filter(move |_| readable).filter(told).map(|watch| {
            let relative = !watch.named.starts_with('/');
            Message::watch_event(if relative { home.relative(path) } else { path }, &watch.token)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(watches: &Watches, touched: &Touched) -> Vec<String> {
        let text = |event: Message| String::from_utf8(event.body).unwrap().replace('\0', " ");
        watches.events(&Home::new(1), touched).map(text).collect()
    }

    #[test]
    fn a_watch_sees_its_node_and_all_below_named_as_it_was_set() {
        let home = Home::new(1);
        let mut watches = Watches::default();
        watches.add(&home, "device", b"t1").unwrap();
        watches.add(&home, "/local/domain/1/device/vif", b"t2").unwrap();
        let changed = |path: &str| told(&watches, &Touched::Node(path.to_owned()));
        assert_eq!(
            changed("/local/domain/1/device/vif/0"),
            ["device/vif/0 t1 ", "/local/domain/1/device/vif/0 t2 "]
        );
        assert_eq!(changed("/local/domain/1/device"), ["device t1 "]);
        assert_eq!(changed("/local/domain/1/devices"), [""; 0]);
        assert_eq!(changed("/local/domain/0/backend/vbd/2/1"), [""; 0]);
    }

    #[test]
    fn a_node_that_went_with_its_parent_is_told_to_its_own_watch_only() {
        let home = Home::new(1);
        let mut watches = Watches::default();
        watches.add(&home, "a", b"above").unwrap();
        watches.add(&home, "a/b/c", b"own").unwrap();
        assert_eq!(told(&watches, &Touched::Below("/local/domain/1/a/b/c".to_owned())), ["a/b/c own "]);
    }

    #[test]
    fn watches_are_counted_and_not_doubled() {
        let home = Home::new(1);
        let mut watches = Watches::default();
        for index in 0..WATCHES_MAX {
            watches.add(&home, "a", index.to_string().as_bytes()).unwrap();
        }
        assert_eq!(watches.add(&home, "a", b"7"), Err(StoreError::Exists));
        assert_eq!(watches.add(&home, "a", b"more"), Err(StoreError::TooBig));
        assert_eq!(watches.add(&home, "a//", b"x"), Err(StoreError::Invalid));
        assert_eq!(watches.add(&home, "b", &[b'x'; TOKEN_BYTES_MAX + 1]), Err(StoreError::Invalid));
        watches.remove(&home, "a", b"7").unwrap();
        assert_eq!(watches.remove(&home, "a", b"7"), Err(StoreError::NotFound));
        watches.add(&home, "@releaseDomain", b"x").unwrap();
    }
}
