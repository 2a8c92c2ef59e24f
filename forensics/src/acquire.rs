//! Taking a domain's memory and disks, in two steps: a copy while it stands still, the case while it runs on.
//!
//! Under the pause only bytes move: RAM to memory of ours, each disk's copy-on-write layer to a file. Formats, hashes and
//! the signature come after.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::MemfdFlags;

use crate::case::Draft;
use crate::digest;
use crate::elf_core::{self, RamRange};
use crate::manifest::{self, DomainInfo, Item, Manifest, VmcoreinfoHint, is_plain_name};
use crate::signature::{self, CaseKey};
use crate::vcpu::VcpuRegs;
use crate::{custody, lime, qcow2, sparse, vmcoreinfo, volatility};

/// RAM up to this is copied to memory, more to a file beside the case.
const COPY_IN_MEMORY_BYTES_MAX: u64 = 2 << 30;
/// Threads that copy RAM under the pause.
const COPY_THREADS_MAX: usize = 4;
/// Disks of a domain.
const DISKS_MAX: usize = 64;
const CHUNK_BYTES: usize = 1 << 20;

/// Reads a disk anywhere.
pub trait DiskReader: Read + Seek + Send {}
impl<T: Read + Seek + Send> DiskReader for T {}

/// A disk that stands still, ready to be read.
pub struct OpenedDisk {
    /// Its bytes.
    pub reader: Box<dyn DiskReader>,
    /// Its length.
    pub bytes: u64,
    /// The ranges that may hold something; the rest is zero. The whole disk, if one does not know.
    pub allocated: Vec<Range<u64>>,
}

/// Opens the disk over the copy of what the guest writes.
pub type OpenDisk = Box<dyn FnOnce(Option<File>) -> io::Result<OpenedDisk> + Send>;

/// One disk of the domain.
pub struct DiskSource {
    /// Its name in the guest: `xvda`.
    pub name: String,
    /// The file that the guest's writes go to, copied under the pause: the layer, or a disk without one. `None` for a disk
    /// that nobody writes.
    pub changing: Option<File>,
    /// Opens the disk over the copy of `changing`.
    pub open: OpenDisk,
}

/// All that is to be taken.
pub struct Acquisition {
    /// The domain.
    pub domain: DomainInfo,
    /// The file behind its RAM: a memfd, or the memory of its process.
    pub memory: File,
    /// Where in that file the memory begins that `ranges` speak of; not 0 for a process, whose memory has no length.
    pub memory_at: u64,
    /// Its RAM in that file.
    pub ranges: Vec<RamRange>,
    /// Registers, in the order of the vcpus.
    pub vcpus: Vec<VcpuRegs>,
    /// Disks.
    pub disks: Vec<DiskSource>,
    /// The kernel that it was built from, whose symbols go into the case.
    pub kernel: Option<File>,
    /// What should be said in the manifest.
    pub notes: Vec<String>,
}

/// What was copied under the pause.
pub struct Frozen {
    domain: DomainInfo,
    memory: File,
    ranges: Vec<RamRange>,
    vcpus: Vec<VcpuRegs>,
    disks: Vec<(String, Option<File>, OpenDisk)>,
    kernel: Option<File>,
    notes: Vec<String>,
    taken: Timestamp,
    copy_ms: u64,
}

/// What the case should say about its making.
pub struct CaseOptions<'a> {
    /// Who asked for it: a user's name, for the custody log.
    pub who: &'a str,
    /// What writes it: `honeynet 0.1.0`.
    pub tool: &'a str,
    /// Head of the journal's hash chain, hexadecimal.
    pub chain_head: Option<String>,
    /// The key that signs.
    pub key: Option<&'a CaseKey>,
    /// The time of writing.
    pub now: Timestamp,
}

/// How far the writing is: bytes read for formats and hashes, of about as many in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Done.
    pub bytes: u64,
    /// Expected.
    pub of_bytes: u64,
}

/// Why no case was made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum AcquireError {
    /// A range outside the memory file, or disks with names that cannot be file names or stand twice.
    #[error("cannot take {what}: {value}")]
    Source {
        /// What.
        what: &'static str,
        /// Its name or size.
        value: String,
    },
    /// The copy under the pause.
    #[error("cannot copy {what} of {domain}")]
    Copy {
        /// Memory, or a disk's name.
        what: String,
        /// The domain.
        domain: String,
        /// Why.
        source: io::Error,
    },
    /// Writing an item.
    #[error("cannot write {item} of the case")]
    Write {
        /// The item.
        item: String,
        /// Why.
        source: io::Error,
    },
}

