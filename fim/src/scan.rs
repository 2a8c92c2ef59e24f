//! The walk over a filesystem: one entry for each path that the policy watches.
//!
//! Foreign bytes all the way: a directory named twice is entered once, depth, number and bytes have limits, and what
//! cannot be read is written down instead of ending the scan.

use std::collections::HashSet;
use std::io::{Read, Seek};

use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;
use crate::entry::{Entry, escape};
use crate::ext4::{self, FileKind, Filesystem, Inode, ROOT_INODE};
use crate::policy::Policy;
use crate::volume;

/// How much a scan reads before it stops caring.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Files of a disk.
    pub files_max: usize,
    /// Directories inside each other.
    pub depth_max: usize,
    /// Bytes of one file that are hashed; a longer one is reported as too long.
    pub file_bytes_max: u64,
    /// Bytes of all files that are hashed: sparse files cost no disk but time.
    pub total_bytes_max: u64,
    /// Problems that are written down.
    pub problems_max: usize,
    /// Bytes of a text that is kept for showing changes.
    pub text_bytes_max: u64,
    /// Bytes of all kept texts.
    pub total_text_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            files_max: 2_000_000,
            depth_max: 128,
            file_bytes_max: 8 << 30,
            total_bytes_max: 64 << 30,
            problems_max: 1000,
            text_bytes_max: 16 << 10,
            total_text_bytes_max: 64 << 20,
        }
    }
}

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// Path, escaped.
    pub path: String,
    /// What was wrong.
    pub reason: String,
}

/// How far a scan is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files seen.
    pub files: u64,
    /// Bytes hashed.
    pub bytes: u64,
}

/// Why a disk cannot be scanned at all.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The disk cannot be read.
    #[error("cannot read the disk")]
    Disk(#[source] std::io::Error),
    /// No filesystem that we know.
    #[error("no ext2, ext3 or ext4 filesystem on the disk or in its partitions")]
    NoFilesystem,
    /// A filesystem whose superblock, journal or root directory cannot be used.
    #[error("cannot open the filesystem at byte {start} of the disk")]
    Filesystem {
        /// Where it begins.
        start: u64,
        /// What is wrong with it.
        source: ext4::Error,
    },
}

/// What a scan saw, in the order of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// The filesystem's UUID, hexadecimal.
    pub uuid: String,
    /// The watched files, sorted by path.
    pub entries: Vec<Entry>,
    /// What could not be read, sorted.
    pub problems: Vec<Problem>,
}

/// Scans a disk: whole or with partitions. It must not change meanwhile: pause the domain, or read a frozen layer.
pub fn scan<R: Read + Seek>(
    policy: &Policy,
    mut disk: R,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Scan, ScanError> {
    let start = volume::find(&mut disk).map_err(ScanError::Disk)?.ok_or(ScanError::NoFilesystem)?;
    let wrong = |source| ScanError::Filesystem { start, source };
    let mut filesystem = Filesystem::open(disk, start).map_err(wrong)?;
    let root = filesystem.inode(ROOT_INODE).map_err(wrong)?;
    filesystem.read_dir(&root).map_err(wrong)?;
    let uuid = filesystem.uuid().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut walk = Walk {
        policy,
        filesystem,
        limits,
        progress,
        done: Progress::default(),
        text_bytes: 0,
        directories: HashSet::new(),
        out: Scan { uuid, ..Scan::default() },
    };
    walk.run(root);
    let mut out = walk.out;
    out.entries.sort_by(|a, b| a.path.cmp(&b.path));
    drop_second_names(&mut out);
    out.problems.sort();
    Ok(out)
}

/// A directory still to be read.
struct Pending {
    inode: Inode,
    path: String,
    depth: usize,
}

struct Walk<'a, R> {
    policy: &'a Policy,
    filesystem: Filesystem<R>,
    limits: &'a Limits,
    progress: &'a mut dyn FnMut(Progress),
    done: Progress,
    text_bytes: u64,
    directories: HashSet<u32>,
    out: Scan,
}

