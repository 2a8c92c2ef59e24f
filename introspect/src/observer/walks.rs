//! What is asked of the guest's memory. A kernel that does not tell its layouts is observed all the same; only what needs them is refused.

use std::collections::HashMap;
use std::time::Instant;

use honeyvmm::memory::{Gva, ReadOnlyRam};
use serde::Serialize;
use serde_json::{Value, json};

use crate::session::guest::{Found, Guest, Inode};
use crate::session::peer::Peer;
use crate::session::samples::SAMPLE_BYTES_MAX;
use crate::symbols::Symbols;
use crate::trace::scap::{Facts, Machine};
use crate::view::layout::Unknown;
use crate::view::{OpenError, View};
use crate::walk::files::{Access, FileType, Files, OpenFile};
use crate::walk::log::{self, Log};
use crate::walk::modules::{self, Modules};
use crate::walk::page_cache::{self, PageCache};
use crate::walk::sockets::{self, Socket, Sockets};
use crate::walk::task::Task;
use crate::walk::tasks::{STEPS_MAX, Tasks, Threads};
use crate::walk::{Listing, WalkError};

/// Steps of a look at one task.
const TASK_STEPS_MAX: u32 = 64 * 1024;
/// Files that one process has open for writing when it ends.
const WRITTEN_MAX: usize = 256;

/// The guest's memory and how to walk it. What a kernel does not tell is a sentence.
pub struct Walks {
    view: View,
    tasks: Result<Tasks, String>,
    files: Result<Files, String>,
    sockets: Result<Sockets, String>,
    modules: Result<Modules, String>,
    log: Result<Log, String>,
    page_cache: Result<PageCache, String>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotShown(String);

fn known<T>(what: &str, found: Result<T, Unknown>) -> Result<T, String> {
    found.map_err(|error| format!("{what} cannot be shown: {}", events::sentence(&error)))
}

fn have<T>(part: &Result<T, String>) -> Result<&T, NotShown> {
    part.as_ref().map_err(|why| NotShown(why.clone()))
}

fn sentence(error: Option<WalkError>) -> Option<String> {
    error.map(|error| events::sentence(&error))
}

fn shown(name: &str, listing: Listing<impl Serialize>) -> Value {
    json!({ name: listing.items, "incomplete": sentence(listing.incomplete) })
}

impl Walks {
    /// Of a guest with this RAM and this kernel.
    ///
    /// # Errors
    /// The kernel does not even tell where its memory is.
    pub fn new(ram: ReadOnlyRam, symbols: &Symbols) -> Result<Walks, OpenError> {
        Ok(Walks {
            view: View::new(ram, symbols)?,
            tasks: known("tasks", Tasks::of(symbols)),
            files: known("open files", Files::of(symbols)),
            sockets: known("sockets", Sockets::of(symbols)),
            modules: known("modules", Modules::of(symbols)),
            log: known("the kernel's log", Log::of(symbols)),
            page_cache: known("contents of files", PageCache::of(symbols)),
        })
    }

    /// The guest's memory.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// `ps`: every process, with why the list may not be whole, and how long the walk took.
    pub fn ps(&self) -> Result<Value, NotShown> {
        let begun = Instant::now();
        let listing = have(&self.tasks)?.list(&self.view.look(STEPS_MAX), Threads::First);
        let walk_us = begun.elapsed().as_micros() as u64;
        let mut answer = shown("processes", listing);
        answer["walk_us"] = walk_us.into();
        Ok(answer)
    }

    /// `lsof`: open files, by process.
    pub fn lsof(&self, pid: Option<u32>) -> Result<Value, NotShown> {
        let files = have(&self.files)?;
        let look = self.view.look(STEPS_MAX);
        let tasks = have(&self.tasks)?.list(&look, Threads::First);
        let (mut rows, mut incomplete) = (Vec::new(), tasks.incomplete);
        for task in tasks.items.iter().filter(|task| pid.is_none_or(|pid| pid == task.tgid)) {
            let listing = files.list(&self.view.look(STEPS_MAX), task.at);
            incomplete = incomplete.or(listing.incomplete);
            let row =
                |file| json!({ "pid": task.tgid, "comm": task.comm, "uid": task.rights.uid, "file": file });
            rows.extend(listing.items.into_iter().map(row));
        }
        Ok(json!({ "files": rows, "incomplete": sentence(incomplete) }))
    }

