//! Open files of a task: `lsof`, without the file system's help.

use honeyvmm::memory::Gva;
use serde::Serialize;

use super::Listing;
use super::WalkError;
pub use super::file_type::FileType;
use super::paths::Paths;
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Snapshot, Unknown, layout};

/// Slots for descriptors that are read: as many as Linux gives by default at most (`fs.nr_open`).
const FDS_MAX: u64 = 1 << 20;
/// Slots that are read at once.
const FDS_AT_ONCE: u64 = 512;

/// `FMODE_READ` and `FMODE_WRITE` of `include/linux/fs.h`.
const MODE_READ: u64 = 1;
const MODE_WRITE: u64 = 2;

layout! {
    FilesLayout = "files_struct" {
        table: "fdt",
    }
}

layout! {
    TableLayout = "fdtable" {
        slots: "max_fds",
        files: "fd",
    }
}

layout! {
    FileLayout = "file" {
        path: "f_path",
        inode: "f_inode",
        flags: "f_flags",
        mode: "f_mode",
        position: "f_pos",
        private: "private_data",
    }
}

layout! {
    InodeLayout = "inode" {
        mode: "i_mode",
        superblock: "i_sb",
        number: "i_ino",
        device: "i_rdev",
        size: "i_size",
    }
}

/// What a descriptor allows; `lsof`'s letter behind the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Access {
    /// Only reading.
    #[serde(rename = "r")]
    Read,
    /// Only writing.
    #[serde(rename = "w")]
    Write,
    /// Both.
    #[serde(rename = "u")]
    ReadWrite,
    /// Neither: opened as a path.
    #[serde(rename = "")]
    Neither,
}

/// An open file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenFile {
    /// Its `struct file`.
    #[serde(skip)]
    pub at: Gva,
    /// Its `struct inode`.
    #[serde(skip)]
    pub inode_at: Gva,
    /// Descriptor.
    pub fd: u32,
    /// Kind.
    pub file_type: FileType,
    /// What it allows.
    pub access: Access,
    /// `O_` flags, as `/proc/PID/fdinfo` shows them.
    pub flags: u32,
    /// Where the next byte is read or written.
    pub position: u64,
    /// Length in bytes.
    pub size: u64,
    /// Inode's number.
    pub inode: u64,
    /// Device that the file lies on, major and minor.
    pub on_device: (u32, u32),
    /// Device that the file is.
    pub device: Option<(u32, u32)>,
    /// As `/proc/PID/fd` shows it.
    pub name: String,
}

/// Where the parts of open files are.
#[derive(Debug, Clone)]
pub struct Files {
    task_files: Field,
    files: FilesLayout,
    table: TableLayout,
    file: FileLayout,
    inode: InodeLayout,
    superblock_device: Field,
    paths: Paths,
}

/// An open file of which only kind and private data are looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) fd: u32,
    pub(super) file_type: FileType,
    /// For a socket, its `struct socket`.
    pub(super) private: Gva,
}

