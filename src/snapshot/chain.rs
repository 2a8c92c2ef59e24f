//! A snapshot and all that it lies over, down to a full one, open and held.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fixedbitset::FixedBitSet;
use forensics::VcpuRegs;
use honeyvmm::dirty::runs;
use honeyvmm::disk::{Below, View};
use honeyvmm::page_map;
use rustix::fs::FlockOperation;

use super::manifest::{Kind, MANIFEST, Manifest, RAM, RAM_MAP, REGISTERS, SHIM, layer_name};
use super::{SavedError, sums::PAGE_BYTES};

/// Snapshots of a chain; as many layers can lie over a disk (`honeyvmm::disk::Below`).
pub const CHAIN_MAX: usize = 16;
/// Pages that are copied at once.
const RUN_PAGES: usize = 256;

/// One snapshot of a chain.
pub struct Member {
    /// Where it is.
    pub folder: PathBuf,
    /// What it is.
    pub manifest: Manifest,
    // Locked, so that nobody removes or compacts it.
    _held: File,
}

/// A snapshot that can be used.
pub struct Chain {
    // The full one first.
    members: Vec<Member>,
}

impl Member {
    fn open(folder: &Path) -> Result<Member, SavedError> {
        let path = folder.join(MANIFEST);
        let held = File::open(&path).map_err(SavedError::file(&path, "read"))?;
        if rustix::fs::flock(&held, FlockOperation::NonBlockingLockShared).is_err() {
            return Err(SavedError::InUse(folder.display().to_string()));
        }
        let manifest = Manifest::read(folder)?;
        manifest.check_files(folder)?;
        Ok(Member { folder: folder.to_owned(), manifest, _held: held })
    }

    /// Opens one of its files.
    pub fn file(&self, name: &str) -> Result<File, SavedError> {
        let path = self.folder.join(name);
        File::open(&path).map_err(SavedError::file(&path, "read"))
    }

    /// Which pages of RAM a diff holds.
    pub fn held_pages(&self) -> Result<FixedBitSet, SavedError> {
        let path = self.folder.join(RAM_MAP);
        let bytes = std::fs::read(&path).map_err(SavedError::file(&path, "read"))?;
        let held =
            page_map::decode(&bytes).map_err(|source| SavedError::Map { path: path.clone(), source })?;
        let pages = (self.manifest.domain.memory_mib << 20) / PAGE_BYTES as u64;
        if held.len() as u64 != pages {
            let what = format!("it is of {} pages, the domain has {pages}", held.len());
            return Err(SavedError::Damaged { path, what });
        }
        Ok(held)
    }

    fn parent(&self) -> Option<PathBuf> {
        // One that is kept elsewhere has an absolute path, which replaces the folder.
        self.manifest.parent.as_ref().map(|parent| self.folder.join(&parent.folder))
    }
}

impl Chain {
    /// Opens a snapshot and what it lies over; small files are compared with their manifests, large ones by [`Chain::check`].
    ///
    /// # Errors
    /// One of them is damaged, missing or in the way of being changed; it is named.
    pub fn open(folder: &Path) -> Result<Chain, SavedError> {
        let mut members = vec![Member::open(folder)?];
        // What runs in ring 0, or is trusted by what does.
        members[0].manifest.check_sums(folder, SHIM)?;
        while let Some(parent) = members.last().and_then(Member::parent) {
            if members.len() == CHAIN_MAX {
                return Err(SavedError::TooDeep(folder.to_owned()));
            }
            let wrong = |source| SavedError::Parent {
                folder: folder.to_owned(),
                parent: parent.clone(),
                source: Box::new(source),
            };
            let member = Member::open(&parent).map_err(wrong)?;
            let below = members.last().map(|member| &member.manifest);
            let wanted = below.and_then(|below| below.parent.as_ref()).map(|parent| &parent.uuid);
            let same_ram =
                below.is_some_and(|below| below.domain.memory_mib == member.manifest.domain.memory_mib);
            if wanted != Some(&member.manifest.uuid) || !same_ram {
                return Err(wrong(SavedError::OtherParent(parent.clone())));
            }
            members.push(member);
        }
        members.reverse();
        // A full one has no parent and a diff has one, or somebody wrote a manifest by hand.
        if members[0].manifest.kind == Kind::Diff {
            return Err(SavedError::OtherParent(members[0].folder.clone()));
        }
        Ok(Chain { members })
    }

    /// The snapshot itself.
    pub fn leaf(&self) -> &Member {
        // There is one, or it was not opened.
        &self.members[self.members.len() - 1]
    }

