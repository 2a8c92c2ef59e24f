//! All tasks: processes from `init_task`'s list, threads from their processes, and the one that a vcpu runs.

use honeyvmm::memory::Gva;

use super::list;
use super::task::{Process, Task, TaskParts};
use super::{Listing, WalkError};
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Snapshot, Unknown, symbol};

/// The most threads that are shown of a guest.
const TASKS_MAX: usize = 1 << 16;
/// Steps that suffice for [`TASKS_MAX`] honest tasks with deep paths.
pub const STEPS_MAX: u32 = 4 << 20;

/// How tasks are found in a kernel.
#[derive(Debug, Clone)]
pub struct Tasks {
    pub(super) parts: TaskParts,
    init_task: Gva,
    current: Current,
    /// From a task to its `pid`, and there to how deep its namespace is; before 4.19 a task had its `pid` elsewhere.
    level: Option<(Field, Field)>,
}

/// Where the kernel keeps the task that a vcpu runs.
#[derive(Debug, Clone)]
struct Current {
    per_cpu_offset: Gva,
    /// In the per-cpu area.
    offset: u64,
}

/// Which of a process' threads are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// One entry a process.
    First,
    /// All, as `ps -eL`.
    All,
}

impl Tasks {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        // A variable of its own, but for 6.2 to 6.14, where it shared a cache line with others.
        let offset = symbols.percpu("current_task").or_else(|| {
            let hot = symbols.percpu("pcpu_hot")?;
            Some(hot + symbols.member("pcpu_hot", "current_task")?.offset)
        });
        let current = Current {
            per_cpu_offset: symbol(symbols, "__per_cpu_offset")?,
            offset: offset.ok_or(Unknown { kind: "symbol", name: "current_task" })?,
        };
        let field = |kind, member, shown| Field::find(symbols, kind, member, shown).ok();
        let level = field("task_struct", "thread_pid", "task_struct.thread_pid").zip(field(
            "pid",
            "level",
            "pid.level",
        ));
        Ok(Self { parts: TaskParts::of(symbols)?, init_task: symbol(symbols, "init_task")?, current, level })
    }

    /// All tasks, but for the idle ones (pid 0), which `ps` does not show either. A task that ends while we look is there or is not.
    #[must_use]
    pub fn list(&self, look: &Look<'_>, threads: Threads) -> Listing<Task> {
        let tasks = self.parts.task.tasks;
        let nodes = list::nodes(look, tasks.of(self.init_task));
        let mut listing = Listing { items: Vec::with_capacity(nodes.items.len()), ..Listing::new() };
        for node in nodes.items {
            if let Err(error) = self.add_process(look, node, threads, &mut listing.items)
                && list::is_linked(look, node)
            {
                listing.note(error);
            }
        }
        // Why the list itself has no end matters less than that.
        if let Some(error) = nodes.incomplete {
            listing.note(error);
        }
        listing
    }

    /// A task by its address.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn task(&self, look: &Look<'_>, at: Gva) -> Result<Task, WalkError> {
        let task = self.parts.task.read(look, at)?;
        let process = self.parts.process(look, &task);
        self.parts.task(look, &task, process)
    }

    /// How deep the task's namespace of process numbers is; 0 is the first one. `None`: this kernel or this task does not tell.
    #[must_use]
    pub fn namespace_level(&self, look: &Look<'_>, task: Gva) -> Option<u32> {
        let (thread_pid, level) = self.level?;
        look.u32(level.of(look.pointer(thread_pid.of(task)).ok()?)).ok()
    }

    /// The `struct file` of the program that a task runs; a kernel thread has none.
    #[must_use]
    pub fn exe_file(&self, look: &Look<'_>, task: Gva) -> Option<Gva> {
        self.parts.exe_file(look, &self.parts.task.read(look, task).ok()?)
    }

    /// The `task_struct` that a vcpu runs; only for one that has been brought up.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn current(&self, look: &Look<'_>, vcpu: u32) -> Result<Gva, WalkError> {
        let offset = look.u64(Gva(self.current.per_cpu_offset.0 + 8 * u64::from(vcpu)))?;
        Ok(look.pointer(Gva(offset.wrapping_add(self.current.offset)))?)
    }

    fn add_process(
        &self,
        look: &Look<'_>,
        node: Gva,
        threads: Threads,
        found: &mut Vec<Task>,
    ) -> Result<(), WalkError> {
        let leader = self.parts.task.read(look, self.parts.task.tasks.container(node))?;
        if !list::is_linked(look, node) {
            return Err(WalkError::Gone(leader.at));
        }
        let process = self.parts.process(look, &leader);
        push(found, self.parts.task(look, &leader, process.clone())?)?;
        match threads {
            Threads::First => Ok(()),
            Threads::All => self.add_threads(look, &leader, &process, found),
        }
    }

    /// All threads but the first.
    fn add_threads(
        &self,
        look: &Look<'_>,
        leader: &Snapshot,
        process: &Process,
        found: &mut Vec<Task>,
    ) -> Result<(), WalkError> {
        let layout = &self.parts.task;
        let Some(signal) = leader.target(layout.signal) else { return Ok(()) };
        let nodes = list::nodes(look, self.parts.signal.thread_head.of(signal));
        for node in nodes.items {
            let at = layout.thread_node.container(node);
            if at == leader.at {
                continue;
            }
            let thread = layout.read(look, at)?;
            // A thread that has ended may be another's memory by now.
            let is_ours = thread.u64(layout.tgid) == leader.u64(layout.tgid) && list::is_linked(look, node);
            if is_ours {
                push(found, self.parts.task(look, &thread, process.clone())?)?;
            }
        }
        nodes.incomplete.map_or(Ok(()), Err)
    }
}

fn push(found: &mut Vec<Task>, task: Task) -> Result<(), WalkError> {
    if found.len() == TASKS_MAX {
        return Err(WalkError::TooMany { what: "tasks", max: TASKS_MAX });
    }
    found.push(task);
    Ok(())
}
