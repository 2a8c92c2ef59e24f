//! The backend half of xenbus: how a split device's two ends find each other through xenstore.
//!
//! Xen's `io/xenbus.h`. This file is what a backend sees: its trait, and the frontend's published values. `device.rs` follows the states.

mod device;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::errno::Errno;
use crate::evtchn::{BackendChannel, Doorbell, EventChannels};
use crate::grant::{GrantAccess, GrantError, GrantTable, GrantedPage};
use crate::memory::{EvtchnPort, GrantRef, GuestMemory};
use crate::ring::{RingError, RingLayout, ServerRing};

pub use device::{Device, DeviceKind, FRONTEND_NODES_MAX, State, Xenbus};

/// Names and values that are published in one directory of xenstore.
pub type Nodes = Vec<(String, String)>;

/// Why a backend does not serve a frontend. The device is then closed, with this as its `error` in xenstore.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The frontend has not published a value that the backend needs.
    #[error("frontend has no {0}")]
    Missing(String),
    /// A value is not a number.
    #[error("frontend's {key} is not a number: {value:?}")]
    NotANumber {
        /// Which one.
        key: String,
        /// What it is.
        value: String,
    },
    /// A value is one that the backend cannot serve.
    #[error("frontend's {key} is not supported: {value:?}")]
    Unsupported {
        /// Which one.
        key: String,
        /// What it is.
        value: String,
    },
    /// A granted page cannot be used.
    #[error("cannot use a granted page")]
    Grant(#[from] GrantError),
    /// A ring is unusable.
    #[error("cannot use the ring")]
    Ring(#[from] RingError),
    /// The event channel cannot be bound.
    #[error("cannot bind {port}")]
    Evtchn {
        /// Which one.
        port: EvtchnPort,
        /// Xen's reason.
        #[source]
        source: Errno,
    },
    /// The backend's own end (disk, switch port, thread) failed.
    #[error("backend cannot start")]
    Host(#[source] std::io::Error),
}

/// A device model. All methods are called by the thread that serves xenstore, one at a time.
pub trait Backend: Send {
    /// Values to publish in the backend's directory before the frontend looks (features), at InitWait.
    fn features(&self) -> Nodes;

    /// The frontend has published its rings: start to serve them. The answer is published in the backend's directory before it
    /// becomes Connected (a disk's `sectors`). Called again after `close` when the frontend comes back.
    ///
    /// # Errors
    /// What the frontend or the host did wrong; everything that was taken up is released again.
    fn connect(&mut self, frontend: &FrontendView) -> Result<Nodes, BackendError>;

    /// Stop serving; on return no page of the guest is used any more. May be called when not connected.
    fn close(&mut self);
}

/// What the frontend has published, copied, and what a backend needs to take it up.
#[derive(Debug, Clone)]
pub struct FrontendView {
    nodes: BTreeMap<String, String>,
    memory: GuestMemory,
    grants: GrantTable,
    events: EventChannels,
}

/// One ring of a frontend, taken up. The page stays granted as long as this lives.
pub struct MappedRing {
    /// The ring.
    pub ring: ServerRing,
    /// Keeps the ring's page.
    _page: GrantedPage,
}

impl FrontendView {
    /// From plain values; `nodes` are those of the frontend's directory.
    #[must_use]
    pub fn new(
        nodes: BTreeMap<String, String>,
        memory: GuestMemory,
        grants: GrantTable,
        events: EventChannels,
    ) -> Self {
        Self { nodes, memory, grants, events }
    }

    /// A value as text.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.nodes.get(key).map(String::as_str)
    }

    /// A number that must be there.
    ///
    /// # Errors
    /// [`BackendError::Missing`], [`BackendError::NotANumber`].
    pub fn number(&self, key: &str) -> Result<u32, BackendError> {
        let value = self.text(key).ok_or_else(|| BackendError::Missing(key.to_owned()))?;
        value
            .trim()
            .parse()
            .map_err(|_| BackendError::NotANumber { key: key.to_owned(), value: value.to_owned() })
    }

    /// Whether the frontend says that it has a feature (`1`); one that says nothing has not.
    #[must_use]
    pub fn feature(&self, key: &str) -> bool {
        self.number(key).is_ok_and(|value| value != 0)
    }

    /// Takes up the ring whose grant reference the frontend published under `key` (`ring-ref`, `tx-ring-ref`, `rx-ring-ref`).
    ///
    /// # Errors
    /// A value that is missing, a grant or a ring that is no good.
    pub fn map_ring(&self, key: &str, layout: RingLayout) -> Result<MappedRing, BackendError> {
        let page = self.grants.resolve(GrantRef(self.number(key)?), GrantAccess::Write)?;
        let ring = ServerRing::attach(self.memory.clone(), page.gpa(), layout)?;
        Ok(MappedRing { ring, _page: page })
    }

    /// Binds the channel whose port the frontend published under `key` (`event-channel`).
    ///
    /// # Errors
    /// A value that is missing, a port that is not open and unbound.
    pub fn bind_channel(
        &self,
        key: &str,
        doorbell: Arc<dyn Doorbell>,
    ) -> Result<BackendChannel, BackendError> {
        let port = EvtchnPort(self.number(key)?);
        self.events.bind_backend(port, doorbell).map_err(|source| BackendError::Evtchn { port, source })
    }

    /// The domain's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The domain's grant table.
    #[must_use]
    pub fn grants(&self) -> &GrantTable {
        &self.grants
    }
}

impl fmt::Debug for MappedRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ring.fmt(f)
    }
}