/// Copies RAM and layers. The caller pauses the domain before and lets it go on after. `spool` is a folder for temporary
/// files on the filesystem of the case.
pub fn copy_paused(source: Acquisition, spool: &Path, taken: Timestamp) -> Result<Frozen, AcquireError> {
    check_sources(&source)?;
    let begin = Instant::now();
    let domain = source.domain.name.clone();
    let failed = |what: &str| {
        let (what, domain) = (what.to_owned(), domain.clone());
        move |source| AcquireError::Copy { what, domain, source }
    };
    let (memory, disks) = std::thread::scope(|scope| {
        let disks = scope.spawn(|| {
            let copies = source.disks.into_iter().map(|disk| {
                let copy = disk.changing.map(|file| copy_file(&file, spool)).transpose();
                Ok((disk.name.clone(), copy.map_err(failed(&disk.name))?, disk.open))
            });
            copies.collect::<Result<Vec<_>, AcquireError>>()
        });
        let memory =
            copy_memory(&source.memory, source.memory_at, &source.ranges, spool).map_err(failed("memory"));
        (memory, disks.join())
    });
    let panicked = || failed("disks")(io::Error::other("the copying thread panicked"));
    let disks = disks.unwrap_or_else(|_| Err(panicked()))?;
    Ok(Frozen {
        domain: source.domain,
        memory: memory?,
        ranges: source.ranges,
        vcpus: source.vcpus,
        disks,
        kernel: source.kernel,
        notes: source.notes,
        taken,
        copy_ms: begin.elapsed().as_millis() as u64,
    })
}

/// Takes what was copied already: `memory` and the disks are nobody's any more, and `changing` is not looked at. The domain stood still for `pause`.
pub fn copied(source: Acquisition, taken: Timestamp, pause: Duration) -> Result<Frozen, AcquireError> {
    check_sources(&source)?;
    Ok(Frozen {
        domain: source.domain,
        memory: source.memory,
        ranges: source.ranges,
        vcpus: source.vcpus,
        disks: source.disks.into_iter().map(|disk| (disk.name, None, disk.open)).collect(),
        kernel: source.kernel,
        notes: source.notes,
        taken,
        copy_ms: pause.as_millis() as u64,
    })
}

/// Memory alone as an ELF core, with what its kernel says of itself where that is found.
///
/// # Errors
/// The host's.
pub fn write_core(memory: &File, ranges: &[RamRange], vcpus: &[VcpuRegs], out: &File) -> io::Result<()> {
    let found = vmcoreinfo::find(memory, ranges)?;
    elf_core::write(memory, ranges, vcpus, found.first().map(|one| one.text.as_slice()), out)
}

fn check_sources(source: &Acquisition) -> Result<(), AcquireError> {
    let refuse = |what, value| Err(AcquireError::Source { what, value });
    let length = match source.memory.metadata() {
        Ok(_) if source.memory_at != 0 => u64::MAX,
        Ok(metadata) => metadata.len(),
        Err(error) => return refuse("memory", error.to_string()),
    };
    for range in &source.ranges {
        let end = range.file_offset.checked_add(range.bytes).filter(|end| *end <= length);
        if end.is_none() || range.gpa.checked_add(range.bytes).is_none() {
            return refuse("a range outside the memory", format!("{range:x?}"));
        }
    }
    if source.disks.len() > DISKS_MAX {
        return refuse("so many disks", source.disks.len().to_string());
    }
    for (i, disk) in source.disks.iter().enumerate() {
        if !is_plain_name(&disk.name) || source.disks[..i].iter().any(|other| other.name == disk.name) {
            return refuse("a disk of this name", disk.name.clone());
        }
    }
    Ok(())
}

