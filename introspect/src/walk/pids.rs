//! Tasks by number, from the tree that `kill` looks into: a second way to find them, for those that were taken off the list.

use honeyvmm::memory::Gva;
use serde::Serialize;

use super::Listing;
use super::xarray::{self, Xarray};
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Unknown, layout, symbol};

/// Linux' own limit (`PID_MAX_LIMIT`) is 4 million; no honest guest of ours comes near this.
const PIDS_MAX: usize = 1 << 17;

layout! {
    PidLayout = "pid" {
        tasks: "tasks",
    }
}

/// A number that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Pid {
    /// In the first namespace.
    pub number: u32,
    /// Its `task_struct`.
    #[serde(skip)]
    pub task: Gva,
}

/// Where the tree is.
#[derive(Debug, Clone)]
pub struct Pids {
    tree: Gva,
    xarray: Xarray,
    pid: PidLayout,
    links: Field,
}

impl Pids {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        let idr = Field::find(symbols, "pid_namespace", "idr", "pid_namespace.idr")?;
        let namespace = symbol(symbols, "init_pid_ns")?;
        Ok(Self {
            tree: xarray::of_idr(symbols)?.of(idr.of(namespace)),
            xarray: Xarray::of(symbols)?,
            pid: PidLayout::of(symbols)?,
            links: Field::find(symbols, "task_struct", "pid_links", "task_struct.pid_links")?,
        })
    }

    /// All numbers that have a task, threads too. Numbers that only name a group or a session any more are left out.
    #[must_use]
    pub fn list(&self, look: &Look<'_>) -> Listing<Pid> {
        let entries = self.xarray.entries(look, self.tree, PIDS_MAX);
        let mut listing = Listing { items: Vec::new(), incomplete: entries.incomplete };
        for entry in entries.items {
            let Some(pid) = xarray::pointer(entry) else { continue };
            // `PIDTYPE_PID` is the first list, and its node the first of a task's.
            match look.pointer(self.pid.tasks.of(pid)) {
                Ok(Gva(0)) => {}
                Ok(link) => {
                    let task = self.links.container(link);
                    listing.items.push(Pid { number: entry.index as u32, task });
                }
                Err(error) => listing.note(error),
            }
        }
        listing
    }
}
