//! Tasks that are in one of the kernel's books and not in another: taken off the list, or out of the numbers, or running while in neither.

use std::collections::BTreeSet;

use honeyvmm::memory::Gva;
use serde::Serialize;

use crate::view::Look;
use crate::walk::pids::Pids;
use crate::walk::task::Task;
use crate::walk::tasks::{Tasks, Threads};

/// How often a difference has to be seen. A task that begins or ends between two looks is in one book only, but not for long.
const ROUNDS: usize = 3;

/// Where a task is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingFrom {
    /// `init_task`'s list, from which `ps` takes it.
    List,
    /// The tree of numbers, in which `kill` looks.
    Numbers,
    /// Both, although a vcpu runs it.
    Both,
}

/// A task that is hidden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HiddenTask {
    /// Where it is missing.
    pub missing_from: MissingFrom,
    /// What is known of it; `None` if its `task_struct` cannot be read.
    pub task: Option<Task>,
}

/// All hidden tasks of a guest whose vcpus 0 to `vcpus - 1` are up. A guest whose books cannot be read has none: the listings say so.
#[must_use]
pub fn hidden_tasks(look: &Look<'_>, tasks: &Tasks, pids: &Pids, vcpus: u32) -> Vec<HiddenTask> {
    let mut hidden = differences(look, tasks, pids, vcpus);
    for _ in 1..ROUNDS {
        if hidden.is_empty() {
            break;
        }
        let again = differences(look, tasks, pids, vcpus);
        hidden.retain(|difference| again.contains(difference));
    }
    let describe = |(at, missing_from)| HiddenTask { missing_from, task: tasks.task(look, at).ok() };
    hidden.into_iter().map(describe).collect()
}

fn differences(look: &Look<'_>, tasks: &Tasks, pids: &Pids, vcpus: u32) -> BTreeSet<(Gva, MissingFrom)> {
    let listed = tasks.list(look, Threads::All);
    let numbered = pids.list(look);
    if listed.incomplete.is_some() || numbered.incomplete.is_some() {
        return BTreeSet::new();
    }
    let listed: BTreeSet<Gva> = listed.items.iter().map(|task| task.at).collect();
    let numbered: BTreeSet<Gva> = numbered.items.iter().map(|pid| pid.task).collect();
    let mut found: BTreeSet<_> = numbered.difference(&listed).map(|at| (*at, MissingFrom::List)).collect();
    found.extend(listed.difference(&numbered).map(|at| (*at, MissingFrom::Numbers)));
    // The idle task of each vcpu has number 0 and is in no book.
    let is_hidden = |at: &Gva| {
        !listed.contains(at)
            && !numbered.contains(at)
            && tasks.task(look, *at).map_or(true, |task| task.pid != 0)
    };
    let running = (0..vcpus).filter_map(|vcpu| tasks.current(look, vcpu).ok());
    found.extend(running.filter(is_hidden).map(|at| (at, MissingFrom::Both)));
    found
}
