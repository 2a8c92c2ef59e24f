//! The tree of nodes: values, permissions as text, and a generation that tells transactions what changed.
//!
//! A node's generation changes when its value, its permissions or its list of children does, as in xenstored. A clone is a
//! snapshot and costs nothing until one of the two is written. Who may read or write is decided before (`path.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::path::{check, parent};

/// Nodes in the tree, beyond which a guest may make no more.
pub const NODES_MAX: usize = 4096;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 4096;
/// Bytes of all values together, beyond which a guest may write no more.
pub const TREE_BYTES_MAX: usize = 2 << 20;
/// Most permissions of one node.
pub const PERMS_MAX: usize = 16;

/// Who asks for a change: quotas hold for the guest, so that it cannot keep the host from publishing a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A backend or the toolstack.
    Host,
    /// The domain.
    Guest,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Any bytes, mostly text.
    pub value: Vec<u8>,
    /// As on the wire: `n0`, `r1`.
    pub perms: Vec<String>,
    /// Unlike that of any earlier state of any node.
    pub generation: u64,
}

/// One change to the tree. Paths are absolute and valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Sets a value; makes the node and those above it where they are missing.
    Write {
        /// Which node.
        path: String,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Makes a node and those above it, unless it is there.
    Make {
        /// Which node.
        path: String,
    },
    /// Removes a node and all below it.
    Remove {
        /// Which node.
        path: String,
    },
    /// Replaces the permissions.
    SetPerms {
        /// Which node.
        path: String,
        /// The new ones.
        perms: Vec<String>,
    },
}

/// A path that watches are to be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// The node was changed: for watches on it and above it.
    Node(String),
    /// It went because one above it was removed: only for watches on this very path.
    Below(String),
}

/// All nodes. The root is always there, and so is every node's parent.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Arc<BTreeMap<Arc<str>, Arc<Node>>>,
    generation: u64,
    value_bytes: usize,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { value: Vec::new(), perms: vec!["n0".to_owned()], generation: 0 };
        let nodes = BTreeMap::from([(Arc::from("/"), Arc::new(root))]);
        Self { nodes: Arc::new(nodes), generation: 0, value_bytes: 0 }
    }
}

impl Tree {
    /// All nodes with their paths, in order.
    #[must_use]
    pub fn save(&self) -> Vec<(String, Node)> {
        self.nodes.iter().map(|(path, node)| (path.to_string(), Node::clone(node))).collect()
    }

    /// The highest generation so far.
    #[must_use]
    pub fn last_generation(&self) -> u64 {
        self.generation
    }

    /// The same tree again.
    ///
    /// # Errors
    /// EINVAL: a path that is none, a node without its parent, a generation that is not yet.
    pub fn restore(nodes: &[(String, Node)], generation: u64) -> Result<Self, StoreError> {
        let mut tree = BTreeMap::new();
        let mut value_bytes = 0;
        for (path, node) in nodes {
            let rooted = path == "/" || parent(path).is_some_and(|above| tree.contains_key(above));
            if !rooted || node.generation > generation || node.value.len() > VALUE_BYTES_MAX {
                return Err(StoreError::Invalid);
            }
            value_bytes += node.value.len();
            tree.insert(Arc::from(path.as_str()), Arc::new(node.clone()));
        }
        if !tree.contains_key("/") {
            return Err(StoreError::Invalid);
        }
        Ok(Self { nodes: Arc::new(tree), generation, value_bytes })
    }

