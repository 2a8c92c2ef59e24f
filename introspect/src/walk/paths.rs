//! Names of open files: what `/proc/PID/fd` shows (`d_path` of `fs/d_path.c`), seen from the root of all mounts, so that a chroot hides nothing.

use honeyvmm::memory::Gva;

use super::WalkError;
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Unknown, layout};

/// Directories between a file and the root. `PATH_MAX` of 4096 bytes allows 2048.
const COMPONENTS_MAX: usize = 2048;
/// `NAME_MAX` is 255; names of anonymous inodes are longer at most by a few.
const NAME_BYTES_MAX: u64 = 512;
/// The longest path that is put together.
const PATH_BYTES_MAX: usize = 4096;

layout! {
    PathLayout = "path" {
        mnt: "mnt",
        dentry: "dentry",
    }
}

layout! {
    /// In the private `struct mount` around the `vfsmount` that others point to.
    MountLayout = "mount" {
        mnt: "mnt",
        parent: "mnt_parent",
        mountpoint: "mnt_mountpoint",
        root: "mnt.mnt_root",
    }
}

layout! {
    DentryLayout = "dentry" {
        parent: "d_parent",
        hash_pprev: "d_hash.pprev",
        name: "d_name.name",
        name_bytes: "d_name.len",
        inode: "d_inode",
        operations: "d_op",
        fsdata: "d_fsdata",
    }
}

layout! {
    OperationsLayout = "dentry_operations" {
        name: "d_dname",
    }
}

layout! {
    InodeLayout = "inode" {
        number: "i_ino",
    }
}

layout! {
    NamespaceLayout = "proc_ns_operations" {
        name: "name",
    }
}

/// Files that have no place in a directory, known by the kernel's function that names them.
#[derive(Debug, Clone)]
struct Namers {
    pipe: Option<Gva>,
    socket: Option<Gva>,
    anonymous: Option<Gva>,
    namespace: Option<Gva>,
    /// Files in a tmpfs that nobody mounted: memfds, System V's shared memory.
    simple: Option<Gva>,
}

/// Where the parts of a path are.
#[derive(Debug, Clone)]
pub struct Paths {
    path: PathLayout,
    mount: MountLayout,
    dentry: DentryLayout,
    operations: OperationsLayout,
    inode: InodeLayout,
    namespace: NamespaceLayout,
    namers: Namers,
}

