//! The domain's own xenstore: one small tree through which frontends, backends and toolstack find each other.
//!
//! Xen's `docs/misc/xenstore.txt` and `io/xs_wire.h`. Each domain has a store of its own, so there is nothing of another domain in
//! it to protect; the guest may write below its home only. Domains do not watch each other, and nothing is kept on disk.

mod outbox;
pub mod path;
mod request;
mod ring;
mod state;
mod store;
mod transaction;
pub mod tree;
mod watch;
pub mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::evtchn::BackendChannel;
use crate::memory::{Gpa, GuestMemory};
use crate::ring::bytes::ByteRingError;

pub use ring::{ConnectionError, Turn};
pub use state::StoreState;
pub use store::GuestChanges;

use ring::Connection;
use store::Store;
use tree::Change;

/// Why a request is refused; on the wire by name (`xsd_errors`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// EINVAL.
    #[error("path or argument is invalid")]
    Invalid,
    /// EACCES.
    #[error("node is not the domain's own")]
    Access,
    /// EEXIST.
    #[error("watch is set already")]
    Exists,
    /// ENOENT.
    #[error("no such node, watch or transaction")]
    NotFound,
    /// ENOSPC.
    #[error("quota of nodes, bytes or transactions is used up")]
    NoSpace,
    /// ENOSYS.
    #[error("no such request")]
    NoSuchCall,
    /// EBUSY.
    #[error("transaction within a transaction")]
    Busy,
    /// EAGAIN.
    #[error("transaction is in conflict with another change")]
    Again,
    /// E2BIG.
    #[error("too many watches, or too long an answer")]
    TooBig,
}

impl StoreError {
    /// The name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invalid => "EINVAL",
            Self::Access => "EACCES",
            Self::Exists => "EEXIST",
            Self::NotFound => "ENOENT",
            Self::NoSpace => "ENOSPC",
            Self::NoSuchCall => "ENOSYS",
            Self::Busy => "EBUSY",
            Self::Again => "EAGAIN",
            Self::TooBig => "E2BIG",
        }
    }
}

/// A domain's store. Clones are the same store.
#[derive(Clone)]
pub struct Xenstore {
    shared: Arc<Shared>,
}

struct Shared {
    /// Tree, watches and the ring. Taken before no other lock: events are sent after it is released.
    inner: Mutex<Inner>,
    channel: OnceLock<BackendChannel>,
}

struct Inner {
    store: Store,
    connection: Option<Connection>,
}

impl Xenstore {
    /// An empty store for domain `domid`.
    #[must_use]
    pub fn new(domid: u32) -> Self {
        let inner = Inner { store: Store::new(domid), connection: None };
        Self { shared: Arc::new(Shared { inner: Mutex::new(inner), channel: OnceLock::new() }) }
    }

    /// The domain's number, as the guest knows it.
    #[must_use]
    pub fn domid(&self) -> u32 {
        self.inner().store.home.domid()
    }

    /// `/local/domain/<domid>`.
    #[must_use]
    pub fn home(&self) -> String {
        self.inner().store.home.path().to_owned()
    }

    /// Serves the page at `page` from now on; `channel` is the event channel that `start_info` names. Once only.
    ///
    /// # Errors
    /// The page is outside memory.
    pub fn attach(
        &self,
        memory: GuestMemory,
        page: Gpa,
        channel: BackendChannel,
    ) -> Result<(), ByteRingError> {
        let connection = Connection::attach(memory, page)?;
        self.inner().connection = Some(connection);
        // A second channel would be dropped here, and with it its port's binding.
        let _ = self.shared.channel.set(channel);
        Ok(())
    }

    /// Serves what the guest has asked for; to be called when its doorbell rang, again while [`Turn::more`] is set, and followed by
    /// the backends' look at [`Xenstore::take_guest_changes`].
    ///
    /// # Errors
    /// The guest broke the protocol. The connection stands still until the guest reconnects; the guest has been told in the page.
    pub fn service(&self) -> Result<Turn, ConnectionError> {
        let turn = self.inner().turn();
        self.notify(&turn);
        turn
    }

    /// Sets a value, and tells the guest's watches.
    ///
    /// # Errors
    /// An invalid path, a value that is too long.
    pub fn write(&self, path: &str, value: &str) -> Result<(), StoreError> {
        self.change(&Change::Write { path: path.to_owned(), value: value.as_bytes().to_vec() })
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    /// ENOENT where not even the parent is there.
    pub fn remove(&self, path: &str) -> Result<(), StoreError> {
        self.change(&Change::Remove { path: path.to_owned() })
    }

    /// Sets the permissions that GET_PERMS answers, as `n0`, `r1`. They inform; `path.rs` decides.
    ///
    /// # Errors
    /// ENOENT, EINVAL.
    pub fn set_perms(&self, path: &str, perms: &[&str]) -> Result<(), StoreError> {
        let perms = perms.iter().map(|&perm| perm.to_owned()).collect();
        self.change(&Change::SetPerms { path: path.to_owned(), perms })
    }

    /// A value as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<String> {
        let inner = self.inner();
        inner.store.tree.node(path).map(|node| String::from_utf8_lossy(&node.value).into_owned())
    }

    /// Names of the nodes right below `path`.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<String> {
        self.inner().store.tree.children(path).into_iter().map(str::to_owned).collect()
    }

    /// What the guest has changed since the last call.
    #[must_use]
    pub fn take_guest_changes(&self) -> GuestChanges {
        std::mem::take(&mut self.inner().store.guest_changes)
    }

    /// The tree as `xenstore-ls` prints it; unprintable bytes are escaped.
    #[must_use]
    pub fn dump(&self) -> String {
        self.inner().store.dump()
    }

    /// Watch events that were dropped because the guest did not read them.
    #[must_use]
    pub fn dropped_events(&self) -> u64 {
        self.inner().store.outbox.dropped_events()
    }

    fn change(&self, change: &Change) -> Result<(), StoreError> {
        let turn = {
            let mut inner = self.inner();
            inner.store.change_by_host(change)?;
            inner.send()
        };
        // A connection that the guest broke is its own loss; the change is made all the same.
        self.notify(&turn);
        Ok(())
    }

    fn notify(&self, turn: &Result<Turn, ConnectionError>) {
        // A broken connection is told as well: the guest is to find the reason in the page.
        let moved = turn.as_ref().map_or(true, |turn| turn.moved);
        if let (true, Some(channel)) = (moved, self.shared.channel.get()) {
            channel.notify();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each change to the tree is made whole or not at all, so a panic elsewhere does not spoil it.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn turn(&mut self) -> Result<Turn, ConnectionError> {
        match &mut self.connection {
            Some(connection) => connection.turn(&mut self.store),
            None => Ok(Turn { moved: false, more: false }),
        }
    }

    fn send(&mut self) -> Result<Turn, ConnectionError> {
        match &mut self.connection {
            Some(connection) => connection.send_only(&mut self.store),
            None => Ok(Turn { moved: false, more: false }),
        }
    }
}

impl fmt::Debug for Xenstore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xenstore").field("home", &self.home()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
