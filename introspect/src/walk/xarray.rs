//! The kernel's xarray (`include/linux/xarray.h`): a tree of nodes with 64 slots. Also what its idr and radix tree are made of.

use honeyvmm::memory::Gva;

use super::{Listing, WalkError};
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Unknown, layout};

/// log2 of the slots of a node.
const SLOTS_SHIFT: u32 = 6;
const SLOTS: u64 = 1 << SLOTS_SHIFT;

layout! {
    NodeLayout = "xa_node" {
        shift: "shift",
        slots: "slots",
    }
}

layout! {
    ArrayLayout = "xarray" {
        head: "xa_head",
    }
}

/// Where the parts of an xarray are.
#[derive(Debug, Clone)]
pub(crate) struct Xarray {
    node: NodeLayout,
    array: ArrayLayout,
}

/// Something that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The first index that it is stored at.
    pub index: u64,
    /// How many indexes it covers: more than one for a page of a higher order.
    pub count: u64,
    /// The pointer, or a value if bit 0 is set.
    pub value: u64,
}

/// What a slot says.
enum Slot {
    Empty,
    Node(Gva),
    /// Belongs to the entry before it.
    Sibling,
    Stored(u64),
}

fn slot(word: u64) -> Slot {
    const SIBLING_MAX: u64 = SLOTS - 1;
    const NODE_MIN: u64 = 4096;
    match word {
        0 => Slot::Empty,
        // Two low bits of 10 say "internal": small ones are siblings and marks such as "try again", the others nodes.
        word if word & 3 == 2 && word > NODE_MIN => Slot::Node(Gva(word - 2)),
        word if word & 3 == 2 && word >> 2 < SIBLING_MAX => Slot::Sibling,
        word if word & 3 == 2 => Slot::Empty,
        word => Slot::Stored(word),
    }
}

impl Xarray {
    pub(crate) fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self { node: NodeLayout::of(symbols)?, array: ArrayLayout::of(symbols)? })
    }

    /// What is stored in the xarray at this address, by index, at most `entries_max` of it.
    pub(crate) fn entries(&self, look: &Look<'_>, array: Gva, entries_max: usize) -> Listing<Entry> {
        let mut found = Listing::new();
        let head = match look.u64(self.array.head.of(array)) {
            Ok(head) => head,
            Err(error) => return Listing::failed(error.into()),
        };
        match slot(head) {
            Slot::Node(node) => {
                if let Err(error) = self.collect(look, node, 0, 64, entries_max, &mut found.items) {
                    found.note(error);
                }
            }
            Slot::Stored(value) => found.items.push(Entry { index: 0, count: 1, value }),
            Slot::Empty | Slot::Sibling => {}
        }
        found
    }

    /// A node's shift is a level smaller than its parent's, or it is no child: so a tree that leads back into itself ends after eleven levels.
    fn collect(
        &self,
        look: &Look<'_>,
        node: Gva,
        base: u64,
        shift_above: u8,
        entries_max: usize,
        found: &mut Vec<Entry>,
    ) -> Result<(), WalkError> {
        let node = self.node.read(look, node)?;
        let shift = node.u64(self.node.shift) as u8;
        if shift >= shift_above || u32::from(shift) % SLOTS_SHIFT != 0 {
            return Err(WalkError::Torn(node.at));
        }
        let words = node.bytes(self.node.slots).chunks_exact(8);
        let words = words.map(|word| u64::from_le_bytes(std::array::from_fn(|byte| word[byte])));
        for (offset, word) in words.enumerate() {
            // What does not fit 64 bits is no index of an honest tree.
            let Some(index) = (offset as u64).checked_mul(1 << shift).and_then(|at| base.checked_add(at))
            else {
                return Err(WalkError::Torn(node.at));
            };
            match slot(word) {
                Slot::Empty => {}
                Slot::Node(child) => self.collect(look, child, index, shift, entries_max, found)?,
                Slot::Sibling => {
                    if let Some(entry) = found.last_mut() {
                        entry.count = entry.count.saturating_add(1 << shift);
                    }
                }
                Slot::Stored(_) if found.len() == entries_max => {
                    return Err(WalkError::TooMany { what: "entries of an xarray", max: entries_max });
                }
                Slot::Stored(value) => found.push(Entry { index, count: 1 << shift, value }),
            }
        }
        Ok(())
    }
}

/// Where the xarray of an idr is, inside it.
pub(crate) fn of_idr(symbols: &Symbols) -> Result<Field, Unknown> {
    Field::find(symbols, "idr", "idr_rt", "idr.idr_rt")
}

/// The pointer at an index, for an entry that is no value.
pub(crate) fn pointer(entry: Entry) -> Option<Gva> {
    (entry.value & 1 == 0).then_some(Gva(entry.value & !3))
}
