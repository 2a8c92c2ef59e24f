//! What differs between two snapshots: processes, sockets and modules by introspection's walks over the two memories, files by fim's scans of the two
//! disks. Both are foreign: what cannot be read is said, and the rest is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use fim::{Baseline, Limits, Policy, Report};
use honeyvmm::disk::View as DiskView;
use honeyvmm::kernel_image::KernelImage;
use honeyvmm::memory::ReadOnlyRam;
use introspect::symbols::Symbols;
use introspect::view::View;
use introspect::walk::modules::{self, Modules};
use introspect::walk::sockets::{self, Socket, Sockets};
use introspect::walk::task::Task;
use introspect::walk::tasks::{self, Tasks, Threads};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Chain, SavedError};

/// Why nothing is compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A snapshot cannot be read.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// Its memory has no place.
    #[error("the memory of a snapshot cannot be put together")]
    Memory(#[source] std::io::Error),
}

/// Lines of one kind, before and after.
struct Lines {
    what: &'static str,
    added: Vec<String>,
    removed: Vec<String>,
}

/// What differs.
pub struct Difference {
    lines: Vec<Lines>,
    disks: Vec<(String, Report)>,
    notes: Vec<String>,
}

/// What a memory shows, a line each.
#[derive(Default)]
struct Seen {
    processes: BTreeSet<String>,
    sockets: BTreeSet<String>,
    modules: BTreeSet<String>,
}

/// A snapshot that is compared: all that is read of it, open, so that who looks at it needs no other file.
pub struct Side {
    id: String,
    domain: String,
    taken: Timestamp,
    memory: File,
    kernel: Result<File, String>,
    disks: Vec<(String, Result<DiskView, String>)>,
}

impl Side {
    /// Opens it; `spool` is a folder for a temporary file.
    ///
    /// # Errors
    /// Its files cannot be read.
    pub fn open(chain: &Chain, spool: &Path) -> Result<Side, CompareError> {
        let memory = tempfile::tempfile_in(spool).map_err(CompareError::Memory)?;
        chain.merge_ram(&memory)?;
        let leaf = chain.leaf();
        let manifest = &leaf.manifest;
        let kernel = manifest.domain.kernel.as_ref().ok_or_else(|| "it has no kernel".to_owned());
        let kernel = kernel.and_then(|kernel| {
            let path = manifest.folder.join(kernel);
            File::open(&path).map_err(|error| format!("{}: {error}", path.display()))
        });
        let disks = manifest.depth.keys().map(|vdev| (vdev.clone(), chain.disk(vdev))).collect();
        Ok(Side {
            id: leaf.folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            domain: manifest.domain.name.clone(),
            taken: manifest.taken,
            memory,
            kernel,
            disks,
        })
    }
}

/// Compares two snapshots. What the guest has bent is a note.
pub fn compare(before: Side, after: Side) -> Difference {
    let mut notes = Vec::new();
    let mut report_of = Vec::new();
    let (times, domain) = ((before.taken, after.taken), before.domain.clone());
    let (old, old_disks) = looked_at(before, &mut notes);
    let (new, new_disks) = looked_at(after, &mut notes);
    let lines = |what, old: &BTreeSet<String>, new: &BTreeSet<String>| Lines {
        what,
        added: new.difference(old).cloned().collect(),
        removed: old.difference(new).cloned().collect(),
    };
    let lines = vec![
        lines("processes", &old.processes, &new.processes),
        lines("sockets", &old.sockets, &new.sockets),
        lines("modules", &old.modules, &new.modules),
    ];
    let mut old_disks: BTreeMap<String, Result<DiskView, String>> = old_disks.into_iter().collect();
    for (vdev, disk) in new_disks {
        let before = old_disks.remove(&vdev).unwrap_or_else(|| Err("there was no such disk".to_owned()));
        match before.and_then(|before| files(&domain, times, before, disk?)) {
            Ok(report) => report_of.push((vdev, report)),
            Err(why) => notes.push(format!("files of {vdev} are not compared: {why}")),
        }
    }
    Difference { lines, disks: report_of, notes }
}

type Disks = Vec<(String, Result<DiskView, String>)>;

