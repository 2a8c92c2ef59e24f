//! What a domain is built from: files opened and locked, RAM, ports. All of it is let go when dropped, so a domain that does
//! not come up leaves nothing behind.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, MemfdFlags, SealFlags};
use vifport::{Port, PortFds};

use crate::domain_file::DomainFile;
use crate::domain_file::disk::DiskSpec;
use crate::domain_file::vif::{VifSpec, format_mac};

/// Memory that stays for the host when a domain is built.
const HOST_RESERVE_BYTES: u64 = 128 << 20;

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
    /// There is not so much memory.
    #[error("{wanted_mib} MiB of RAM are not there: {available_mib} MiB are available")]
    NoMemory {
        /// What the domain wants.
        wanted_mib: u64,
        /// What there is.
        available_mib: u64,
    },
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
    /// The private layer, if writes do not go to the image.
    pub layer: Option<File>,
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

/// Opens and locks the disks of a domain. An image that a domain may write belongs to that domain alone; images that are only
/// read, or that have a layer in front, are shared.
pub fn disks(file: &DomainFile, folder: &Path) -> Result<Vec<Disk>, ResourceError> {
    file.disks.iter().map(|spec| disk(spec, folder)).collect()
}

fn disk(spec: &DiskSpec, folder: &Path) -> Result<Disk, ResourceError> {
    let path = folder.join(&spec.target);
    let opened = OpenOptions::new().read(true).write(!spec.read_only).open(&path);
    let base = opened.map_err(|source| ResourceError::Open { what: "disk", path: path.clone(), source })?;
    let operation = match spec.read_only {
        true => FlockOperation::NonBlockingLockShared,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    if rustix::fs::flock(&base, operation).is_err() {
        return Err(ResourceError::DiskInUse { path });
    }
    // A block device has no length in its metadata, its end can be sought.
    let bytes = rustix::fs::seek(&base, rustix::fs::SeekFrom::End(0)).unwrap_or(0);
    if bytes == 0 || bytes % 512 != 0 || base.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(ResourceError::NotADisk { path });
    }
    Ok(Disk { spec: spec.clone(), base, layer: None })
}

/// The RAM of a domain: a memfd of this size that can neither grow nor shrink.
pub fn ram(memory_mib: u64) -> Result<File, ResourceError> {
    let available = available_bytes().unwrap_or(u64::MAX);
    if (memory_mib << 20) + HOST_RESERVE_BYTES > available {
        return Err(ResourceError::NoMemory { wanted_mib: memory_mib, available_mib: available >> 20 });
    }
    let made =
        rustix::fs::memfd_create("ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).and_then(|memory| {
            rustix::fs::ftruncate(&memory, memory_mib << 20)?;
            rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(File::from(memory))
        });
    made.map_err(|errno| ResourceError::Make { what: "the RAM", source: errno.into() })
}

/// Copies RAM to a file; pages that were never touched stay holes.
pub fn copy_ram(ram: &File, path: &Path) -> io::Result<()> {
    let bytes = ram.metadata()?.len();
    let out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    out.set_len(bytes)?;
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(ram, rustix::fs::SeekFrom::Data(at)) {
        let end = rustix::fs::seek(ram, rustix::fs::SeekFrom::Hole(start))?;
        copy_range(ram, &out, start, end)?;
        at = end;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut chunk = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let wanted = chunk.len().min((end - at) as usize);
        let part = &mut chunk[..wanted];
        from.read_exact_at(part, at)?;
        to.write_all_at(part, at)?;
        at += wanted as u64;
    }
    Ok(())
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
fn own_mac(uuid: [u8; 16], index: usize) -> [u8; 6] {
    let [.., a, b, c] = uuid;
    [0x00, 0x16, 0x3e, a & 0x7f, b, c.wrapping_add(index as u8)]
}

/// `/dev/kvm`.
pub fn kvm() -> Result<File, ResourceError> {
    let path = Path::new("/dev/kvm");
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|source| ResourceError::Open { what: "the hypervisor", path: path.to_owned(), source })
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
        let open = |access| disks(&file_with_disk(&image, access), folder.path());
        {
            let _writer = open("w").unwrap();
            assert!(matches!(open("w"), Err(ResourceError::DiskInUse { .. })));
            assert!(matches!(open("r"), Err(ResourceError::DiskInUse { .. })));
        }
        let _readers = [open("r").unwrap(), open("r").unwrap()];
        assert!(matches!(open("w"), Err(ResourceError::DiskInUse { .. })));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.img");
        let open = || disks(&file_with_disk(&image, "w"), folder.path()).map(|_| ()).unwrap_err();
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
