//! Transactions: a private copy of the tree, and at the end either all of its changes or EAGAIN.
//!
//! As xenstored does it: the generation of every node that the transaction looked at or changed is remembered from its start; if
//! one of them differs at the end, someone else was there and the guest has to try again.

use std::collections::BTreeMap;

use super::StoreError;
use super::path::parent;
use super::state::OpenTransaction;
use super::tree::{Change, Node, Origin, Touched, Tree};

/// Open transactions of a domain; xenstored's default.
pub const TRANSACTIONS_MAX: usize = 10;
/// Nodes that one transaction may look at, and changes that it may make; xenstored's default.
pub const TRANSACTION_NODES_MAX: usize = 1024;

/// One open transaction.
#[derive(Debug)]
pub struct Transaction {
    base: Tree,
    work: Tree,
    looked_at: BTreeMap<String, Option<u64>>,
    changes: Vec<Change>,
}

impl Transaction {
    /// Starts on the tree as it is.
    #[must_use]
    pub fn start(tree: &Tree) -> Self {
        Self { base: tree.clone(), work: tree.clone(), looked_at: BTreeMap::new(), changes: Vec::new() }
    }

    /// What it has looked at and done.
    #[must_use]
    pub(super) fn save(&self) -> OpenTransaction {
        OpenTransaction { looked_at: self.looked_at.clone(), changes: self.changes.clone() }
    }

    /// The same again, over the tree that all see.
    ///
    /// # Errors
    /// As [`Tree::apply`].
    pub(super) fn restore(tree: &Tree, open: &OpenTransaction) -> Result<Self, StoreError> {
        let mut transaction = Self::start(tree);
        for change in &open.changes {
            // Checked when it was made; what has changed since shows at the end.
            let _ = transaction.work.apply(change, Origin::Host);
        }
        if open.changes.len() > TRANSACTION_NODES_MAX || open.looked_at.len() > TRANSACTION_NODES_MAX {
            return Err(StoreError::NoSpace);
        }
        transaction.looked_at = open.looked_at.clone();
        transaction.changes = open.changes.clone();
        Ok(transaction)
    }

    /// A node as the transaction sees it.
    ///
    /// # Errors
    /// ENOENT, ENOSPC (quota).
    pub fn node(&mut self, path: &str) -> Result<&Node, StoreError> {
        self.look_at(path)?;
        self.work.node(path).ok_or(StoreError::NotFound)
    }

    /// A node's children as the transaction sees them. Look at the node first.
    #[must_use]
    pub fn children(&self, path: &str) -> Vec<&str> {
        self.work.children(path)
    }

    /// Makes a change that only this transaction sees.
    ///
    /// # Errors
    /// As [`Tree::apply`]; ENOSPC also for a transaction that is too long.
    pub fn apply(&mut self, change: Change, origin: Origin) -> Result<(), StoreError> {
        if self.changes.len() >= TRANSACTION_NODES_MAX {
            return Err(StoreError::NoSpace);
        }
        for path in self.concerned(&change) {
            self.look_at(&path)?;
        }
        self.work.apply(&change, origin)?;
        self.changes.push(change);
        Ok(())
    }

    /// Makes the changes in the tree that all see.
    ///
    /// # Errors
    /// EAGAIN when a node that mattered has changed meanwhile; ENOSPC when a quota has been reached meanwhile. The tree is then as it was.
    pub fn commit(self, tree: &mut Tree, origin: Origin) -> Result<Vec<Touched>, StoreError> {
        if self.looked_at.iter().any(|(path, generation)| tree.generation(path) != *generation) {
            return Err(StoreError::Again);
        }
        let mut after = tree.clone();
        let mut touched = Vec::new();
        for change in &self.changes {
            touched.extend(after.apply(change, origin)?);
        }
        *tree = after;
        Ok(touched)
    }

    /// The nodes that a change reads or replaces: a conflict on any of them makes it another change.
    fn concerned(&self, change: &Change) -> Vec<String> {
        let (Change::Write { path, .. }
        | Change::Make { path }
        | Change::Remove { path }
        | Change::SetPerms { path, .. }) = change;
        let mut concerned = vec![path.clone()];
        if matches!(change, Change::Remove { .. }) {
            concerned.extend(self.work.below(path).map(str::to_owned));
        }
        // Up to the node that is there and gets the first new child.
        let mut above = path.as_str();
        while self.work.node(above).is_none() {
            let Some(next) = parent(above) else { break };
            concerned.push(next.to_owned());
            above = next;
        }
        concerned
    }