fn looked_at(side: Side, notes: &mut Vec<String>) -> (Seen, Disks) {
    let walked = side.kernel.and_then(|mut kernel| {
        let mut bytes = Vec::new();
        kernel.read_to_end(&mut bytes).map_err(|error| format!("its kernel: {error}"))?;
        let image = KernelImage::parse(&bytes).map_err(|error| events::sentence(&error))?;
        let symbols = Symbols::of_kernel(&image).map_err(|error| events::sentence(&error))?;
        walk(side.memory, &symbols)
    });
    let seen = walked.unwrap_or_else(|why| {
        notes.push(format!("the memory of {} is not looked at: {why}", side.id));
        Seen::default()
    });
    (seen, side.disks)
}

fn walk(memory: File, symbols: &Symbols) -> Result<Seen, String> {
    let ram = ReadOnlyRam::from_memfd(memory).map_err(|error| events::sentence(&error))?;
    let view = View::new(ram, symbols).map_err(|error| events::sentence(&error))?;
    let known = |error: introspect::view::layout::Unknown| events::sentence(&error);
    let tasks = Tasks::of(symbols).map_err(known)?.list(&view.look(tasks::STEPS_MAX), Threads::First).items;
    let sockets = Sockets::of(symbols).map_err(known)?.list(&view.look(sockets::STEPS_MAX), &tasks).items;
    let modules = Modules::of(symbols).map_err(known)?.list(&view.look(modules::STEPS_MAX)).items;
    Ok(Seen {
        // The kernel's own threads come and go with its work.
        processes: tasks.iter().filter(|task| !task.kernel_thread).map(process).collect(),
        sockets: sockets.iter().map(socket).collect(),
        modules: modules
            .into_iter()
            .map(|module| format!("{} at {:#x}", module.name, module.address))
            .collect(),
    })
}

fn process(task: &Task) -> String {
    let command = if task.command_line.is_empty() { task.comm.clone() } else { task.command_line.join(" ") };
    let tty = task.tty.as_deref().unwrap_or("-");
    format!("{} (of {}, uid {}, {tty}) {command}", task.tgid, task.ppid, task.rights.uid)
}

fn socket(socket: &Socket) -> String {
    let end = |end: Option<String>| end.unwrap_or_else(|| "-".to_owned());
    let ends = match &socket.path {
        Some(path) => path.clone(),
        None => format!(
            "{} {}",
            end(socket.local.as_ref().map(ToString::to_string)),
            end(socket.remote.as_ref().map(ToString::to_string))
        ),
    };
    format!("{} {ends} {} inode {}", socket.protocol, socket.state, socket.inode)
}

fn files(
    domain: &str,
    (before_at, after_at): (Timestamp, Timestamp),
    before: DiskView,
    after: DiskView,
) -> Result<Report, String> {
    let policy = Policy::debian();
    let scan = |view| {
        fim::scan(&policy, view, &Limits::default(), &mut |_| {}).map_err(|error| events::sentence(&error))
    };
    let baseline = Baseline {
        name: domain.to_owned(),
        created: before_at,
        policy: policy.digest().to_owned(),
        scan: scan(before)?,
    };
    Ok(fim::compare(&policy, &baseline, scan(after)?, after_at))
}

impl Difference {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        let mut all = json!({ "notes": self.notes });
        for lines in &self.lines {
            all[lines.what] = json!({ "added": lines.added, "removed": lines.removed });
        }
        let files: serde_json::Map<String, Value> =
            self.disks.iter().map(|(vdev, report)| (vdev.clone(), report.to_json())).collect();
        all["files"] = Value::Object(files);
        all
    }

    /// For people; what a guest named is escaped.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for lines in &self.lines {
            text.push_str(&format!(
                "{}: {} added, {} removed\n",
                lines.what,
                lines.added.len(),
                lines.removed.len()
            ));
            for (sign, lines) in [('+', &lines.added), ('-', &lines.removed)] {
                lines.iter().for_each(|line| text.push_str(&format!("  {sign} {}\n", line.escape_debug())));
            }
        }
        for (vdev, report) in &self.disks {
            text.push_str(&format!("files of {vdev}:\n{}", report.to_text()));
        }
        self.notes.iter().for_each(|note| text.push_str(&format!("note: {}\n", note.escape_debug())));
        text
    }
}
