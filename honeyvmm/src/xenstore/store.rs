//! The state of one domain's store, without the ring: tree, watches, transactions, and what waits to be sent.

use std::collections::{BTreeMap, BTreeSet};

use super::StoreError;
use super::outbox::Outbox;
use super::path::Home;
use super::transaction::Transaction;
use super::tree::{Change, Origin, Touched, Tree};
use super::watch::Watches;
use super::wire::Message;

/// Paths of the guest's changes that are kept for the backends; beyond, they are told to look at everything.
pub const GUEST_CHANGES_MAX: usize = 1024;

/// Events that one request may cause; those beyond are dropped. A commit of many changes meets many watches.
pub const EVENTS_PER_REQUEST_MAX: usize = 8192;

/// Which nodes the guest has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestChanges {
    paths: BTreeSet<String>,
    everything: bool,
}

#[derive(Debug)]
pub(super) struct Store {
    pub home: Home,
    pub tree: Tree,
    pub watches: Watches,
    pub transactions: BTreeMap<u32, Transaction>,
    pub last_transaction: u32,
    pub outbox: Outbox,
    /// Events of the request that is being served: they leave after its answer.
    pub events: Vec<Message>,
    pub guest_changes: GuestChanges,
}

impl GuestChanges {
    /// As if every node had changed: for a look at everything.
    #[must_use]
    pub fn all() -> Self {
        Self { paths: BTreeSet::new(), everything: true }
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.everything
    }

    /// Whether the node at `path`, or one below or above it (a removed parent), may have changed.
    #[must_use]
    pub fn concern(&self, path: &str) -> bool {
        use super::path::is_at_or_below;
        self.everything
            || self.paths.iter().any(|changed| is_at_or_below(changed, path) || is_at_or_below(path, changed))
    }

    fn note(&mut self, path: &str) {
        if self.paths.len() < GUEST_CHANGES_MAX {
            self.paths.insert(path.to_owned());
        } else {
            self.everything = true;
        }
    }
}

impl Store {
    pub fn new(domid: u32) -> Self {
        Self {
            home: Home::new(domid),
            tree: Tree::default(),
            watches: Watches::default(),
            transactions: BTreeMap::new(),
            last_transaction: 0,
            outbox: Outbox::default(),
            events: Vec::new(),
            guest_changes: GuestChanges::default(),
        }
    }

    /// A change by a backend or the toolstack.
    pub fn change_by_host(&mut self, change: &Change) -> Result<(), StoreError> {
        let touched = self.tree.apply(change, Origin::Host)?;
        self.touch(touched, Origin::Host);
        self.flush_events();
        Ok(())
    }

    /// Collects the events of a change, and notes it for the backends when it was the guest's.
    pub fn touch(&mut self, touched: Vec<Touched>, origin: Origin) {
        for touched in &touched {
            if let (Touched::Node(path), Origin::Guest) = (touched, origin) {
                self.guest_changes.note(path);
            }
            let room = EVENTS_PER_REQUEST_MAX.saturating_sub(self.events.len());
            self.events.extend(self.watches.events(&self.home, touched).take(room));
            if room == 0 {
                self.outbox.drop_event();
            }
        }
    }

    pub fn flush_events(&mut self) {
        for event in self.events.drain(..) {
            self.outbox.push_event(&event);
        }
    }

    /// Forgets all that belongs to a connection; the tree stays.
    pub fn reconnect(&mut self) {
        self.watches.clear();
        self.transactions.clear();
        self.outbox = Outbox::default();
        self.events.clear();
    }

    /// The tree as text, one line a node, as `xenstore-ls` prints it. Values are the guest's: what is not printable is escaped.
    pub fn dump(&self) -> String {
        let mut lines = String::new();
        for path in self.tree.below("/") {
            let depth = path.matches('/').count() - 1;
            let name = path.rsplit('/').next().unwrap_or(path);
            let value =
                self.tree.node(path).map(|node| node.value.escape_ascii().to_string()).unwrap_or_default();
            lines.push_str(&format!("{}{name} = \"{value}\"\n", " ".repeat(depth)));
        }
        lines
    }
}