/// Copies the ranges, which are reckoned from `at`, to the same offsets of a new file, by several threads.
fn copy_memory(memory: &File, at: u64, ranges: &[RamRange], spool: &Path) -> io::Result<File> {
    let total: u64 = ranges.iter().map(|range| range.bytes).sum();
    let copy = if total <= COPY_IN_MEMORY_BYTES_MAX {
        File::from(rustix::fs::memfd_create("honeynet-snapshot", MemfdFlags::CLOEXEC)?)
    } else {
        tempfile::tempfile_in(spool)?
    };
    copy.set_len(ranges.iter().map(|range| range.file_offset + range.bytes).max().unwrap_or(0))?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(COPY_THREADS_MAX);
    for range in ranges {
        let part = range.bytes.div_ceil(threads as u64).next_multiple_of(sparse::PAGE_BYTES as u64);
        let end = range.file_offset + range.bytes;
        let starts = (range.file_offset..end).step_by(part.max(1) as usize);
        std::thread::scope(|scope| {
            let parts: Vec<_> = starts
                .map(|start| {
                    let copy = &copy;
                    scope.spawn(move || {
                        let piece = at + start..at + (start + part).min(end);
                        sparse::copy(memory, piece, copy, start, &mut Vec::new())
                    })
                })
                .collect();
            parts.into_iter().try_for_each(|part| match part.join() {
                Ok(result) => result.map(drop),
                Err(_) => Err(io::Error::other("a copying thread panicked")),
            })
        })?;
    }
    Ok(copy)
}

/// Copies a file: by reference where the filesystem can, else what is not a hole.
fn copy_file(file: &File, spool: &Path) -> io::Result<File> {
    let copy = tempfile::tempfile_in(spool)?;
    if rustix::fs::ioctl_ficlone(&copy, file).is_ok() {
        return Ok(copy);
    }
    // A block device has no length in its metadata.
    let length = rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?;
    copy.set_len(length)?;
    sparse::copy(file, 0..length, &copy, 0, &mut Vec::new())?;
    Ok(copy)
}

/// Writes the case below `evidence` and gives its id. On an error nothing is left.
pub fn finish(
    frozen: Frozen,
    evidence: &Path,
    options: &CaseOptions,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<String, AcquireError> {
    let write_error = |item: &str| {
        let item = item.to_owned();
        move |source| AcquireError::Write { item, source }
    };
    let draft =
        Draft::begin(evidence, &frozen.domain.name, frozen.taken).map_err(write_error("the folder"))?;
    let found = vmcoreinfo::find(&frozen.memory, &frozen.ranges).map_err(write_error("memory.elf"))?;
    let memory_bytes: u64 = frozen.ranges.iter().map(|range| range.bytes).sum();
    let disks = open_disks(frozen.disks)?;
    let disk_bytes: u64 = disks.iter().map(|(_, disk)| disk.bytes).sum();
    // Each memory format and each raw disk is hashed once; qcow2 is not counted, as its length is not known yet.
    let tally = Tally { bytes: AtomicU64::new(0), of_bytes: 2 * memory_bytes + disk_bytes, progress };
    let memory = MemoryWriter { memory: &frozen.memory, ranges: &frozen.ranges, vcpus: &frozen.vcpus };
    let mut notes = frozen.notes;
    let mut items = std::thread::scope(|scope| {
        let disks = scope.spawn(|| write_disks(&draft, disks, &tally));
        let aids = scope.spawn(|| frozen.kernel.as_ref().map(volatility::aids));
        let memory = memory.write(&draft, found.first().map(|one| one.text.as_slice()), &tally);
        let panicked = |_| Err(write_error("disks")(io::Error::other("the writing thread panicked")));
        let mut items = memory?;
        items.extend(disks.join().unwrap_or_else(panicked)?);
        match aids.join().unwrap_or(None) {
            Some(Ok(aids)) => items.extend(write_aids(&draft, &aids, &tally)?),
            // Whoever has the kernel can make them later.
            Some(Err(error)) => {
                notes.push(format!("no symbols for Volatility: {}", events::sentence(&error)));
            }
            None => {}
        }
        Ok(items)
    })?;
    items.sort_by(|a, b| a.name.cmp(&b.name));
    let (format, version) = Manifest::format();
    let manifest = Manifest {
        format,
        version,
        case: draft.id.clone(),
        domain: frozen.domain,
        taken: frozen.taken,
        copy_ms: frozen.copy_ms,
        written: options.now,
        tool: options.tool.to_owned(),
        chain_head: options.chain_head.clone(),
        notes,
        vmcoreinfo: found.first().map(|one| VmcoreinfoHint {
            gpa: one.gpa,
            found: found.len() as u64,
            trusted: false,
        }),
        items,
    };
    seal(draft, &manifest, options).map_err(write_error("the manifest"))
}

/// Manifest, signature, first line of custody, and then the case's own name.
fn seal(draft: Draft, manifest: &Manifest, options: &CaseOptions) -> io::Result<String> {
    let bytes = manifest.to_bytes();
    draft.write(manifest::FILE_NAME, &bytes)?;
    if let Some(key) = options.key {
        draft.write(signature::FILE_NAME, &key.sign(&bytes))?;
    }
    let detail = format!("manifest blake3 {}", blake3::hash(&bytes));
    custody::append(draft.path(), options.now, options.who, "acquired", &detail)?;
    let id = draft.id.clone();
    draft.publish()?;
    Ok(id)
}

/// Counts bytes of several threads.
struct Tally<'a> {
    bytes: AtomicU64,
    of_bytes: u64,
    progress: &'a (dyn Fn(Progress) + Sync),
}

