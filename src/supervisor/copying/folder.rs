//! A copy that becomes a snapshot's folder.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fixedbitset::FixedBitSet;
use honeyvmm::disk::{CLUSTER_BYTES, Layer, LayerReader};
use honeyvmm::page_map;
use rustix::fs::FallocateFlags;

use super::super::domain::Domain;
use super::super::resources::Disk;
use super::{Rest, Target};
use crate::snapshot::{
    Chain, Kind, Manifest, RAM, RAM_MAP, REGISTERS, SHIM, STATE, SavedError, layer_name, put, seal,
};
use crate::sparse;

const PAGE_BYTES: usize = 4096;

/// A snapshot in the making. Dropped before it is finished, it leaves nothing.
pub struct Folder {
    path: PathBuf,
    kind: Kind,
    ram: File,
    /// Pages that have come, and those of them that are not zero.
    come: FixedBitSet,
    stored: FixedBitSet,
    layers: Vec<Copied>,
    finished: bool,
}

/// A disk's own layer.
struct Copied {
    vdev: String,
    depth: usize,
    layer: Layer,
}

impl Folder {
    /// Begins one; frozen layers, which nobody writes, are copied at once if it is to be full.
    ///
    /// # Errors
    /// A disk without a layer that the guest may write; the host's.
    pub fn begin(path: &Path, domain: &Domain, kind: Kind) -> Result<Folder, SavedError> {
        // What an earlier attempt left is nobody's.
        if path.exists() {
            std::fs::remove_dir_all(path).map_err(SavedError::file(path, "removed"))?;
        }
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(SavedError::file(path, "made"))?;
        let ram_path = path.join(RAM);
        let bytes = domain.file.memory_mib << 20;
        let ram = create(&ram_path).and_then(|ram| ram.set_len(bytes).map(|()| ram));
        let ram = ram.map_err(SavedError::file(&ram_path, "written"))?;
        let pages = FixedBitSet::with_capacity(bytes as usize / PAGE_BYTES);
        let (come, stored) = (pages.clone(), pages);
        let (path, layers) = (path.to_owned(), Vec::new());
        let mut folder = Folder { path, kind, ram, come, stored, layers, finished: false };
        for disk in domain.disks().iter().filter(|disk| !disk.spec.read_only) {
            let copied = folder.begin_disk(domain, disk)?;
            folder.layers.push(copied);
        }
        Ok(folder)
    }

    fn begin_disk(&self, domain: &Domain, disk: &Disk) -> Result<Copied, SavedError> {
        let vdev = disk.spec.vdev.clone();
        let Some(own) = &disk.layer else {
            return Err(SavedError::NoLayer { name: domain.name(), vdev });
        };
        let frozen = if self.kind == Kind::Full { disk.frozen.as_slice() } else { &[] };
        for (depth, layer) in frozen.iter().enumerate() {
            put(&self.path.join(layer_name(&vdev, depth)), |to| clone_or_copy(layer, to))?;
        }
        let path = self.path.join(layer_name(&vdev, frozen.len()));
        let begin = || {
            let own = LayerReader::open(own.try_clone()?)?;
            Layer::create(create(&path)?, own.disk_bytes(), own.base_id())
        };
        let layer = begin().map_err(|source| SavedError::Layer { path: path.clone(), source })?;
        Ok(Copied { vdev, depth: frozen.len() + 1, layer })
    }

    /// How many layers of each disk lie here.
    pub fn depth(&self) -> impl Iterator<Item = (String, usize)> {
        self.layers.iter().map(|copied| (copied.vdev.clone(), copied.depth))
    }

    /// The RAM that has come.
    pub fn ram(&self) -> &File {
        &self.ram
    }

    /// The layers of a disk that have come, as files that are read.
    pub fn layers(&self, vdev: &str) -> io::Result<Vec<File>> {
        let depth = self.layers.iter().find(|copied| copied.vdev == vdev).map_or(0, |copied| copied.depth);
        (0..depth).map(|depth| File::open(self.path.join(layer_name(vdev, depth)))).collect()
    }

