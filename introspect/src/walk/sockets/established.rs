//! TCP's table of connections (`tcp_hashinfo.ehash`), which also holds those that only wait for their end, or that ask to be let in.

use std::collections::HashSet;

use honeyvmm::memory::Gva;

use crate::symbols::Symbols;
use crate::view::layout::{Field, Unknown, layout, symbol};
use crate::view::{Look, ViewError};
use crate::walk::{Listing, WalkError};

/// Linux makes at most half a million chains (`thash_entries`).
const CHAINS_MAX: u64 = 1 << 20;
/// Chains whose heads are read at once.
const CHAINS_AT_ONCE: u64 = 4096;
/// Connections that are believed.
const CONNECTIONS_MAX: usize = 1 << 17;

layout! {
    TableLayout = "inet_hashinfo" {
        chains: "ehash",
        mask: "ehash_mask",
    }
}

/// Where the table is.
#[derive(Debug, Clone)]
pub(super) struct Established {
    table: Gva,
    layout: TableLayout,
    node: Field,
}

impl Established {
    pub(super) fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            table: symbol(symbols, "tcp_hashinfo")?,
            layout: TableLayout::of(symbols)?,
            node: Field::find(symbols, "sock_common", "skc_nulls_node", "sock_common.skc_nulls_node")?,
        })
    }

    /// All `struct sock` in the table.
    pub(super) fn list(&self, look: &Look<'_>) -> Listing<Gva> {
        let mut listing = Listing::new();
        let mut seen = HashSet::new();
        if let Err(error) = self.collect(look, &mut listing, &mut seen) {
            listing.note(error);
        }
        listing
    }

    fn collect(
        &self,
        look: &Look<'_>,
        listing: &mut Listing<Gva>,
        seen: &mut HashSet<Gva>,
    ) -> Result<(), WalkError> {
        let table = self.layout.read(look, self.table)?;
        let chains = table.u64(self.layout.mask) + 1;
        if chains > CHAINS_MAX {
            return Err(WalkError::TooMany { what: "chains of connections", max: CHAINS_MAX as usize });
        }
        for first in (0..chains).step_by(CHAINS_AT_ONCE as usize) {
            let at = Gva(table.u64(self.layout.chains).wrapping_add(8 * first));
            let heads = look.bytes(at, 8 * CHAINS_AT_ONCE.min(chains - first))?;
            for head in heads.chunks_exact(8) {
                let head = u64::from_le_bytes(std::array::from_fn(|byte| head[byte]));
                if let Err(error) = self.chain(look, head, &mut listing.items, seen) {
                    // The others are not this chain's fault, as long as there are steps.
                    look.step()?;
                    listing.note(error);
                }
            }
        }
        Ok(())
    }

    /// Follows a chain to its end, which is an odd number. A connection that has moved to another chain meanwhile leads us there: it
    /// was seen before, or will be.
    fn chain(
        &self,
        look: &Look<'_>,
        head: u64,
        found: &mut Vec<Gva>,
        seen: &mut HashSet<Gva>,
    ) -> Result<(), WalkError> {
        let mut node = head;
        while node != 0 && node & 1 == 0 {
            let at = self.node.container(Gva(node));
            if !seen.insert(at) {
                return Ok(());
            }
            if found.len() == CONNECTIONS_MAX {
                return Err(WalkError::TooMany { what: "connections", max: CONNECTIONS_MAX });
            }
            let next: Result<u64, ViewError> = look.u64(Gva(node));
            found.push(at);
            node = next?;
        }
        Ok(())
    }
}