impl Tally<'_> {
    fn add(&self, bytes: u64) {
        let sum = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(Progress { bytes: sum.min(self.of_bytes), of_bytes: self.of_bytes });
    }
}

struct MemoryWriter<'a> {
    memory: &'a File,
    ranges: &'a [RamRange],
    vcpus: &'a [VcpuRegs],
}

impl MemoryWriter<'_> {
    fn write(&self, draft: &Draft, note: Option<&[u8]>, tally: &Tally) -> Result<Vec<Item>, AcquireError> {
        let elf = write_item(draft, "memory.elf", "memory, ELF64 core", tally, |out| {
            elf_core::write(self.memory, self.ranges, self.vcpus, note, out)
        });
        let lime = write_item(draft, "memory.lime", "memory, LiME version 1", tally, |out| {
            lime::write(self.memory, self.ranges, out)
        });
        Ok(vec![elf?, lime?])
    }
}

fn write_aids(draft: &Draft, aids: &volatility::Aids, tally: &Tally) -> Result<Vec<Item>, AcquireError> {
    let isf = "symbols of the kernel, ISF 6.2.0 of Volatility 3";
    let config = "configuration of Volatility 3: vol -c volatility.json PLUGIN in this folder";
    let all = [(aids.isf_name.as_str(), isf, &aids.isf), (volatility::CONFIG_NAME, config, &aids.config)];
    let write = all.map(|(name, what, bytes)| {
        write_item(draft, name, what, tally, |mut out| io::Write::write_all(&mut out, bytes))
    });
    write.into_iter().collect()
}

fn open_disks(
    disks: Vec<(String, Option<File>, OpenDisk)>,
) -> Result<Vec<(String, OpenedDisk)>, AcquireError> {
    let open = |(name, copy, open): (String, Option<File>, OpenDisk)| match open(copy) {
        Ok(disk) => Ok((name, disk)),
        Err(source) => Err(AcquireError::Write { item: format!("disk {name}"), source }),
    };
    disks.into_iter().map(open).collect()
}

fn write_disks(
    draft: &Draft,
    disks: Vec<(String, OpenedDisk)>,
    tally: &Tally,
) -> Result<Vec<Item>, AcquireError> {
    let mut items = Vec::new();
    for (name, mut disk) in disks {
        let raw_name = format!("disk-{name}.raw");
        let what = format!("disk {name}, raw");
        items.push(write_item(draft, &raw_name, &what, tally, |out| write_raw(&mut disk, out))?);
        let qcow2_name = format!("disk-{name}.qcow2");
        let what = format!("disk {name}, qcow2 version 3");
        items.push(write_item(draft, &qcow2_name, &what, tally, |out| {
            qcow2::write(&File::open(draft.path().join(&raw_name))?, out)
        })?);
    }
    Ok(items)
}

fn write_raw(disk: &mut OpenedDisk, out: &File) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    for range in &disk.allocated {
        let end = range.end.min(disk.bytes);
        let mut at = range.start;
        while at < end {
            let length = (end - at).min(CHUNK_BYTES as u64) as usize;
            disk.reader.seek(SeekFrom::Start(at))?;
            disk.reader.read_exact(&mut buffer[..length])?;
            sparse::write_nonzero(out, &buffer[..length], at)?;
            at += length as u64;
        }
    }
    out.set_len(disk.bytes)
}

/// Writes one file of the case, brings it to the disk, and reads it back for its hashes.
fn write_item(
    draft: &Draft,
    name: &str,
    what: &str,
    tally: &Tally,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> Result<Item, AcquireError> {
    let write_it = || {
        let file = draft.create(name)?;
        write(&file)?;
        file.sync_all()?;
        digest::of_file(&file, &|bytes| tally.add(bytes))
    };
    let digest = write_it().map_err(|source| AcquireError::Write { item: name.to_owned(), source })?;
    Ok(Item::new(name, what, digest))
}
