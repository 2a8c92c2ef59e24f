//! What is asked of the guest's memory. A kernel that does not tell its layouts is observed all the same; only what needs them is refused.

use std::collections::HashSet;
use std::time::Instant;

use honeyvmm::memory::{Gva, ReadOnlyRam};
use serde_json::{Value, json};

use crate::session::Parents;
use crate::symbols::Symbols;
use crate::view::{OpenError, View};
use crate::walk::tasks::{STEPS_MAX, Tasks, Threads};

/// Steps of a look at one task.
const TASK_STEPS_MAX: u32 = 64 * 1024;

/// The guest's memory and how to walk it.
pub struct Walks {
    view: View,
    tasks: Result<Tasks, String>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotShown(String);

impl Walks {
    /// Of a guest with this RAM and this kernel.
    ///
    /// # Errors
    /// The kernel does not even tell where its memory is.
    pub fn new(ram: ReadOnlyRam, symbols: &Symbols) -> Result<Walks, OpenError> {
        Ok(Walks {
            view: View::new(ram, symbols)?,
            tasks: Tasks::of(symbols).map_err(|error| events::sentence(&error)),
        })
    }

    fn tasks(&self) -> Result<&Tasks, NotShown> {
        self.tasks.as_ref().map_err(|error| NotShown(format!("tasks cannot be shown: {error}")))
    }

    /// `ps`: every process, with why the list may not be whole, and how long the walk took.
    pub fn ps(&self) -> Result<Value, NotShown> {
        let begun = Instant::now();
        let listing = self.tasks()?.list(&self.view.look(STEPS_MAX), Threads::First);
        let walk_us = begun.elapsed().as_micros() as u64;
        let incomplete = listing.incomplete.map(|error| events::sentence(&error));
        Ok(json!({ "processes": listing.items, "incomplete": incomplete, "walk_us": walk_us }))
    }

    /// Processes that live; `None` where the list is not whole, for then one that is missing may live.
    pub fn alive(&self) -> Option<HashSet<u32>> {
        let listing = self.tasks().ok()?.list(&self.view.look(STEPS_MAX), Threads::First);
        let whole = listing.incomplete.is_none() && !listing.items.is_empty();
        whole.then(|| listing.items.iter().map(|task| task.tgid).collect())
    }
}

impl Parents for Walks {
    fn parent(&self, task: u64) -> Option<u32> {
        let look = self.view.look(TASK_STEPS_MAX);
        self.tasks().ok()?.task(&look, Gva(task)).ok().map(|task| task.ppid)
    }

    fn arguments(&self, task: u64) -> Option<Vec<String>> {
        let look = self.view.look(TASK_STEPS_MAX);
        let task = self.tasks().ok()?.task(&look, Gva(task)).ok()?;
        (!task.command_line.is_empty()).then_some(task.command_line)
    }
}