impl Paths {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        let namers = Namers {
            pipe: symbols.address("pipefs_dname"),
            socket: symbols.address("sockfs_dname"),
            anonymous: symbols.address("anon_inodefs_dname"),
            namespace: symbols.address("ns_dname"),
            simple: symbols.address("simple_dname"),
        };
        Ok(Self {
            path: PathLayout::of(symbols)?,
            mount: MountLayout::of(symbols)?,
            dentry: DentryLayout::of(symbols)?,
            operations: OperationsLayout::of(symbols)?,
            inode: InodeLayout::of(symbols)?,
            namespace: NamespaceLayout::of(symbols)?,
            namers,
        })
    }

    /// The name of the `struct path` at this address; `None` for one that is not set, such as the binary of a kernel thread.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn name(&self, look: &Look<'_>, path: Gva) -> Result<Option<String>, WalkError> {
        let path = self.path.read(look, path)?;
        let (Some(mount), Some(dentry)) = (path.target(self.path.mnt), path.target(self.path.dentry)) else {
            return Ok(None);
        };
        if let Some(name) = self.name_without_place(look, dentry)? {
            return Ok(Some(name));
        }
        self.name_in_tree(look, mount, dentry).map(Some)
    }

    /// `socket:[123]` and its like.
    fn name_without_place(&self, look: &Look<'_>, at: Gva) -> Result<Option<String>, WalkError> {
        let dentry = self.dentry.read(look, at)?;
        let Some(operations) = dentry.target(self.dentry.operations) else { return Ok(None) };
        let namer = self.operations.read(look, operations)?.target(self.operations.name);
        if namer.is_none() {
            return Ok(None);
        }
        let own_name = |look| self.own_name(look, &dentry);
        let number = |look| {
            let inode = self.inode.read(look, dentry.pointer(self.dentry.inode))?;
            Ok::<_, WalkError>(inode.u64(self.inode.number))
        };
        let name = if namer == self.namers.pipe {
            format!("pipe:[{}]", number(look)?)
        } else if namer == self.namers.socket {
            format!("socket:[{}]", number(look)?)
        } else if namer == self.namers.anonymous {
            format!("anon_inode:{}", own_name(look)?)
        } else if namer == self.namers.namespace {
            let kind = self.namespace_kind(look, dentry.pointer(self.dentry.fsdata));
            format!("{}:[{}]", kind.as_deref().unwrap_or("ns"), number(look)?)
        } else if namer == self.namers.simple {
            format!("/{} (deleted)", own_name(look)?)
        } else {
            // A driver's own, such as a DMA buffer's: its name in the file system it hides in will do.
            own_name(look)?
        };
        Ok(Some(name))
    }

    /// `mnt`, `net`: before 6.11 the dentry points to its operations; where it does not, the kind stays unknown.
    fn namespace_kind(&self, look: &Look<'_>, operations: Gva) -> Option<String> {
        const KIND_BYTES_MAX: usize = 32;
        let name = self.namespace.read(look, operations).ok()?.target(self.namespace.name)?;
        let name = look.text(name, KIND_BYTES_MAX).ok()?;
        name.iter().all(u8::is_ascii_graphic).then(|| String::from_utf8_lossy(&name).into_owned())
    }

    fn name_in_tree(&self, look: &Look<'_>, mount: Gva, dentry: Gva) -> Result<String, WalkError> {
        let (mut vfsmount, mut at) = (mount, dentry);
        let mut names: Vec<String> = Vec::new();
        let mut bytes = 0;
        let mut deleted = false;
        let mut mount = self.mount.read(look, self.mount.mnt.container(vfsmount))?;
        for _ in 0..COMPONENTS_MAX {
            if at == mount.pointer(self.mount.root) {
                let parent = mount.pointer(self.mount.parent);
                if parent == mount.at {
                    return Ok(joined(names, deleted));
                }
                at = mount.pointer(self.mount.mountpoint);
                vfsmount = self.mount.mnt.of(parent);
                mount = self.mount.read(look, self.mount.mnt.container(vfsmount))?;
                continue;
            }
            let dentry = self.dentry.read(look, at)?;
            let parent = dentry.pointer(self.dentry.parent);
            if parent == at {
                // The root of a file system that is mounted nowhere any more.
                return Ok(joined(names, deleted));
            }
            // Only what was opened itself is called deleted, as in Linux.
            deleted |= names.is_empty() && dentry.target(self.dentry.hash_pprev).is_none();
            let name = self.own_name(look, &dentry)?;
            bytes += name.len() + 1;
            if bytes > PATH_BYTES_MAX {
                return Err(WalkError::TooMany { what: "bytes of a path", max: PATH_BYTES_MAX });
            }
            names.push(name);
            at = parent;
        }
        Err(WalkError::TooMany { what: "directories above a file", max: COMPONENTS_MAX })
    }

    fn own_name(&self, look: &Look<'_>, dentry: &crate::view::layout::Snapshot) -> Result<String, WalkError> {
        let bytes = dentry.u64(self.dentry.name_bytes);
        if bytes > NAME_BYTES_MAX {
            return Err(WalkError::TooMany { what: "bytes of a name", max: NAME_BYTES_MAX as usize });
        }
        let name = look.bytes(dentry.pointer(self.dentry.name), bytes)?;
        Ok(String::from_utf8_lossy(&name).into_owned())
    }
}

fn joined(names: Vec<String>, deleted: bool) -> String {
    let mut path = String::new();
    for name in names.iter().rev() {
        path.push('/');
        path.push_str(name);
    }
    if names.is_empty() {
        path.push('/');
    }
    if deleted {
        path.push_str(" (deleted)");
    }
    path
}
