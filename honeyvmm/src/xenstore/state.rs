//! A domain's store as a saved domain keeps it: tree, watches, transactions, what waits to be sent, and the half of a request that came. The ring itself lies in
//! the domain's memory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::outbox::Outbox;
use super::ring::Connection;
use super::store::Store;
use super::transaction::Transaction;
use super::tree::{Change, Node, Tree};
use super::watch::{Watch, Watches};
use super::{StoreError, Xenstore};
use crate::evtchn::BackendChannel;
use crate::memory::{Gpa, GuestMemory};
use crate::ring::bytes::ByteRingError;

/// The store of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreState {
    nodes: Vec<(String, Node)>,
    generation: u64,
    watches: Vec<Watch>,
    transactions: Vec<(u32, OpenTransaction)>,
    last_transaction: u32,
    /// What waits to be sent: bytes, and whether it is a watch's event. Of the first so many bytes have gone.
    waiting: Vec<(Vec<u8>, bool)>,
    sent: usize,
    partial: Vec<u8>,
    broken: bool,
}

/// What a transaction has looked at and done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenTransaction {
    pub looked_at: BTreeMap<String, Option<u64>>,
    pub changes: Vec<Change>,
}

impl Xenstore {
    /// All of it now.
    #[must_use]
    pub fn save(&self) -> StoreState {
        let inner = self.inner();
        let store = &inner.store;
        let (waiting, sent) = store.outbox.save();
        let (partial, broken) = inner.connection.as_ref().map(Connection::save).unwrap_or_default();
        let transactions = store.transactions.iter().map(|(id, open)| (*id, open.save()));
        StoreState {
            nodes: store.tree.save(),
            generation: store.tree.last_generation(),
            watches: store.watches.save(),
            transactions: transactions.collect(),
            last_transaction: store.last_transaction,
            waiting,
            sent,
            partial,
            broken,
        }
    }

    /// The store of a saved domain, with the same number.
    ///
    /// # Errors
    /// A tree or a transaction that no store has.
    pub fn restore(domid: u32, state: &StoreState) -> Result<Self, StoreError> {
        let store = Self::new(domid);
        {
            let Store { tree, watches, transactions, last_transaction, outbox, .. } =
                &mut store.inner().store;
            *tree = Tree::restore(&state.nodes, state.generation)?;
            *watches = Watches::restore(&state.watches)?;
            for (id, open) in &state.transactions {
                transactions.insert(*id, Transaction::restore(tree, open)?);
            }
            *last_transaction = state.last_transaction;
            *outbox = Outbox::restore(&state.waiting, state.sent)?;
        }
        Ok(store)
    }

    /// As [`Xenstore::attach`], where the saved domain's connection stood.
    ///
    /// # Errors
    /// The page is outside memory.
    pub fn attach_restored(
        &self,
        memory: GuestMemory,
        page: Gpa,
        channel: BackendChannel,
        state: &StoreState,
    ) -> Result<(), ByteRingError> {
        self.attach(memory, page, channel)?;
        if let Some(connection) = &mut self.inner().connection {
            connection.restore(state.partial.clone(), state.broken);
        }
        Ok(())
    }
}