impl Files {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            task_files: Field::find(symbols, "task_struct", "files", "task_struct.files")?,
            files: FilesLayout::of(symbols)?,
            table: TableLayout::of(symbols)?,
            file: FileLayout::of(symbols)?,
            inode: InodeLayout::of(symbols)?,
            superblock_device: Field::find(symbols, "super_block", "s_dev", "super_block.s_dev")?,
            paths: Paths::of(symbols)?,
        })
    }

    /// The open files of the task with this `task_struct`; none for a kernel thread or a zombie.
    #[must_use]
    pub fn list(&self, look: &Look<'_>, task: Gva) -> Listing<OpenFile> {
        self.each(look, task, |fd, file| self.open_file(look, fd, file))
    }

    /// An open file by its `struct file`; `fd` is the descriptor that it is looked at for.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn opened(&self, look: &Look<'_>, fd: u32, file: Gva) -> Result<OpenFile, WalkError> {
        self.open_file(look, fd, file)
    }

    /// The number of the file with this `struct inode`.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn inode_number(&self, look: &Look<'_>, inode: Gva) -> Result<u64, WalkError> {
        let inode = self.inode.read(look, inode)?;
        Ok(inode.u64(self.inode.number))
    }

    /// One descriptor of the task with this `task_struct`.
    pub(super) fn descriptor(
        &self,
        look: &Look<'_>,
        task: Gva,
        fd: u32,
    ) -> Result<Option<Descriptor>, WalkError> {
        let table = self.table_of(look, task)?;
        let Some(table) = table.filter(|table| u64::from(fd) < table.u64(self.table.slots)) else {
            return Ok(None);
        };
        let slot = Gva(table.u64(self.table.files).wrapping_add(8 * u64::from(fd)));
        match look.pointer(slot)? {
            Gva(0) => Ok(None),
            at => self.describe(look, fd, at).map(Some),
        }
    }

    pub(super) fn descriptors(&self, look: &Look<'_>, task: Gva) -> Listing<Descriptor> {
        self.each(look, task, |fd, at| self.describe(look, fd, at))
    }

    fn describe(&self, look: &Look<'_>, fd: u32, at: Gva) -> Result<Descriptor, WalkError> {
        let file = self.file.read(look, at)?;
        let mode = look.u16(self.inode.mode.of(file.pointer(self.file.inode)))?;
        let file_type = FileType::of_mode(mode.into());
        Ok(Descriptor { fd, file_type, private: file.pointer(self.file.private) })
    }

    /// What `describe` makes of each descriptor and its `struct file`. One that cannot be described is left out: it is being closed,
    /// or the guest has bent it, and then the listing says that it is not complete.
    fn each<T>(
        &self,
        look: &Look<'_>,
        task: Gva,
        describe: impl Fn(u32, Gva) -> Result<T, WalkError>,
    ) -> Listing<T> {
        let mut listing = Listing::new();
        let table = match self.table_of(look, task) {
            Ok(Some(table)) => table,
            Ok(None) => return listing,
            Err(error) => return Listing::failed(error),
        };
        let slots = table.u64(self.table.slots);
        if slots > FDS_MAX {
            listing.note(WalkError::TooMany { what: "slots for descriptors", max: FDS_MAX as usize });
        }
        let slots = slots.min(FDS_MAX);
        for first in (0..slots).step_by(FDS_AT_ONCE as usize) {
            let at = Gva(table.u64(self.table.files).wrapping_add(8 * first));
            let words = match look.bytes(at, 8 * FDS_AT_ONCE.min(slots - first)) {
                Ok(words) => words,
                Err(error) => {
                    listing.note(error);
                    return listing;
                }
            };
            for (index, word) in words.chunks_exact(8).enumerate() {
                let file = Gva(u64::from_le_bytes(std::array::from_fn(|byte| word[byte])));
                if file.0 == 0 {
                    continue;
                }
                let fd = first as u32 + index as u32;
                match describe(fd, file) {
                    Ok(described) => listing.items.push(described),
                    // Closed since.
                    Err(_) if look.pointer(Gva(at.0.wrapping_add(8 * index as u64))) != Ok(file) => {}
                    Err(error) => listing.note(error),
                }
            }
        }
        listing
    }

    fn table_of(&self, look: &Look<'_>, task: Gva) -> Result<Option<Snapshot>, WalkError> {
        let files = look.pointer(self.task_files.of(task))?;
        if files.0 == 0 {
            return Ok(None);
        }
        let table = self.files.read(look, files)?.pointer(self.files.table);
        Ok(Some(self.table.read(look, table)?))
    }

    fn open_file(&self, look: &Look<'_>, fd: u32, at: Gva) -> Result<OpenFile, WalkError> {
        let file = self.file.read(look, at)?;
        let inode = self.inode.read(look, file.pointer(self.file.inode))?;
        let mode = inode.u32(self.inode.mode);
        let file_type = FileType::of_mode(mode);
        let on_device = look.u32(self.superblock_device.of(inode.pointer(self.inode.superblock)))?;
        let is_device = matches!(file_type, FileType::Character | FileType::Block);
        Ok(OpenFile {
            at,
            inode_at: inode.at,
            fd,
            file_type,
            access: access(file.u64(self.file.mode)),
            flags: file.u32(self.file.flags),
            position: file.u64(self.file.position),
            size: inode.u64(self.inode.size),
            inode: inode.u64(self.inode.number),
            on_device: device(on_device),
            device: is_device.then(|| device(inode.u32(self.inode.device))),
            name: self.paths.name(look, self.file.path.of(at))?.unwrap_or_default(),
        })
    }
}

fn access(mode: u64) -> Access {
    match (mode & MODE_READ != 0, mode & MODE_WRITE != 0) {
        (true, true) => Access::ReadWrite,
        (true, false) => Access::Read,
        (false, true) => Access::Write,
        (false, false) => Access::Neither,
    }
}

/// Major and minor as the kernel keeps them inside: 12 and 20 bits (`include/linux/kdev_t.h`).
fn device(number: u32) -> (u32, u32) {
    (number >> 20, number & 0xf_ffff)
}
