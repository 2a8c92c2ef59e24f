//! One domain's process, from the descriptors that it was handed to the domain's end. It opens nothing.
//!
//! Order matters: threads first, then the system-call filter, then the guest's first instruction.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use events::Emitter;
use memmap2::Mmap;
use vifport::{Endpoint, PortFds, Side};

use crate::blkback::{BlkDevice, Blkback, Vdev, VdevError};
use crate::config::{DiskConfig, DomainConfig, RamDiff, RamKind, VifConfig};
use crate::confine::{ConfineError, confine, prepare};
use crate::control::{Voice, serve};
use crate::device::Reports;
use crate::dirty::{self, DirtyLayout, DirtyLog};
use crate::disk::{Below, Disk, DiskError, Layer, Mode, file_bytes};
use crate::hypercall::ShutdownReason;
use crate::kernel_image::{KernelImage, KernelImageError};
use crate::machine::{Boot, Machine, MachineError, Offered, Origin, Parts, VcpuCounts};
use crate::memory::{Access, Gpa, MemoryError, PAGE_SIZE, Region};
use crate::netback::{NetDevice, Netback};
use crate::page_map::{self, PageMapError};
use crate::report::DomainReports;
use crate::run_loop::End;
use crate::shim::{Layout, SHIM_GPA};
use crate::xenbus::{Device, DeviceKind, Nodes};

