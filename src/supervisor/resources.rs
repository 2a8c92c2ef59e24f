//! What a domain is built from: files opened and locked, RAM, ports. All of it is let go when dropped, so a domain that does
//! not come up leaves nothing behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use honeyvmm::dirty::DirtyLayout;
use honeyvmm::disk::{BaseId, Below, DiskError, Layer};
use honeyvmm::kvm::KvmError;
use honeyvmm::shim::{Backend, Layout};
use rustix::event::EventfdFlags;
use rustix::fs::{FlockOperation, MemfdFlags, SealFlags};
use vifport::{Port, PortFds};

use crate::domain_file::DomainFile;
use crate::domain_file::disk::DiskSpec;
use crate::domain_file::vif::{VifSpec, format_mac};
use crate::sparse;

/// Memory that stays for the host when a domain is built.
const HOST_RESERVE_BYTES: u64 = 128 << 20;
/// The part of an image that goes into the id that its layers are bound to.
const BASE_ID_BYTES: u64 = 1 << 20;

/// Why a domain has not what it needs.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// A file cannot be opened.
    #[error("{what} {path} cannot be opened")]
    Open {
        /// Which file.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another domain has the disk.
    #[error("disk {path} is in use by another domain")]
    DiskInUse {
        /// The image.
        path: PathBuf,
    },
    /// The image is empty or a folder.
    #[error("disk {path} is not an image of whole 512-byte sectors")]
    NotADisk {
        /// The image.
        path: PathBuf,
    },
    /// The layer cannot be used.
    #[error("copy-on-write layer {path} cannot be used")]
    Layer {
        /// The layer.
        path: PathBuf,
        /// Why.
        #[source]
        source: DiskError,
    },
    /// There is not so much memory.
    #[error("{wanted_mib} MiB of RAM are not there: {available_mib} MiB are available")]
    NoMemory {
        /// What the domain wants.
        wanted_mib: u64,
        /// What there is.
        available_mib: u64,
    },
    /// It runs no machine.
    #[error("cannot tell what this host's KVM is")]
    Probe(#[from] KvmError),
    /// A system call failed.
    #[error("cannot make {what}")]
    Make {
        /// Making what.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One disk of a domain, open and locked.
pub struct Disk {
    /// As in the domain file.
    pub spec: DiskSpec,
    /// The image.
    pub base: File,
    /// Frozen layers over the image, the lowest first.
    pub frozen: Vec<File>,
    /// The private layer, if writes do not go to the image.
    pub layer: Option<File>,
}

impl Disk {
    /// What lies below the layer.
    pub fn below(&self) -> Result<Below, DiskError> {
        let frozen = self.frozen.iter().map(File::try_clone).collect::<io::Result<_>>()?;
        Below::new(self.base.try_clone()?, frozen)
    }

    /// Lets others have it: its domain has ended, though somebody may still read what it left.
    pub fn unlock(&self) {
        for file in self.layer.iter().chain([&self.base]) {
            if let Err(error) = rustix::fs::flock(file, FlockOperation::Unlock) {
                tracing::warn!(%error, vdev = self.spec.vdev, "a disk stays locked");
            }
        }
    }
}

/// One vif of a domain.
pub struct Vif {
    /// Its MAC address.
    pub mac: String,
    /// The port between its backend and the switch.
    pub port: PortFds,
}

/// Opens a file that is only read.
pub fn open(what: &'static str, path: &Path) -> Result<File, ResourceError> {
    File::open(path).map_err(|source| ResourceError::Open { what, path: path.to_owned(), source })
}

/// Opens and locks the disks of a domain; layers lie in `own`. An image that a domain may write belongs to that domain alone;
/// images that are only read, or that have a layer in front, are shared.
pub fn disks(file: &DomainFile, folder: &Path, own: &Path) -> Result<Vec<Disk>, ResourceError> {
    let open = |spec: &DiskSpec| match file.layered && !spec.read_only {
        true => layered_disk(spec, &folder.join(&spec.target), own),
        false => plain_disk(spec, &folder.join(&spec.target)),
    };
    file.disks.iter().map(open).collect()
}

fn plain_disk(spec: &DiskSpec, path: &Path) -> Result<Disk, ResourceError> {
    let (base, _) = image(path, !spec.read_only)?;
    Ok(Disk { spec: spec.clone(), base, frozen: Vec::new(), layer: None })
}

fn layered_disk(spec: &DiskSpec, path: &Path, own: &Path) -> Result<Disk, ResourceError> {
    let (base, base_bytes, id) = layers_base(path)?;
    let layer_path = layer_path(own, &spec.vdev);
    let wrong = |source| ResourceError::Layer { path: layer_path.clone(), source };
    let layer = open_layer(&layer_path)?;
    if layer.metadata().is_ok_and(|meta| meta.len() > 0) {
        let copy = layer.try_clone().map_err(|error| wrong(error.into()))?;
        if Layer::open(copy, base_bytes, id).is_ok() {
            let frozen = frozen_layers(&read_below(own, &spec.vdev).map_err(wrong)?, base_bytes, id)?;
            return Ok(Disk { spec: spec.clone(), base, frozen, layer: Some(layer) });
        }
    }
    let_go(layer);
    put_aside(&layer_path)?;
    write_below(own, &spec.vdev, &[]).map_err(wrong)?;
    let layer = fresh_layer(&layer_path, base_bytes, id)?;
    Ok(Disk { spec: spec.clone(), base, frozen: Vec::new(), layer: Some(layer) })
}

/// The disks of a domain that goes on from a snapshot: frozen layers of each disk by its name, the lowest first, and a fresh one on top.
/// The domain's folder remembers them, for a start anew.
pub fn restored_disks(
    file: &DomainFile,
    folder: &Path,
    own: &Path,
    frozen: &dyn Fn(&str) -> Vec<PathBuf>,
) -> Result<Vec<Disk>, ResourceError> {
    let open = |spec: &DiskSpec| {
        let path = folder.join(&spec.target);
        if spec.read_only {
            return plain_disk(spec, &path);
        }
        let (base, base_bytes, id) = layers_base(&path)?;
        let paths = frozen(&spec.vdev);
        let frozen = frozen_layers(&paths, base_bytes, id)?;
        let layer_path = layer_path(own, &spec.vdev);
        // Locked, if another domain has it.
        let_go(open_layer(&layer_path)?);
        put_aside(&layer_path)?;
        write_below(own, &spec.vdev, &paths)
            .map_err(|source| ResourceError::Layer { path: layer_path.clone(), source })?;
        let layer = fresh_layer(&layer_path, base_bytes, id)?;
        Ok(Disk { spec: spec.clone(), base, frozen, layer: Some(layer) })
    };
    file.disks.iter().map(open).collect()
}

/// The disks of a domain that came from another host: its layers are brought into its folder from `layers`; what an earlier domain of its name
/// left there is put aside.
pub fn arrived_disks(
    file: &DomainFile,
    folder: &Path,
    own: &Path,
    layers: &Path,
) -> Result<Vec<Disk>, ResourceError> {
    for spec in file.disks.iter().filter(|spec| !spec.read_only) {
        let path = layer_path(own, &spec.vdev);
        let bring = || {
            write_below(own, &spec.vdev, &[])?;
            Ok(std::fs::rename(layer_path(layers, &spec.vdev), &path)?)
        };
        // Locked, if another domain has it.
        let_go(open_layer(&path)?);
        put_aside(&path)?;
        bring().map_err(|source| ResourceError::Layer { path: path.clone(), source })?;
    }
    disks(file, folder, own)
}

/// Undoes [`arrived_disks`]: what an earlier domain of this name left has its place again.
pub fn take_layers_back(file: &DomainFile, own: &Path) -> io::Result<()> {
    for spec in file.disks.iter().filter(|spec| !spec.read_only) {
        let path = layer_path(own, &spec.vdev);
        match std::fs::rename(path.with_extension("layer.1"), &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::remove_file(&path)?,
            renamed => renamed?,
        }
    }
    Ok(())
}

/// A layer over this image, in a folder where a domain is in the making.
pub fn arriving_layer(image: &Path, layers: &Path, vdev: &str) -> Result<Layer, ResourceError> {
    let (_, base_bytes, id) = layers_base(image)?;
    let path = layer_path(layers, vdev);
    // Not locked: it is no domain's yet, and is opened anew when it is.
    let opened = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(&path);
    let layer = opened.map_err(DiskError::from).and_then(|file| Layer::create(file, base_bytes, id));
    layer.map_err(|source| ResourceError::Layer { path, source })
}

fn layer_path(own: &Path, vdev: &str) -> PathBuf {
    own.join(format!("{vdev}.layer"))
}

/// An image that is only read, its length, and what its layers are bound to.
fn layers_base(path: &Path) -> Result<(File, u64, BaseId), ResourceError> {
    let (base, base_bytes) = image(path, false)?;
    let id = base_id(&base, base_bytes);
    let id = id.map_err(|source| ResourceError::Open { what: "disk", path: path.to_owned(), source })?;
    Ok((base, base_bytes, id))
}

fn fresh_layer(path: &Path, base_bytes: u64, id: BaseId) -> Result<File, ResourceError> {
    let wrong = |source| ResourceError::Layer { path: path.to_owned(), source };
    let layer = open_layer(path)?;
    let copy = layer.try_clone().map_err(|error| wrong(error.into()))?;
    Layer::create(copy, base_bytes, id).map_err(wrong)?;
    Ok(layer)
}

fn frozen_layers(paths: &[PathBuf], base_bytes: u64, id: BaseId) -> Result<Vec<File>, ResourceError> {
    let open = |path: &PathBuf| {
        let wrong = |source| ResourceError::Layer { path: path.clone(), source };
        let layer = self::open("layer", path)?;
        let copy = layer.try_clone().map_err(|error| wrong(error.into()))?;
        Layer::open(copy, base_bytes, id).map_err(wrong)?;
        Ok(layer)
    };
    paths.iter().map(open).collect()
}

/// What an intruder wrote, over another image or over what lies elsewhere, is kept, but it fits this disk no more.
fn put_aside(layer: &Path) -> Result<(), ResourceError> {
    let renamed = match std::fs::metadata(layer) {
        Ok(meta) if meta.len() > 0 => std::fs::rename(layer, layer.with_extension("layer.1")),
        _ => Ok(()),
    };
    renamed.map_err(|error| ResourceError::Layer { path: layer.to_owned(), source: error.into() })
}

fn below_path(own: &Path, vdev: &str) -> PathBuf {
    own.join(format!("{vdev}.below"))
}

/// The frozen layers below the layer in the domain's folder; most have none.
fn read_below(own: &Path, vdev: &str) -> Result<Vec<PathBuf>, DiskError> {
    match std::fs::read(below_path(own, vdev)) {
        Ok(text) => Ok(serde_json::from_slice(&text).map_err(io::Error::from)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn write_below(own: &Path, vdev: &str, paths: &[PathBuf]) -> Result<(), DiskError> {
    let path = below_path(own, vdev);
    if paths.is_empty() {
        return match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        };
    }
    let fresh = path.with_extension("below.new");
    let text = serde_json::to_vec(paths).map_err(io::Error::from)?;
    std::fs::write(&fresh, text)?;
    Ok(std::fs::rename(fresh, path)?)
}

fn open_layer(path: &Path) -> Result<File, ResourceError> {
    let opened =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
    let layer =
        opened.map_err(|source| ResourceError::Open { what: "layer", path: path.to_owned(), source })?;
    match rustix::fs::flock(&layer, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(layer),
        Err(_) => Err(ResourceError::DiskInUse { path: path.to_owned() }),
    }
}

/// Closes a file that we locked. Closing alone would not do: a child that is being started just now has it open too, until it executes.
fn let_go(locked: File) {
    if let Err(error) = rustix::fs::flock(&locked, FlockOperation::Unlock) {
        tracing::warn!(%error, "a layer stays locked");
    }
}

/// Opens and locks an image; answers its length too.
fn image(path: &Path, written: bool) -> Result<(File, u64), ResourceError> {
    let opened = OpenOptions::new().read(true).write(written).open(path);
    let base =
        opened.map_err(|source| ResourceError::Open { what: "disk", path: path.to_owned(), source })?;
    let operation = match written {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::NonBlockingLockShared,
    };
    if rustix::fs::flock(&base, operation).is_err() {
        return Err(ResourceError::DiskInUse { path: path.to_owned() });
    }
    // A block device has no length in its metadata, its end can be sought.
    let bytes = rustix::fs::seek(&base, rustix::fs::SeekFrom::End(0)).unwrap_or(0);
    if bytes == 0 || bytes % 512 != 0 || base.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(ResourceError::NotADisk { path: path.to_owned() });
    }
    Ok((base, bytes))
}

/// What binds a layer to its image: length, time of the last change, and the first bytes, where file systems keep their uuid.
fn base_id(base: &File, base_bytes: u64) -> io::Result<BaseId> {
    let mut first = vec![0; BASE_ID_BYTES.min(base_bytes) as usize];
    base.read_exact_at(&mut first, 0)?;
    let meta = base.metadata()?;
    let mut hash = blake3::Hasher::new();
    for number in [base_bytes as i64, meta.mtime(), meta.mtime_nsec()] {
        hash.update(&number.to_le_bytes());
    }
    Ok(*hash.update(&first).finalize().as_bytes())
}

/// The RAM of a domain: a memfd of this size that can neither grow nor shrink.
pub fn ram(memory_mib: u64) -> Result<File, ResourceError> {
    available(memory_mib)?;
    sealed_memory("ram", memory_mib << 20)
        .map_err(|errno| ResourceError::Make { what: "the RAM", source: errno.into() })
}

/// Is there so much memory for a domain? One that goes on from a file may come to write all of it.
pub fn available(memory_mib: u64) -> Result<(), ResourceError> {
    let available = available_bytes().unwrap_or(u64::MAX);
    if (memory_mib << 20) + HOST_RESERVE_BYTES > available {
        return Err(ResourceError::NoMemory { wanted_mib: memory_mib, available_mib: available >> 20 });
    }
    Ok(())
}

/// The shim's memory of a domain with so much RAM; little of it is ever touched.
pub fn shim(memory_mib: u64) -> Result<File, ResourceError> {
    let layout = Layout { ram_bytes: memory_mib << 20, vcpus: 1 };
    sealed_memory("shim", layout.shim_bytes())
        .map_err(|errno| ResourceError::Make { what: "the shim's memory", source: errno.into() })
}

/// Where it is noted what a domain writes.
pub fn dirty(layout: &DirtyLayout) -> Result<File, ResourceError> {
    sealed_memory("dirty", layout.bytes())
        .map_err(|errno| ResourceError::Make { what: "the log of what is written", source: errno.into() })
}

/// What the VMM rings when somebody should look at the trace.
pub fn bell() -> Result<OwnedFd, ResourceError> {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| ResourceError::Make { what: "a bell", source: errno.into() })
}

/// The same memory, for reading only.
pub fn read_only(memory: &File) -> Result<File, ResourceError> {
    File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
        .map_err(|source| ResourceError::Make { what: "a view of the RAM", source })
}

fn sealed_memory(name: &str, bytes: u64) -> rustix::io::Result<File> {
    let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memory, bytes)?;
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(File::from(memory))
}

/// Copies a file to one that has no name: by reference where the file system can, else what is not a hole.
pub fn copy_to_temporary(from: &File, folder: &Path) -> io::Result<File> {
    let to = tempfile::tempfile_in(folder)?;
    if rustix::fs::ioctl_ficlone(&to, from).is_err() {
        sparse::copy(from, &to)?;
    }
    Ok(to)
}

/// `MemAvailable` of /proc/meminfo.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// The vifs of a domain, each with a port.
pub fn vifs(file: &DomainFile, uuid: [u8; 16]) -> Result<Vec<Vif>, ResourceError> {
    let vif = |(index, spec): (usize, &VifSpec)| {
        let port = Port::create().map_err(|source| ResourceError::Make { what: "a vif's port", source })?;
        let mac = spec.mac.unwrap_or_else(|| own_mac(uuid, index));
        Ok(Vif { mac: format_mac(mac), port })
    };
    file.vifs.iter().enumerate().map(vif).collect()
}

/// Xen's own prefix and three bytes of the domain's uuid, so that a domain keeps its address when it restarts.
pub fn own_mac(uuid: [u8; 16], index: usize) -> [u8; 6] {
    let [.., a, b, c] = uuid;
    [0x00, 0x16, 0x3e, a & 0x7f, b, c.wrapping_add(index as u8)]
}

/// `/dev/kvm`.
pub fn kvm() -> Result<File, ResourceError> {
    let path = Path::new("/dev/kvm");
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|source| ResourceError::Open { what: "the hypervisor", path: path.to_owned(), source })
}

/// What this host's KVM is; asked once, for it takes a machine of its own.
pub fn backend(kvm: &File) -> Result<Backend, ResourceError> {
    static FOUND: OnceLock<Backend> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(*found);
    }
    let found = honeyvmm::kvm::probe(kvm.as_raw_fd())?;
    Ok(*FOUND.get_or_init(|| found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain_file;

    fn file_with_disk(path: &Path, access: &str) -> DomainFile {
        let text = format!("name='a'\nmemory=64\nkernel='k'\ndisk=['{},,xvda,{access}']", path.display());
        domain_file::parse(&text).unwrap().file
    }

    #[test]
    fn a_disk_is_written_by_one_domain_and_read_by_many() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.img");
        std::fs::write(&image, [0; 1024]).unwrap();
        let open = |access| disks(&file_with_disk(&image, access), folder.path(), folder.path());
        {
            let _writer = open("w").unwrap();
            assert!(matches!(open("w"), Err(ResourceError::DiskInUse { .. })));
            assert!(matches!(open("r"), Err(ResourceError::DiskInUse { .. })));
        }
        let _readers = [open("r").unwrap(), open("r").unwrap()];
        assert!(matches!(open("w"), Err(ResourceError::DiskInUse { .. })));
    }

    #[test]
    fn an_image_with_layers_is_shared_and_a_layer_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.img");
        std::fs::write(&image, [0; 8192]).unwrap();
        let mut file = file_with_disk(&image, "w");
        file.layered = true;
        let own = [folder.path().join("a"), folder.path().join("b")];
        own.iter().for_each(|own| std::fs::create_dir(own).unwrap());
        let first = disks(&file, folder.path(), &own[0]).unwrap();
        let _other = disks(&file, folder.path(), &own[1]).unwrap();
        assert!(matches!(disks(&file, folder.path(), &own[0]), Err(ResourceError::DiskInUse { .. })));
        let layer = first[0].layer.as_ref().unwrap();
        layer.write_all_at(b"x", 3).unwrap();
        drop(first);
        // The damaged layer is put aside, a fresh one takes its place; the fresh one is found again.
        let bytes = |own: &Path| std::fs::read(own.join("xvda.layer")).unwrap();
        drop(disks(&file, folder.path(), &own[0]).unwrap());
        assert!(own[0].join("xvda.layer.1").exists());
        let fresh = bytes(&own[0]);
        drop(disks(&file, folder.path(), &own[0]).unwrap());
        assert_eq!(bytes(&own[0]), fresh);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.img");
        let open =
            || disks(&file_with_disk(&image, "w"), folder.path(), folder.path()).map(|_| ()).unwrap_err();
        assert!(matches!(open(), ResourceError::Open { .. }));
        std::fs::write(&image, "").unwrap();
        assert!(matches!(open(), ResourceError::NotADisk { .. }));
        std::fs::write(&image, [0; 700]).unwrap();
        assert!(matches!(open(), ResourceError::NotADisk { .. }));
    }

    #[test]
    fn more_memory_than_there_is_is_refused() {
        assert!(matches!(ram(1 << 30), Err(ResourceError::NoMemory { .. })));
    }

    #[test]
    fn macs_are_unicast_and_differ_between_vifs() {
        let macs: Vec<_> = (0..3).map(|index| own_mac([0xff; 16], index)).collect();
        assert!(macs.iter().all(|mac| mac[0] == 0 && mac[1] == 0x16 && mac[2] == 0x3e));
        assert!(macs[0] != macs[1] && macs[1] != macs[2]);
    }
}