    /// How many lie over each other.
    pub fn depth(&self) -> usize {
        self.members.len()
    }

    /// What RAM held, but for what the diffs hold.
    pub fn ram(&self) -> Result<File, SavedError> {
        self.members[0].file(RAM)
    }

    /// Pages of the diffs and the maps of these, the oldest first.
    pub fn ram_diffs(&self) -> Result<Vec<(File, File)>, SavedError> {
        self.members[1..].iter().map(|member| Ok((member.file(RAM)?, member.file(RAM_MAP)?))).collect()
    }

    /// The layers of a disk, the lowest first.
    pub fn layers(&self, vdev: &str) -> Vec<PathBuf> {
        let of = |member: &Member| {
            let count = member.manifest.depth.get(vdev).copied().unwrap_or(0);
            let folder = member.folder.clone();
            (0..count).map(move |depth| folder.join(layer_name(vdev, depth)))
        };
        self.members.iter().flat_map(of).collect()
    }

    /// A disk as it was.
    ///
    /// # Errors
    /// A sentence: there is no such disk, or its files cannot be read.
    pub fn disk(&self, vdev: &str) -> Result<View, String> {
        let manifest = &self.leaf().manifest;
        let spec = manifest.domain.disks.iter().find(|spec| spec.vdev == vdev);
        let target = manifest.folder.join(&spec.ok_or("there is no such disk")?.target);
        let opened = || -> io::Result<View> {
            let layers = self.layers(vdev).iter().map(File::open).collect::<io::Result<_>>()?;
            let below = Below::new(File::open(target)?, layers).map_err(io::Error::other)?;
            View::new(below, None).map_err(io::Error::other)
        };
        opened().map_err(|error| events::sentence(&error))
    }

    /// The vcpus' registers, for dumps.
    pub fn registers(&self) -> Result<Vec<VcpuRegs>, SavedError> {
        let (leaf, path) = (self.leaf(), self.leaf().folder.join(REGISTERS));
        let file = io::BufReader::new(leaf.file(REGISTERS)?);
        serde_json::from_reader(file).map_err(|error| SavedError::file(&path, "read")(error.into()))
    }

    /// Compares RAM and layers of all with their sums.
    ///
    /// # Errors
    /// The first page that has changed.
    pub fn check(&self) -> Result<(), SavedError> {
        self.members.iter().try_for_each(|member| {
            let layers = member.manifest.layers();
            [RAM.to_owned()]
                .into_iter()
                .chain(layers)
                .try_for_each(|name| member.manifest.check_sums(&member.folder, &name))
        })
    }

    /// Writes all of RAM to a file that is empty.
    pub fn merge_ram(&self, to: &File) -> Result<(), SavedError> {
        let root = &self.members[0];
        let path = root.folder.join(RAM);
        crate::sparse::copy(&root.file(RAM)?, to).map_err(SavedError::file(&path, "copied"))?;
        for member in &self.members[1..] {
            let (data, path) = (member.file(RAM)?, member.folder.join(RAM));
            let mut pages = vec![0; RUN_PAGES * PAGE_BYTES];
            for run in runs(&member.held_pages()?, RUN_PAGES) {
                let (at, part) = ((run.start * PAGE_BYTES) as u64, &mut pages[..run.len() * PAGE_BYTES]);
                let copied = data.read_exact_at(part, at).and_then(|()| to.write_all_at(part, at));
                copied.map_err(SavedError::file(&path, "copied"))?;
            }
        }
        Ok(())
    }

    /// Calls with each page of this set: its number, and what RAM held there.
    pub fn each_page(
        &self,
        wanted: &FixedBitSet,
        mut each: impl FnMut(usize, &[u8]) -> Result<(), SavedError>,
    ) -> Result<(), SavedError> {
        let mut sources = vec![(self.ram()?, None)];
        for member in &self.members[1..] {
            sources.push((member.file(RAM)?, Some(member.held_pages()?)));
        }
        let mut bytes = [0; PAGE_BYTES];
        for page in wanted.ones() {
            let holds = |held: &Option<FixedBitSet>| held.as_ref().is_none_or(|held| held.contains(page));
            if let Some((file, _)) = sources.iter().rev().find(|(_, held)| holds(held)) {
                let read = file.read_exact_at(&mut bytes, (page * PAGE_BYTES) as u64);
                read.map_err(SavedError::file(&self.leaf().folder.join(RAM), "read"))?;
                each(page, &bytes)?;
            }
        }
        Ok(())
    }
}