    /// `netstat`: sockets and who has them.
    pub fn netstat(&self) -> Result<Value, NotShown> {
        let tasks = have(&self.tasks)?.list(&self.view.look(STEPS_MAX), Threads::First);
        let mut listing = have(&self.sockets)?.list(&self.view.look(sockets::STEPS_MAX), &tasks.items);
        listing.incomplete = listing.incomplete.or(tasks.incomplete);
        Ok(shown("sockets", listing))
    }

    /// `lsmod`.
    pub fn modules(&self) -> Result<Value, NotShown> {
        Ok(shown("modules", have(&self.modules)?.list(&self.view.look(modules::STEPS_MAX))))
    }

    /// `dmesg`.
    pub fn dmesg(&self) -> Result<Value, NotShown> {
        Ok(shown("records", have(&self.log)?.list(&self.view.look(log::STEPS_MAX))))
    }

    /// What a capture begins with, as much of it as can be seen.
    pub fn machine(&self, name: &str, vcpus: u32, memory_bytes: u64) -> Machine {
        let mut machine = Machine { name: name.to_owned(), vcpus, memory_bytes, ..Machine::default() };
        let Ok(tasks) = &self.tasks else { return machine };
        machine.tasks = tasks.list(&self.view.look(STEPS_MAX), Threads::All).items;
        let processes = machine.tasks.iter().filter(|task| task.pid == task.tgid && !task.kernel_thread);
        let processes: Vec<Task> = processes.cloned().collect();
        if let Ok(sockets) = &self.sockets {
            machine.sockets = sockets.list(&self.view.look(sockets::STEPS_MAX), &processes).items;
        }
        if let Ok(files) = &self.files {
            let of = |task: &Task| (task.pid, files.list(&self.view.look(STEPS_MAX), task.at).items);
            machine.files = processes.iter().map(of).collect();
        }
        machine
    }

    /// Processes that live, with when they began; `None` where the list is not whole, for then one that is missing may live.
    pub fn alive(&self) -> Option<HashMap<u32, u64>> {
        let listing = self.tasks.as_ref().ok()?.list(&self.view.look(STEPS_MAX), Threads::First);
        let whole = listing.incomplete.is_none() && !listing.items.is_empty();
        whole.then(|| listing.items.iter().map(|task| (task.tgid, task.start_ns)).collect())
    }

    fn identity(file: &OpenFile) -> (u64, u64) {
        (u64::from(file.on_device.0) << 32 | u64::from(file.on_device.1), file.inode)
    }

    /// The ordinary file that this `struct file` is of, if it allows what is wanted.
    fn ordinary(&self, file: Gva, wanted: impl Fn(Access) -> bool) -> Option<(Inode, String)> {
        let opened = self.files.as_ref().ok()?.opened(&self.view.look(TASK_STEPS_MAX), 0, file).ok()?;
        let inode = Inode { at: opened.inode_at.0, file: Self::identity(&opened) };
        (opened.file_type == FileType::Regular && wanted(opened.access)).then_some((inode, opened.name))
    }

    /// The contents of an open file. A file of which no page is in memory is not found.
    fn of_file(&self, file: Gva) -> Option<Found> {
        let look = self.view.look(TASK_STEPS_MAX);
        let opened = self.files.as_ref().ok()?.opened(&look, 0, file).ok()?;
        if opened.file_type != FileType::Regular || !is_written(opened.access) || opened.size == 0 {
            return None;
        }
        let look = self.view.look(page_cache::STEPS_MAX);
        let cached = self.page_cache.as_ref().ok()?.read(&look, opened.inode_at, SAMPLE_BYTES_MAX).ok()?;
        Some(Found {
            file: Self::identity(&opened),
            path: opened.name,
            size: cached.size,
            absent: !cached.absent.is_empty(),
            bytes: cached.bytes,
        })
    }
}

fn is_written(access: Access) -> bool {
    matches!(access, Access::Write | Access::ReadWrite)
}

impl Facts for Walks {
    fn task(&self, task: u64) -> Option<Task> {
        self.tasks.as_ref().ok()?.task(&self.view.look(TASK_STEPS_MAX), Gva(task)).ok()
    }