impl<R: Read + Seek> Walk<'_, R> {
    fn run(&mut self, root: Inode) {
        self.take("/".to_owned(), &root);
        self.directories.insert(root.number);
        let mut pending = vec![Pending { inode: root, path: String::new(), depth: 0 }];
        while let Some(directory) = pending.pop() {
            let names = match self.filesystem.read_dir(&directory.inode) {
                Ok(names) => names,
                Err(error) => {
                    self.problem(&directory.path, &error);
                    continue;
                }
            };
            for name in names {
                if self.done.files >= self.limits.files_max as u64 {
                    self.note(
                        &directory.path,
                        format!("number of files is over the limit of {}", self.limits.files_max),
                    );
                    return;
                }
                let path = format!("{}/{}", directory.path, escape(&name.name));
                match self.filesystem.inode(name.inode) {
                    Ok(inode) => pending.extend(self.visit(path, inode, directory.depth + 1)),
                    Err(error) => self.problem(&path, &error),
                }
            }
        }
    }

    /// Takes the entry; gives the directory to go on with if it is one.
    fn visit(&mut self, path: String, inode: Inode, depth: usize) -> Option<Pending> {
        self.take(path.clone(), &inode);
        if inode.kind != FileKind::Directory {
            return None;
        }
        if depth > self.limits.depth_max {
            self.note(&path, format!("depth of directories is over the limit of {}", self.limits.depth_max));
            return None;
        }
        if !self.directories.insert(inode.number) {
            self.note(&path, format!("directory inode {} has a second name", inode.number));
            return None;
        }
        Some(Pending { inode, path, depth })
    }

    fn take(&mut self, path: String, inode: &Inode) {
        self.done.files += 1;
        (self.progress)(self.done);
        let Some(attributes) = self.policy.attributes(&path) else { return };
        let mut entry = Entry::new(path, inode);
        if let Err(reason) = self.complete(&mut entry, inode, attributes) {
            entry.unreadable = Some(reason);
        }
        self.out.entries.push(entry);
    }

    /// Reads what is not in the inode: link target, attributes, content.
    fn complete(&mut self, entry: &mut Entry, inode: &Inode, attributes: Attributes) -> Result<(), String> {
        if inode.kind == FileKind::Symlink {
            let target = self.filesystem.read_link(inode).map_err(|error| error_chain(&error))?;
            entry.target = Some(escape(&target));
        }
        let xattrs = self.filesystem.xattrs(inode).map_err(|error| error_chain(&error))?;
        entry.xattrs = xattrs.into_iter().map(|(name, value)| (name, escape(&value))).collect();
        if inode.kind == FileKind::Regular && attributes.contains(Attributes::CONTENT) {
            let keep = attributes.contains(Attributes::DIFF) && inode.size <= self.limits.text_bytes_max;
            let (hash, text) = self.hash(inode, keep)?;
            entry.b3 = Some(hash);
            entry.text = text;
        }
        Ok(())
    }

    fn hash(&mut self, inode: &Inode, keep: bool) -> Result<(String, Option<String>), String> {
        if inode.size > self.limits.file_bytes_max {
            return Err(format!("{} bytes are over the limit of {}", inode.size, self.limits.file_bytes_max));
        }
        if inode.size > self.limits.total_bytes_max.saturating_sub(self.done.bytes) {
            return Err(format!("all files are over the limit of {} bytes", self.limits.total_bytes_max));
        }
        let mut content = self.filesystem.content(inode).map_err(|error| error_chain(&error))?;
        let mut hasher = blake3::Hasher::new();
        let mut kept = Vec::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let length =
                content.read(&mut self.filesystem, &mut buffer).map_err(|error| error_chain(&error))?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
            if keep {
                kept.extend_from_slice(&buffer[..length]);
            }
            self.done.bytes += length as u64;
            (self.progress)(self.done);
        }
        Ok((hasher.finalize().to_string(), if keep { self.keep_text(kept) } else { None }))
    }

    /// Content worth keeping: UTF-8 without NUL, while there is room.
    fn keep_text(&mut self, content: Vec<u8>) -> Option<String> {
        let room = self.limits.total_text_bytes_max.saturating_sub(self.text_bytes);
        let text = String::from_utf8(content).ok()?;
        if text.len() as u64 > room || text.contains('\0') {
            return None;
        }
        self.text_bytes += text.len() as u64;
        Some(text)
    }

    fn problem(&mut self, path: &str, error: &ext4::Error) {
        self.note(path, error_chain(error));
    }

    fn note(&mut self, path: &str, reason: String) {
        if self.out.problems.len() < self.limits.problems_max {
            let path = if path.is_empty() { "/" } else { path };
            self.out.problems.push(Problem { path: path.to_owned(), reason });
        }
    }
}

/// A directory can list the same name twice only by corruption; the first counts, as for the kernel.
fn drop_second_names(scan: &mut Scan) {
    let mut doubled = Vec::new();
    scan.entries.dedup_by(|later, first| {
        let same = later.path == first.path;
        if same {
            doubled.push(Problem {
                path: first.path.clone(),
                reason: "name stands twice in its directory".to_owned(),
            });
        }
        same
    });
    scan.problems.extend(doubled);
}

/// An error with its causes on one line.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
