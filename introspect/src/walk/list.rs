//! Linux' circular doubly linked lists (`include/linux/list.h`), walked while they change.

use std::collections::HashSet;

use honeyvmm::memory::Gva;

use super::{Listing, WalkError};
use crate::view::{Look, ViewError};

/// How often a torn list is read again. One reading takes microseconds, so that a guest has to be very busy to tear it each time.
const ATTEMPTS_MAX: usize = 5;
/// The longest list: Linux' own limit of pids is 4 million, a guest with so many has other troubles.
const NODES_MAX: usize = 1 << 17;

/// What to do at a node that does not point back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AtTear {
    Stop,
    GoOn,
}

/// The nodes of the list with this head, without the head. Read again while it is torn; the last time, the walk goes on along `next`
/// through nodes that do not point back, so that one bent pointer hides nothing.
pub(crate) fn nodes(look: &Look<'_>, head: Gva) -> Listing<Gva> {
    for _ in 1..ATTEMPTS_MAX {
        let listing = nodes_once(look, head, AtTear::Stop);
        if listing.incomplete.is_none() {
            return listing;
        }
    }
    nodes_once(look, head, AtTear::GoOn)
}

fn nodes_once(look: &Look<'_>, head: Gva, at_tear: AtTear) -> Listing<Gva> {
    let mut listing = Listing::new();
    let mut seen = HashSet::new();
    let (mut before, mut node) = match next_and_prev(look, head) {
        Ok((next, _)) => (head, next),
        Err(error) => return Listing::failed(error.into()),
    };
    while node != head {
        let (next, prev) = match next_and_prev(look, node) {
            Ok(pair) => pair,
            Err(error) => {
                listing.note(error);
                return listing;
            }
        };
        if prev != before {
            listing.note(WalkError::Torn(node));
            if at_tear == AtTear::Stop {
                return listing;
            }
        }
        if !seen.insert(node) {
            listing.note(WalkError::Torn(node));
            return listing;
        }
        if listing.items.len() == NODES_MAX {
            listing.note(WalkError::TooMany { what: "nodes of a list", max: NODES_MAX });
            return listing;
        }
        listing.items.push(node);
        (before, node) = (node, next);
    }
    listing
}

/// Whether a list still leads to this node.
pub(super) fn is_linked(look: &Look<'_>, node: Gva) -> bool {
    let linked = || Ok::<_, ViewError>(look.pointer(next_and_prev(look, node)?.1)? == node);
    linked().unwrap_or(false)
}

fn next_and_prev(look: &Look<'_>, node: Gva) -> Result<(Gva, Gva), ViewError> {
    let mut pair = [0; 16];
    look.read(node, &mut pair)?;
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| pair[at + byte]));
    Ok((Gva(word(0)), Gva(word(8))))
}