/// The largest kernel or initramfs that is read.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// The longest piece of RAM that is renewed.
const RENEWED_BYTES_MAX: u64 = 4096;
/// The last events are waited for so long.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a domain does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A descriptor does not do what it was handed for.
    #[error("cannot use the {what} that was handed in")]
    Handed {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel or the initramfs is too large.
    #[error("the {what} has {bytes} bytes, more than {FILE_BYTES_MAX}")]
    TooLarge {
        /// Which.
        what: &'static str,
        /// Its length.
        bytes: u64,
    },
    /// The kernel cannot be booted.
    #[error("the kernel cannot be booted")]
    Kernel(#[from] KernelImageError),
    /// The saved state is none.
    #[error("the saved state cannot be read")]
    State(#[source] serde_json::Error),
    /// More than any kernel's random state.
    #[error("{0} bytes of RAM are to be renewed, the limit is {RENEWED_BYTES_MAX}")]
    Renewed(u64),
    /// The host gives no random bytes.
    #[error("no random bytes for a clone")]
    Random(#[source] getrandom::Error),
    /// The RAM cannot be mapped.
    #[error("the domain's RAM cannot be mapped")]
    Ram(#[from] MemoryError),
    /// A diff of the RAM is none.
    #[error("a diff of the domain's RAM cannot be read")]
    RamDiff(#[from] PageMapError),
    /// A diff is of another RAM.
    #[error("a diff of {diff} pages is none of {pages} pages of RAM")]
    OtherRam {
        /// Pages of the diff.
        diff: u64,
        /// Pages of the RAM.
        pages: u64,
    },
    /// A disk's name is none.
    #[error(transparent)]
    Vdev(#[from] VdevError),
    /// A disk cannot be used.
    #[error("disk {vdev} cannot be used")]
    Disk {
        /// Its name.
        vdev: String,
        /// Why.
        #[source]
        source: DiskError,
    },
    /// A network interface cannot be used.
    #[error("vif {index} cannot be used")]
    Vif {
        /// Its number.
        index: usize,
        /// Why.
        #[source]
        source: vifport::AttachError,
    },
    /// The UUID is none.
    #[error("{0} is not a uuid")]
    Uuid(String),
    /// The machine cannot be made.
    #[error("the domain cannot be built")]
    Machine(#[from] MachineError),
    /// It would run unguarded.
    #[error("the domain's process cannot be confined")]
    Confine(#[from] ConfineError),
}

/// Runs the domain to its end.
///
/// # Errors
/// What keeps the domain from starting. How it ends later is told on the control socket.
pub fn run(config: DomainConfig) -> Result<(), RunError> {
    prepare();
    let control = UnixStream::from(owned(config.control_fd));
    let reading = control.try_clone().map_err(handed("control socket"))?;
    let voice = Voice::new(control);
    let emitter = emitter(&config);
    let reports: Arc<dyn Reports> = Arc::new(DomainReports::new(&config.name, config.domid, emitter.clone()));
    let machine = build(&config, &reports)?;
    if config.parked {
        machine.park();
    }
    let (handle, answering) = (machine.handle(), voice.clone());
    let (gone, told_to_go) = channel();
    let control = std::thread::Builder::new().name("control".into());
    let control = control.spawn(move || {
        // The handle keeps RAM mapped as long as somebody may ask.
        if let Err(error) = serve(reading, &answering, &handle, &gone) {
            tracing::warn!(%error, "the control socket broke");
        }
    });
    control.map_err(handed("control socket"))?;
    confine()?;
    voice.started(machine.ram_address()).map_err(handed("control socket"))?;
    if !config.parked {
        machine.release();
    }
    let end = machine.wait();
    if let End::Crash(how) = &end {
        tracing::error!("the domain crashed: {how}");
    }
    if let Err(error) = voice.ended(&end) {
        tracing::warn!(%error, "nobody hears of the domain's end");
    }
    if matches!(end, End::Crash(_) | End::Shutdown(ShutdownReason::Crash | ShutdownReason::Watchdog)) {
        // Told to, nobody there any more, or long enough: it is all the same.
        let _ = told_to_go.recv_timeout(Duration::from_millis(config.linger_ms));
    }
    if let Some(emitter) = emitter {
        emitter.flush(FLUSH_TIMEOUT);
    }
    Ok(())
}

/// Kernel and initramfs are in our memory only while the domain is built.
fn build(config: &DomainConfig, reports: &Arc<dyn Reports>) -> Result<Machine, RunError> {
    if let Some(fd) = config.state_fd {
        let state = contents("saved state", fd)?;
        let state = serde_json::from_slice(&state).map_err(RunError::State)?;
        return make(config, reports, Origin::Saved(&state));
    }
    let kernel = contents("kernel", config.kernel_fd)?;
    let kernel = KernelImage::parse(&kernel)?;
    let ramdisk = config.ramdisk_fd.map(|fd| contents("initramfs", fd)).transpose()?;
    let boot = Boot { kernel: &kernel, ramdisk: ramdisk.as_deref(), cmdline: &config.cmdline };
    make(config, reports, Origin::Boot(boot))
}

fn make(config: &DomainConfig, reports: &Arc<dyn Reports>, origin: Origin<'_>) -> Result<Machine, RunError> {
    let (ram, ram_bytes) = (owned(config.ram_fd), config.memory_mib << 20);
    let ram = match config.ram {
        RamKind::Own => Region::from_memfd(ram, Gpa(0), ram_bytes)?,
        RamKind::Snapshot => Region::from_snapshot(ram, Gpa(0), ram_bytes)?,
    };
    config.ram_diffs.iter().try_for_each(|diff| read_diff(&ram, *diff))?;
    for (gpa, bytes) in &config.renewed {
        renew(&ram, Gpa(*gpa), *bytes)?;
    }
    let layout = Layout { ram_bytes: config.memory_mib << 20, vcpus: config.maxvcpus };
    let shim = Region::from_memfd(owned(config.shim_fd), SHIM_GPA, layout.shim_bytes())?;
    let mut devices = Vec::new();
    let mut disks = config.disks.iter().map(open_disk).collect::<Result<Vec<_>, _>>()?;
    let dirty_log = dirty_log(config, &mut disks)?;
    for (disk, config) in disks.into_iter().zip(&config.disks) {
        devices.push(offer_disk(config, disk, reports)?);
    }
    for (index, vif) in config.vifs.iter().enumerate() {
        devices.push(offer_vif(index, vif, reports)?);
    }
    let console = UnixStream::from(owned(config.console_fd));
    console.set_nonblocking(true).map_err(handed("console socket"))?;
    Ok(Machine::build(Parts {
        kvm_fd: config.kvm_fd,
        backend: config.backend,
        vcpus: VcpuCounts { all: config.maxvcpus, online: config.vcpus },
        ram,
        shim,
        trace_bell: config.trace_bell_fd.map(owned),
        domid: config.domid,
        name: &config.name,
        uuid: uuid(&config.uuid)?,
        origin,
        console: console.into(),
        devices,
        dirty_log,
    })?)
}

/// Random bytes over what a clone has from its parent.
fn renew(ram: &Region, gpa: Gpa, bytes: u64) -> Result<(), RunError> {
    if bytes > RENEWED_BYTES_MAX {
        return Err(RunError::Renewed(bytes));
    }
    let mut fresh = vec![0; bytes as usize];
    getrandom::fill(&mut fresh).map_err(RunError::Random)?;
    Ok(ram.write(gpa, &fresh)?)
}

/// Without a sink a domain runs all the same.
fn emitter(config: &DomainConfig) -> Option<Emitter> {
    let socket = owned(config.events_fd?);
    Emitter::from_fd(socket, "honeyvmm")
        .inspect_err(|error| tracing::warn!(%error, "no events from here"))
        .ok()
}

/// Pages of a diff into RAM: they are this process' own from then on.
fn read_diff(ram: &Region, diff: RamDiff) -> Result<(), RunError> {
    let data = File::from(owned(diff.data_fd));
    let held = page_map::decode(&contents("map of a diff", diff.map_fd)?)?;
    let (diff, pages) = (held.len() as u64, ram.bytes() / PAGE_SIZE);
    if diff != pages {
        return Err(RunError::OtherRam { diff, pages });
    }
    for run in dirty::runs(&held, held.len()) {
        let (at, bytes) = (run.start as u64 * PAGE_SIZE, run.len() as u64 * PAGE_SIZE);
        ram.read_from_file_at(&data, at, Gpa(at), bytes)?;
    }
    Ok(())
}

/// The log of what is written, told to the disks that the guest may write.
fn dirty_log(config: &DomainConfig, disks: &mut [Disk]) -> Result<Option<DirtyLog>, RunError> {
    let Some(fd) = config.dirty_fd else { return Ok(None) };
    let mut written: Vec<_> = disks.iter_mut().filter(|disk| disk.mode() == Mode::ReadWrite).collect();
    let bytes: Vec<u64> = written.iter().map(|disk| disk.bytes()).collect();
    let log = DirtyLog::map(owned(fd), DirtyLayout::new(config.memory_mib << 20, &bytes))?;
    for (index, disk) in written.iter_mut().enumerate() {
        if let Some(bits) = log.disk(index) {
            disk.log_writes(bits);
        }
    }
    Ok(Some(log))
}

fn open_disk(config: &DiskConfig) -> Result<Disk, RunError> {
    let wrong = |source| RunError::Disk { vdev: config.vdev.clone(), source };
    let mode = if config.read_only { Mode::ReadOnly } else { Mode::ReadWrite };
    let base = File::from(owned(config.base_fd));
    let base_bytes = file_bytes(&base).map_err(wrong)?;
    let layer = config.layer_fd.map(|fd| Layer::open_handed_in(File::from(owned(fd)), base_bytes));
    let layer = layer.transpose().map_err(wrong)?;
    let frozen = config.frozen_fds.iter().map(|fd| File::from(owned(*fd))).collect();
    let below = Below::new(base, frozen).map_err(wrong)?;
    Disk::new(&config.vdev, below, layer, mode).map_err(wrong)
}

fn offer_disk(config: &DiskConfig, disk: Disk, reports: &Arc<dyn Reports>) -> Result<Offered, RunError> {
    let vdev: Vdev = config.vdev.parse()?;
    let backend = BlkDevice::new(vdev, Blkback::new(disk), reports.clone()).map_err(handed("disk"))?;
    let overseen = backend.overseen();
    let device = Device {
        kind: DeviceKind::Vbd,
        id: vdev.0,
        frontend_nodes: nodes(&[("virtual-device", &vdev.to_string()), ("device-type", "disk")]),
    };
    Ok(Offered { device, backend: Box::new(backend), overseen })
}

fn offer_vif(index: usize, config: &VifConfig, reports: &Arc<dyn Reports>) -> Result<Offered, RunError> {
    let fds = PortFds {
        memory: owned(config.port_fd),
        to_switch: owned(config.to_switch_fd),
        from_switch: owned(config.from_switch_fd),
    };
    let port = Endpoint::attach(fds, Side::Backend).map_err(|source| RunError::Vif { index, source })?;
    let number = index as u32;
    let backend = NetDevice::new(number, Netback::new(port), reports.clone()).map_err(handed("vif"))?;
    let overseen = backend.overseen();
    let device = Device {
        kind: DeviceKind::Vif,
        id: number,
        frontend_nodes: nodes(&[("handle", &number.to_string()), ("mac", &config.mac)]),
    };
    Ok(Offered { device, backend: Box::new(backend), overseen })
}

fn nodes(pairs: &[(&str, &str)]) -> Nodes {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The file as it lies in the host's page cache: an unpacked kernel is 50 MB that need not be copied twice.
fn contents(what: &'static str, fd: RawFd) -> Result<Mmap, RunError> {
    let file = File::from(owned(fd));
    let bytes = file.metadata().map_err(handed(what))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(RunError::TooLarge { what, bytes });
    }
    // SAFETY:
    // - The file is the owner's, who is root, and is not written while a domain is built: kernels and images are replaced by renaming.
    //   Were it truncated all the same, this process would end by SIGBUS, which is the domain's crash.
    // - What is read from it is checked as foreign bytes, and copied into the guest, before the mapping is gone.
    unsafe { Mmap::map(&file) }.map_err(handed(what))
}

/// `01234567-89ab-cdef-0123-456789abcdef`.
fn uuid(text: &str) -> Result<[u8; 16], RunError> {
    let wrong = || RunError::Uuid(text.to_owned());
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let value = u128::from_str_radix(&digits, 16).map_err(|_| wrong())?;
    Ok(value.to_be_bytes())
}

fn handed(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Handed { what, source }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY:
    // - The descriptor is open: the toolstack put it under this number before exec, and names each number once.
    // - Nothing else in this process owns it: each field of the configuration is taken once, by `run`.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_or_refused() {
        let read = uuid("01234567-89ab-cdef-0123-456789abcdef").unwrap();
        assert_eq!(read[..4], [0x01, 0x23, 0x45, 0x67]);
        for wrong in ["", "0123", "0123456789abcdef0123456789abcdeg", "+1234567-89ab-cdef-0123-456789abcdef"]
        {
            assert!(uuid(wrong).is_err(), "{wrong}");
        }
    }
}