    /// The node at `path`.
    #[must_use]
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path).map(Arc::as_ref)
    }

    /// The generation of the node at `path`; `None` where there is none.
    #[must_use]
    pub fn generation(&self, path: &str) -> Option<u64> {
        self.node(path).map(|node| node.generation)
    }

    /// Names of the nodes right below `path`, in order.
    #[must_use]
    pub fn children(&self, path: &str) -> Vec<&str> {
        let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        self.below(path)
            .filter_map(|found| found.strip_prefix(prefix.as_str()))
            .filter(|name| !name.is_empty() && !name.contains('/'))
            .collect()
    }

    /// Every path below `path`, in order.
    pub fn below<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let (from, to) = if path == "/" {
            ("/".to_owned(), "0".to_owned())
        } else {
            (format!("{path}/"), format!("{path}0"))
        };
        // '0' is the character after '/', so this is all that begins with the path and a slash.
        self.nodes
            .range::<str, _>((
                std::ops::Bound::Excluded(from.as_str()),
                std::ops::Bound::Excluded(to.as_str()),
            ))
            .map(|(found, _)| &**found)
    }

    /// Number of nodes, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: the root is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Makes one change; says what watches are to be told. A refused change changes nothing.
    ///
    /// # Errors
    /// ENOENT, EINVAL (the root, a bad permission), ENOSPC (quota).
    pub fn apply(&mut self, change: &Change, origin: Origin) -> Result<Vec<Touched>, StoreError> {
        match change {
            Change::Write { path, value } => self.write(path, value, origin),
            Change::Make { path } if self.node(path).is_some() => Ok(Vec::new()),
            Change::Make { path } => self.write(path, &[], origin),
            Change::Remove { path } => self.remove(path),
            Change::SetPerms { path, perms } => self.set_perms(path, perms),
        }
    }

    fn write(&mut self, path: &str, value: &[u8], origin: Origin) -> Result<Vec<Touched>, StoreError> {
        check(path)?;
        let missing = self.missing(path);
        let replaced = self.node(path).map_or(0, |node| node.value.len());
        let value_bytes = self.value_bytes - replaced + value.len();
        let over = self.nodes.len() + missing.len() > NODES_MAX || value_bytes > TREE_BYTES_MAX;
        if value.len() > VALUE_BYTES_MAX || (over && origin == Origin::Guest) {
            return Err(StoreError::NoSpace);
        }
        let perms = self.inherited_perms(path);
        if let Some(above) = missing.last().and_then(|top| parent(top)) {
            self.change_node(above, |_| {});
        }
        for made in missing.iter().rev() {
            self.insert(made, Node { value: Vec::new(), perms: perms.clone(), generation: 0 });
        }
        self.change_node(path, |node| node.value = value.to_vec());
        self.value_bytes = value_bytes;
        Ok(vec![Touched::Node(path.to_owned())])
    }

    fn remove(&mut self, path: &str) -> Result<Vec<Touched>, StoreError> {
        let above = parent(path).ok_or(StoreError::Invalid)?;
        if self.node(path).is_none() {
            // As xenstored: removing what is not there is fine where its parent is.
            return if self.node(above).is_some() { Ok(Vec::new()) } else { Err(StoreError::NotFound) };
        }
        let gone: Vec<String> = self.below(path).map(str::to_owned).collect();
        let nodes = Arc::make_mut(&mut self.nodes);
        for path in gone.iter().map(String::as_str).chain([path]) {
            if let Some(node) = nodes.remove(path) {
                self.value_bytes -= node.value.len();
            }
        }
        self.change_node(above, |_| {});
        let mut touched = vec![Touched::Node(path.to_owned())];
        touched.extend(gone.into_iter().map(Touched::Below));
        Ok(touched)
    }

    fn set_perms(&mut self, path: &str, perms: &[String]) -> Result<Vec<Touched>, StoreError> {
        if perms.is_empty() || perms.len() > PERMS_MAX || !perms.iter().all(|perm| is_perm(perm)) {
            return Err(StoreError::Invalid);
        }
        if self.node(path).is_none() {
            return Err(StoreError::NotFound);
        }
        self.change_node(path, |node| node.perms = perms.to_vec());
        Ok(vec![Touched::Node(path.to_owned())])
    }

    /// `path` and those above it that are not there, the deepest first. The path's depth is limited, so is this.
    fn missing(&self, path: &str) -> Vec<String> {
        let mut missing = Vec::new();
        let mut next = Some(path);
        while let Some(path) = next.filter(|path| self.node(path).is_none()) {
            missing.push(path.to_owned());
            next = parent(path);
        }
        missing
    }

    /// The permissions of the nearest node that is there.
    fn inherited_perms(&self, path: &str) -> Vec<String> {
        let mut next = Some(path);
        while let Some(path) = next {
            if let Some(node) = self.node(path) {
                return node.perms.clone();
            }
            next = parent(path);
        }
        Vec::new()
    }

    fn insert(&mut self, path: &str, node: Node) {
        self.generation += 1;
        let node = Node { generation: self.generation, ..node };
        Arc::make_mut(&mut self.nodes).insert(Arc::from(path), Arc::new(node));
    }

    fn change_node(&mut self, path: &str, change: impl FnOnce(&mut Node)) {
        self.generation += 1;
        if let Some(node) = Arc::make_mut(&mut self.nodes).get_mut(path) {
            let node = Arc::make_mut(node);
            node.generation = self.generation;
            change(node);
        }
    }
}

