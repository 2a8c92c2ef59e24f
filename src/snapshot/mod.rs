//! Snapshots as folders: what lies in one, how it is written and read, and the chains that they form. Taking one of a domain, and having a domain go
//! on from one, is the supervisor's (`supervisor::copying`, `supervisor::saved`).
//!
//! ```text
//! manifest.json            written last: what it is, the length of every other file, BLAKE3 of the small ones
//! state.json               honeyvmm::machine::DomainState
//! registers.json           the vcpus' registers by name, for dumps
//! ram.img, shim.img        memory; holes where nothing is. RAM of a diff: the pages that it holds, each at its place
//! ram.map                  of a diff: which pages these are (honeyvmm::page_map)
//! VDEV.layer.N             copy-on-write layers of each disk, the lowest first. Of a diff: one, with the clusters that differ
//! *.sums                   beside each large file: a sum a page
//! ```
//!
//! Images and kernel stay where they are. It is written under another name, synced and renamed, so that half a one is never taken for whole. A diff
//! lies over its parent, that perhaps over another, down to one that is full: a chain. Who uses a chain holds a shared lock on each of its manifests.

mod chain;
mod compact;
pub mod compare;
mod error;
pub mod listing;
mod manifest;
pub mod store;
mod sums;

pub use chain::{CHAIN_MAX, Chain, Member};
pub use compact::compact;
pub use error::SavedError;
pub use manifest::{
    Capture, Kind, Manifest, Parent, RAM, RAM_MAP, REGISTERS, SHIM, STATE, VERSION, layer_name, put, seal,
};

#[cfg(test)]
mod tests;