    fn socket(&self, task: u64, fd: u32) -> Option<Socket> {
        self.sockets.as_ref().ok()?.of_descriptor(&self.view.look(TASK_STEPS_MAX), Gva(task), fd)
    }
}

impl Guest for Walks {
    fn parent(&self, task: u64) -> Option<u32> {
        let look = self.view.look(TASK_STEPS_MAX);
        self.tasks.as_ref().ok()?.task(&look, Gva(task)).ok().map(|task| task.ppid)
    }

    fn is_nested(&self, task: u64) -> bool {
        let look = self.view.look(TASK_STEPS_MAX);
        let level = self.tasks.as_ref().ok().and_then(|tasks| tasks.namespace_level(&look, Gva(task)));
        level.is_some_and(|level| level > 0)
    }

    fn newest_child(&self, pid: u32) -> Option<u32> {
        let tasks = self.tasks.as_ref().ok()?.list(&self.view.look(STEPS_MAX), Threads::First).items;
        let newest = tasks.iter().filter(|task| task.ppid == pid).max_by_key(|task| task.start_ns);
        newest.map(|task| task.tgid)
    }

    fn peer(&self, task: u64, fd: u64) -> Option<Peer> {
        let look = self.view.look(TASK_STEPS_MAX);
        let remote = self.sockets.as_ref().ok()?.remote(&look, Gva(task), u32::try_from(fd).ok()?)?;
        Some(Peer { address: remote.address.to_canonical(), port: remote.port })
    }

    fn arguments(&self, task: u64) -> Option<Vec<String>> {
        let look = self.view.look(TASK_STEPS_MAX);
        let task = self.tasks.as_ref().ok()?.task(&look, Gva(task)).ok()?;
        (!task.command_line.is_empty()).then_some(task.command_line)
    }

    fn folder(&self, task: u64) -> Option<String> {
        let look = self.view.look(TASK_STEPS_MAX);
        self.tasks.as_ref().ok()?.task(&look, Gva(task)).ok()?.cwd
    }

    fn program(&self, task: u64) -> Option<(Inode, String)> {
        let look = self.view.look(TASK_STEPS_MAX);
        self.ordinary(self.tasks.as_ref().ok()?.exe_file(&look, Gva(task))?, |_| true)
    }

    fn written(&self, file: u64) -> Option<Found> {
        self.of_file(Gva(file))
    }

    fn inode(&self, file: u64) -> Option<(Inode, String)> {
        // One that is only read is another's by now, who was given the same memory.
        self.ordinary(Gva(file), is_written)
    }

    fn contents(&self, inode: Inode) -> Option<Found> {
        let look = self.view.look(page_cache::STEPS_MAX);
        let number = self.files.as_ref().ok()?.inode_number(&look, Gva(inode.at)).ok()?;
        if number != inode.file.1 {
            return None;
        }
        let cached = self.page_cache.as_ref().ok()?.read(&look, Gva(inode.at), SAMPLE_BYTES_MAX).ok()?;
        Some(Found {
            path: String::new(),
            file: inode.file,
            size: cached.size,
            absent: !cached.absent.is_empty(),
            bytes: cached.bytes,
        })
    }

    fn all_written(&self, task: u64) -> Vec<Found> {
        let Ok(files) = &self.files else {
            return Vec::new();
        };
        let opened = files.list(&self.view.look(TASK_STEPS_MAX), Gva(task)).items.into_iter();
        let written = opened.filter(|file| file.file_type == FileType::Regular && is_written(file.access));
        written.take(WRITTEN_MAX).filter_map(|file| self.of_file(file.at)).collect()
    }
}
