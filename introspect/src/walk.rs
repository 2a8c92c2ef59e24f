//! What a guest's kernel holds, as `ps`, `lsof`, `netstat`, `lsmod` and `dmesg` would show it, read from outside.
//!
//! Each walk knows its structs by name from [`crate::symbols`] and reads by a [`Look`](crate::view::Look), whose steps bound it. Nothing is stopped
//! while we read: lists that were torn by a running guest are walked again. What a guest has bent ends the walk: then the listing says
//! why it is not complete, beside what was found.

mod file_type;
pub mod files;
pub(crate) mod list;
pub mod log;
pub mod modules;
pub mod page_cache;
pub mod paths;
pub mod pids;
pub mod sockets;
pub mod task;
pub mod tasks;
pub(crate) mod xarray;

use honeyvmm::memory::Gva;
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::view::ViewError;

/// Why a walk did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WalkError {
    /// A pointer of the guest's leads nowhere, or its structures have no end.
    #[error("guest memory does not hold together")]
    View(#[from] ViewError),
    /// A list's node does not point back to where we came from, however often it is read.
    #[error("list is torn at {0}")]
    Torn(Gva),
    /// More of something than is believed.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// It was there when the walk began, and is no longer.
    #[error("no longer there: {0}")]
    Gone(Gva),
}

/// What a walk found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing<T> {
    /// In the kernel's order.
    pub items: Vec<T>,
    /// Why there may be more.
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<WalkError>,
}

impl<T> Listing<T> {
    /// Nothing yet.
    fn new() -> Self {
        Self { items: Vec::new(), incomplete: None }
    }

    fn failed(error: WalkError) -> Self {
        Self { items: Vec::new(), incomplete: Some(error) }
    }

    /// Keeps the first reason.
    fn note(&mut self, error: impl Into<WalkError>) {
        self.incomplete.get_or_insert(error.into());
    }
}

/// The chain of an error in one line, as the printer of a chain shows it.
fn as_text<S: Serializer>(error: &Option<WalkError>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::new();
    let mut cause = error.as_ref().map(|error| error as &dyn std::error::Error);
    while let Some(error) = cause {
        let parting = if text.is_empty() { "" } else { ": " };
        text.push_str(&format!("{parting}{error}"));
        cause = error.source();
    }
    serializer.serialize_str(&text)
}

#[cfg(test)]
mod tests;