    fn look_at(&mut self, path: &str) -> Result<(), StoreError> {
        if self.looked_at.contains_key(path) {
            return Ok(());
        }
        if self.looked_at.len() >= TRANSACTION_NODES_MAX {
            return Err(StoreError::NoSpace);
        }
        self.looked_at.insert(path.to_owned(), self.base.generation(path));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &str, value: &str) -> Change {
        Change::Write { path: path.to_owned(), value: value.as_bytes().to_vec() }
    }

    fn tree() -> Tree {
        let mut tree = Tree::default();
        for path in ["/a/x", "/a/y", "/b"] {
            tree.apply(&write(path, "old"), Origin::Host).unwrap();
        }
        tree
    }

    fn value(tree: &Tree, path: &str) -> String {
        String::from_utf8(tree.node(path).unwrap().value.clone()).unwrap()
    }

    #[test]
    fn changes_are_seen_inside_at_once_and_outside_at_the_end() {
        let mut tree = tree();
        let mut transaction = Transaction::start(&tree);
        transaction.apply(write("/a/x", "new"), Origin::Guest).unwrap();
        transaction.apply(write("/c/d", "made"), Origin::Guest).unwrap();
        assert_eq!(transaction.node("/a/x").unwrap().value, b"new");
        assert_eq!(transaction.children("/c"), ["d"]);
        assert_eq!(value(&tree, "/a/x"), "old");
        let touched = transaction.commit(&mut tree, Origin::Guest).unwrap();
        assert_eq!(touched, [Touched::Node("/a/x".to_owned()), Touched::Node("/c/d".to_owned())]);
        assert_eq!((value(&tree, "/a/x"), value(&tree, "/c/d")), ("new".to_owned(), "made".to_owned()));
    }

    #[test]
    fn a_conflict_is_eagain_and_changes_nothing() {
        let outside =
            [write("/a/x", "other"), write("/a/z", "sibling"), Change::Remove { path: "/a".to_owned() }];
        for change in outside {
            let mut tree = tree();
            let mut transaction = Transaction::start(&tree);
            transaction.node("/a").unwrap();
            transaction.node("/a/x").unwrap();
            transaction.apply(write("/b", "new"), Origin::Guest).unwrap();
            tree.apply(&change, Origin::Host).unwrap();
            assert_eq!(transaction.commit(&mut tree, Origin::Guest), Err(StoreError::Again), "{change:?}");
            assert_eq!(value(&tree, "/b"), "old");
        }
    }

    #[test]
    fn changes_elsewhere_are_no_conflict() {
        let mut tree = tree();
        let mut transaction = Transaction::start(&tree);
        transaction.apply(write("/a/x", "new"), Origin::Guest).unwrap();
        tree.apply(&write("/b", "host"), Origin::Host).unwrap();
        tree.apply(&write("/a/y", "host"), Origin::Host).unwrap();
        transaction.commit(&mut tree, Origin::Guest).unwrap();
        assert_eq!(value(&tree, "/b"), "host");
        assert_eq!(value(&tree, "/a/x"), "new");
    }

    #[test]
    fn a_node_that_was_missed_and_appeared_is_a_conflict() {
        let mut tree = tree();
        let mut transaction = Transaction::start(&tree);
        assert_eq!(transaction.node("/n").err(), Some(StoreError::NotFound));
        tree.apply(&write("/n", "now"), Origin::Host).unwrap();
        assert_eq!(transaction.commit(&mut tree, Origin::Guest), Err(StoreError::Again));
    }

    #[test]
    fn a_transaction_has_an_end() {
        let mut transaction = Transaction::start(&tree());
        for _ in 0..TRANSACTION_NODES_MAX {
            transaction.apply(write("/b", "x"), Origin::Guest).unwrap();
        }
        assert_eq!(transaction.apply(write("/b", "x"), Origin::Guest), Err(StoreError::NoSpace));
        for index in 0..TRANSACTION_NODES_MAX - 1 {
            let _ = transaction.node(&format!("/n{index}"));
        }
        assert_eq!(transaction.node("/last").err(), Some(StoreError::NoSpace));
    }
}