/// A letter of `rwbn` and a domain's number.
fn is_perm(perm: &str) -> bool {
    let mut chars = perm.chars();
    chars.next().is_some_and(|letter| "rwbn".contains(letter)) && chars.as_str().parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(tree: &mut Tree, path: &str, value: &[u8]) -> Result<Vec<Touched>, StoreError> {
        tree.apply(&Change::Write { path: path.to_owned(), value: value.to_vec() }, Origin::Guest)
    }

    fn remove(tree: &mut Tree, path: &str) -> Result<Vec<Touched>, StoreError> {
        tree.apply(&Change::Remove { path: path.to_owned() }, Origin::Guest)
    }

    #[test]
    fn writing_makes_the_nodes_above() {
        let mut tree = Tree::default();
        let touched = write(&mut tree, "/a/b/c", b"1").unwrap();
        assert_eq!(touched, [Touched::Node("/a/b/c".to_owned())]);
        assert_eq!(tree.node("/a/b").unwrap().value, b"");
        assert_eq!(tree.children("/"), ["a"]);
        write(&mut tree, "/a/b-c", b"").unwrap();
        write(&mut tree, "/a/b0", b"").unwrap();
        assert_eq!(tree.children("/a"), ["b", "b-c", "b0"]);
        assert_eq!(tree.children("/a/b/c"), [""; 0]);
    }

    #[test]
    fn removing_takes_all_below_and_only_that() {
        let mut tree = Tree::default();
        for path in ["/a/b/c", "/a/b/d", "/a/b-x", "/a/b0"] {
            write(&mut tree, path, b"value").unwrap();
        }
        let touched = remove(&mut tree, "/a/b").unwrap();
        let below = |path: &str| Touched::Below(path.to_owned());
        assert_eq!(touched, [Touched::Node("/a/b".to_owned()), below("/a/b/c"), below("/a/b/d")]);
        assert_eq!(tree.children("/a"), ["b-x", "b0"]);
        assert_eq!(remove(&mut tree, "/a/b").unwrap(), []);
        assert_eq!(remove(&mut tree, "/x/y"), Err(StoreError::NotFound));
        assert_eq!(remove(&mut tree, "/"), Err(StoreError::Invalid));
        assert_eq!(tree.value_bytes, 10);
    }

    #[test]
    fn a_parent_s_generation_tells_of_children_that_come_and_go() {
        let mut tree = Tree::default();
        write(&mut tree, "/a/b", b"").unwrap();
        let before = tree.generation("/a");
        write(&mut tree, "/a/b", b"2").unwrap();
        assert_eq!(tree.generation("/a"), before);
        write(&mut tree, "/a/c", b"").unwrap();
        let with_c = tree.generation("/a");
        assert_ne!(with_c, before);
        remove(&mut tree, "/a/c").unwrap();
        assert_ne!(tree.generation("/a"), with_c);
    }

    #[test]
    fn a_snapshot_stays_as_it_was() {
        let mut tree = Tree::default();
        write(&mut tree, "/a", b"1").unwrap();
        let snapshot = tree.clone();
        write(&mut tree, "/a", b"2").unwrap();
        assert_eq!(snapshot.node("/a").unwrap().value, b"1");
    }

    #[test]
    fn quotas_stop_the_guest_and_not_the_host() {
        let mut tree = Tree::default();
        for index in 0..NODES_MAX - 1 {
            write(&mut tree, &format!("/n{index}"), b"").unwrap();
        }
        assert_eq!(write(&mut tree, "/more", b""), Err(StoreError::NoSpace));
        assert!(tree.node("/more").is_none());
        write(&mut tree, "/n1", b"still written").unwrap();
        let change = Change::Write { path: "/host/state".to_owned(), value: b"4".to_vec() };
        tree.apply(&change, Origin::Host).unwrap();

        let mut tree = Tree::default();
        assert_eq!(write(&mut tree, "/a", &vec![0; VALUE_BYTES_MAX + 1]), Err(StoreError::NoSpace));
        for index in 0..TREE_BYTES_MAX / VALUE_BYTES_MAX {
            write(&mut tree, &format!("/n{index}"), &[0; VALUE_BYTES_MAX]).unwrap();
        }
        assert_eq!(write(&mut tree, "/a", b"1"), Err(StoreError::NoSpace));
        assert_eq!(write(&mut tree, "/n1", b"less"), Ok(vec![Touched::Node("/n1".to_owned())]));
        write(&mut tree, "/a", b"1").unwrap();
    }

    #[test]
    fn permissions_are_inherited_and_checked() {
        let mut tree = Tree::default();
        write(&mut tree, "/a", b"").unwrap();
        let set = |perms: &[&str]| Change::SetPerms {
            path: "/a".to_owned(),
            perms: perms.iter().map(|&perm| perm.to_owned()).collect(),
        };
        for bad in [&[][..], &["x1"], &["n"], &["n1", "r99999"], &["n-1"], &["r1"; PERMS_MAX + 1]] {
            assert_eq!(tree.apply(&set(bad), Origin::Guest), Err(StoreError::Invalid), "{bad:?}");
        }
        tree.apply(&set(&["n1", "r0"]), Origin::Guest).unwrap();
        write(&mut tree, "/a/b/c", b"").unwrap();
        assert_eq!(tree.node("/a/b/c").unwrap().perms, ["n1", "r0"]);
    }
}