    /// Leaves out the pages that are as the parent has them. Only for a diff, after the domain has gone on.
    pub fn leave_out_known(&mut self, parent: &Chain) -> Result<(), SavedError> {
        let (path, mut ours) = (self.path.join(RAM), [0; PAGE_BYTES]);
        let mut same = Vec::new();
        parent.each_page(&self.come, |page, theirs| {
            let at = (page * PAGE_BYTES) as u64;
            self.ram.read_exact_at(&mut ours, at).map_err(SavedError::file(&path, "read"))?;
            if theirs == ours {
                same.push(page);
            }
            Ok(())
        })?;
        for page in same {
            self.come.remove(page);
            if self.stored.contains(page) {
                self.punch(page).map_err(SavedError::file(&path, "written"))?;
            }
        }
        Ok(())
    }

    /// Writes the rest, and gives the folder its name.
    pub fn finish(mut self, folder: &Path, rest: &Rest, manifest: Manifest) -> Result<(), SavedError> {
        for (name, value) in [(STATE, &rest.state), (REGISTERS, &rest.registers["vcpus"])] {
            put(&self.path.join(name), |file| Ok(serde_json::to_writer(io::BufWriter::new(file), value)?))?;
        }
        put(&self.path.join(SHIM), |file| rest.shim.write(file))?;
        if self.kind == Kind::Diff {
            put(&self.path.join(RAM_MAP), |file| file.write_all_at(&page_map::encode(&self.come), 0))?;
        }
        seal(&self.path, folder, manifest)?;
        self.finished = true;
        Ok(())
    }

    fn punch(&mut self, page: usize) -> io::Result<()> {
        self.stored.remove(page);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.ram, flags, (page * PAGE_BYTES) as u64, PAGE_BYTES as u64)?)
    }
}

impl Target for Folder {
    fn pages(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let first = first as usize;
        let is_zero = |index: usize| bytes[index * PAGE_BYTES..][..PAGE_BYTES] == [0; PAGE_BYTES];
        let (count, mut index) = (bytes.len() / PAGE_BYTES, 0);
        self.come.insert_range(first..first + count);
        while index < count {
            if is_zero(index) {
                if self.stored.contains(first + index) {
                    self.punch(first + index)?;
                }
                index += 1;
                continue;
            }
            let end = (index..count).find(|index| is_zero(*index)).unwrap_or(count);
            let at = ((first + index) * PAGE_BYTES) as u64;
            self.ram.write_all_at(&bytes[index * PAGE_BYTES..end * PAGE_BYTES], at)?;
            self.stored.insert_range(first + index..first + end);
            index = end;
        }
        Ok(())
    }

    fn clusters(&mut self, disk: usize, first: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert!((bytes.len() as u64).is_multiple_of(CLUSTER_BYTES));
        let copied = self.layers.get_mut(disk).ok_or(io::ErrorKind::InvalidInput)?;
        copied.layer.put(first, bytes).map_err(io::Error::other)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "an unfinished snapshot stays");
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(path)
}

/// By reference where the file system can.
fn clone_or_copy(from: &File, to: &File) -> io::Result<()> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(()),
        Err(_) => sparse::copy(from, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path, pages: usize) -> Folder {
        let set = FixedBitSet::with_capacity(pages);
        let ram = create(&path.join(RAM)).unwrap();
        ram.set_len((pages * PAGE_BYTES) as u64).unwrap();
        let (path, layers) = (path.to_owned(), Vec::new());
        Folder { path, kind: Kind::Diff, ram, come: set.clone(), stored: set, layers, finished: true }
    }

    #[test]
    fn what_comes_later_takes_the_place_of_what_came_before() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = folder(place.path(), 8);
        let page = |byte: u8| vec![byte; PAGE_BYTES];
        folder.pages(1, &[page(1), page(0), page(2), page(3)].concat()).unwrap();
        folder.pages(3, &[page(0), page(9)].concat()).unwrap();
        folder.pages(7, &page(0)).unwrap();
        let bytes = std::fs::read(place.path().join(RAM)).unwrap();
        let firsts: Vec<u8> = bytes.chunks(PAGE_BYTES).map(|page| page[0]).collect();
        assert_eq!(firsts, [0, 1, 0, 0, 9, 0, 0, 0]);
        assert_eq!(folder.come.ones().collect::<Vec<_>>(), [1, 2, 3, 4, 7]);
        assert_eq!(folder.stored.ones().collect::<Vec<_>>(), [1, 4]);
        assert!(folder.clusters(0, 0, &page(1)).is_err(), "there is no such disk");
    }
}
