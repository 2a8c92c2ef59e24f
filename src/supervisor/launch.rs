//! Building one domain: resources, the child's configuration, the child itself, and the way back when a step fails.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use honeyvmm::config::{DiskConfig, DomainConfig, RamDiff, VifConfig};
use honeyvmm::shim::Backend;
use serde::{Deserialize, Serialize};

use super::announce::Announcer;
use super::beginning::Beginning;
use super::cgroup::MemoryGroup;
use super::console::{Console, LOG_BYTES_MAX, LimitedLog};
use super::control::{Control, ControlReader};
use super::copying::Copies;
use super::core;
use super::domain::{Domain, Life};
use super::network::{Network, SwitchError};
use super::nursery::Spare;
use super::observer::{Observer, Sight};
use super::plugs::Plugs;
use super::process::Descriptors;
use super::ram::Ram;
use super::resources::{self, Disk, ResourceError, Vif};
use super::saved::{Saved, SavedError};
use super::spares::Spares;
use crate::domain_file::DomainFile;
use crate::jail::{DOMAIN_UID_BASE, Jail};
use crate::state::State;

/// How long a domain process may take until its first vcpu runs; a big kernel on a loaded host takes a second.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What the child of role `honeyvmm` reads at first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainProcess {
    /// What it gives away.
    pub jail: Jail,
    /// The socket on which its domain comes then: a `DomainConfig`.
    pub work_fd: RawFd,
}

/// A process without a domain.
pub fn spare(folder: &Path) -> io::Result<Spare> {
    let jail = Jail { uid: None, isolated: true };
    Spare::start("honeyvmm", folder, |work_fd, _| Ok(DomainProcess { jail, work_fd }))
}

/// Why a domain was not built.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Something that it needs is not there.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// The switch takes no vif.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// The saved domain cannot be read.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// A recipe's name where a kernel must be.
    #[error("domain {name} has no kernel")]
    NoKernel {
        /// The domain.
        name: String,
    },
    /// A step failed.
    #[error("domain {name}: cannot {step}")]
    Step {
        /// The domain.
        name: String,
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The child ended before its first vcpu ran.
    #[error("domain {name} did not start: {reason}")]
    Died {
        /// The domain.
        name: String,
        /// The last line that it wrote.
        reason: String,
    },
}

/// A domain to be built.
pub struct Plan {
    /// Its number.
    pub domid: u32,
    /// Its process, which waits for it.
    pub process: Spare,
    /// Its file.
    pub file: DomainFile,
    /// Where the file's relative paths start.
    pub folder: PathBuf,
    /// Its uuid.
    pub uuid: [u8; 16],
    /// How it begins.
    pub beginning: Beginning,
}

/// Builds the domain and waits until its first vcpu runs. `ended` is called when its process is gone, also where this fails.
pub fn launch(
    state: &State,
    network: &Network,
    announcer: &Arc<Announcer>,
    spares: &Spares,
    plan: Plan,
    ended: impl FnOnce(Arc<Domain>, ExitStatus) + Send + 'static,
) -> Result<Arc<Domain>, LaunchError> {
    let name = plan.file.name.clone();
    let step = |step: &'static str| {
        let name = name.clone();
        move |source: io::Error| LaunchError::Step { name, step, source }
    };
    let own = OwnFolder::make(state, &name).map_err(step("make its folder"))?;
    let parts = Parts::gather(&plan, &own.path)?;
    let domid = plan.domid;
    let plugs = Plugs::plug(network, &plan, &parts.vifs)?;
    let vmm_log = plan.process.name_log(&own.path.join("vmm.log")).map_err(step("open its log"))?;
    let sockets = Sockets::make().map_err(step("make its sockets"))?;
    let (control, reader) = Control::new(sockets.control).map_err(step("use its control socket"))?;
    let log = LimitedLog::open(&own.path.join("console.log"), LOG_BYTES_MAX)
        .map_err(step("open its console log"))?;
    let console = Console::start(sockets.console, log).map_err(step("read its console"))?;
    let child = Child { control: sockets.child_control, console: sockets.child_console };
    let (config, descriptors) =
        configuration(state, &plan, &parts, child).map_err(step("write its configuration"))?;

    let observers = plan.beginning.origin.observers(spares, &parts.kernel);
    let sight = Sight {
        name: name.clone(),
        domid,
        memory_mib: plan.file.memory_mib,
        vcpus: plan.file.maxvcpus,
        spares: observers.map_err(step("use its kernel"))?,
        folder: own.path.clone(),
        ram: Arc::clone(&parts.ram),
        shim: parts.shim,
        bell: parts.bell,
    };
    let observer = Observer::new(state.clone(), Arc::clone(announcer), sight);
    let Plan { domid: _, process, file, folder, uuid, beginning } = plan;
    let macs = parts.vifs.iter().map(|vif| vif.mac.clone()).collect();
    let memory_bytes = file.memory_mib << 20;
    let domain = Arc::new(Domain::new(
        domid,
        file,
        folder,
        uuid,
        macs,
        beginning.seat.clone(),
        parts.kernel,
        parts.ram,
        parts.disks,
        control,
        console,
        observer,
        parts.copies,
    ));
    let (pid, voice) = (process.pid(), (state, announcer));
    let started = start(&domain, process, &config, descriptors, reader, voice, ended);
    started.map_err(step("start its process"))?;
    domain.set_process(pid);
    enclose(&domain, memory_bytes, pid);
    if domain.wait_started(START_TIMEOUT) {
        find_ram(&domain, pid).map_err(step("read its memory"))?;
        own.keep();
        begun(&domain, &beginning);
        plugs.keep();
        return Ok(domain);
    }
    if domain.pid().is_some() {
        kill(pid);
    }
    Err(LaunchError::Died { name, reason: last_line(vmm_log) })
}

/// Limits its memory; that takes the kernel longer than a clone takes to begin, so it is done beside that.
fn enclose(domain: &Arc<Domain>, memory_bytes: u64, pid: u32) {
    let domain = Arc::clone(domain);
    let spawned = std::thread::Builder::new().name("cgroup".into()).spawn(move || {
        let name = format!("{}-{}", domain.file.name, domain.domid);
        match MemoryGroup::enclose(&name, memory_bytes, pid) {
            Ok(Some(group)) => domain.set_group(group),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, name, "no memory limit for this domain's process"),
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no memory limit for a domain's process");
    }
}

/// Where RAM is in the domain's process; one that cannot be looked into does not run.
fn find_ram(domain: &Domain, pid: u32) -> io::Result<()> {
    let found = domain.ram_address().map_or(Ok(()), |address| domain.ram.mapped(pid, address));
    found.inspect_err(|_| {
        domain.want_destroyed();
        kill(pid);
    })
}

/// It stands, or it runs; somebody looks at it.
fn begun(domain: &Arc<Domain>, beginning: &Beginning) {
    if beginning.parked {
        domain.set_life(Life::Paused);
    }
    observe(domain, beginning.origin.observed_after());
}

/// Has somebody look at the domain, after a while.
fn observe(domain: &Arc<Domain>, after: Duration) {
    let domain = Arc::clone(domain);
    let spawned = std::thread::Builder::new().name("observe".into()).spawn(move || {
        std::thread::sleep(after);
        if domain.pid().is_some()
            && let Err(error) = domain.observer.start()
        {
            tracing::warn!(%error, name = domain.name(), "a domain is not observed");
        }
        if domain.pid().is_none() {
            domain.observer.close();
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "a domain is not observed");
    }
}

/// What a domain is built from, gathered before anything is started.
struct Parts {
    kernel: File,
    ramdisk: Option<File>,
    disks: Vec<Disk>,
    vifs: Vec<Vif>,
    ram: Arc<Ram>,
    shim: File,
    dirty: File,
    copies: Copies,
    bell: OwnedFd,
    kvm: File,
    backend: Backend,
}

impl Parts {
    fn gather(plan: &Plan, own: &Path) -> Result<Parts, LaunchError> {
        let file = &plan.file;
        let Some(kernel) = &file.kernel else {
            return Err(LaunchError::NoKernel { name: file.name.clone() });
        };
        let ramdisk = file.ramdisk.as_ref();
        let kvm = resources::kvm()?;
        let shim = resources::shim(file.memory_mib)?;
        let origin = &plan.beginning.origin;
        let ram = origin.ram(file, &shim)?;
        let disks = origin.disks(file, &plan.folder, own)?;
        let (copies, dirty) = Copies::new(file.memory_mib, &disks, origin.saved().cloned())?;
        Ok(Parts {
            kernel: resources::open("kernel", &plan.folder.join(kernel))?,
            ramdisk: ramdisk.map(|path| resources::open("ramdisk", &plan.folder.join(path))).transpose()?,
            disks,
            vifs: resources::vifs(file, plan.uuid)?,
            ram: Arc::new(ram),
            shim,
            dirty,
            copies,
            bell: resources::bell()?,
            backend: resources::backend(&kvm)?,
            kvm,
        })
    }
}

struct Sockets {
    control: UnixStream,
    console: UnixStream,
    child_control: UnixStream,
    child_console: UnixStream,
}

impl Sockets {
    fn make() -> io::Result<Sockets> {
        let (control, child_control) = UnixStream::pair()?;
        let (console, child_console) = UnixStream::pair()?;
        Ok(Sockets { control, console, child_control, child_console })
    }
}

/// The ends of the sockets that go to the child.
struct Child {
    control: UnixStream,
    console: UnixStream,
}

fn configuration(
    state: &State,
    plan: &Plan,
    parts: &Parts,
    child: Child,
) -> io::Result<(DomainConfig, Descriptors)> {
    let mut hand = Hand { descriptors: plan.process.descriptors() };
    let origin = &plan.beginning.origin;
    let saved = origin.saved().map(Arc::as_ref);
    let domain = DomainConfig {
        name: plan.file.name.clone(),
        domid: plan.domid,
        uuid: crate::uuid::text(plan.uuid),
        memory_mib: plan.file.memory_mib,
        vcpus: plan.file.vcpus,
        maxvcpus: plan.file.maxvcpus,
        cmdline: plan.file.cmdline.clone(),
        kvm_fd: hand.descriptors.hand_copy(&parts.kvm)?,
        backend: parts.backend,
        kernel_fd: hand.descriptors.hand_copy(&parts.kernel)?,
        ramdisk_fd: parts.ramdisk.as_ref().map(|file| hand.descriptors.hand_copy(file)).transpose()?,
        state_fd: origin.state().map(|state| hand.descriptors.hand_copy(state)).transpose()?,
        renewed: plan.beginning.renewed.clone(),
        parked: plan.beginning.parked,
        ram_fd: hand.descriptors.hand_copy(parts.ram.file())?,
        ram: origin.ram_kind(),
        ram_diffs: hand.diffs(saved)?,
        shim_fd: hand.descriptors.hand_copy(&parts.shim)?,
        dirty_fd: Some(hand.descriptors.hand_copy(&parts.dirty)?),
        trace_bell_fd: Some(hand.descriptors.hand_copy(&parts.bell)?),
        control_fd: hand.descriptors.hand(child.control),
        console_fd: hand.descriptors.hand(child.console),
        events_fd: hand.events(state),
        linger_ms: core::linger_ms(&plan.file, saved.is_some()),
        disks: hand.disks(&parts.disks)?,
        vifs: hand.vifs(&parts.vifs)?,
        uid: None,
    };
    Ok((domain, hand.descriptors))
}

fn start(
    domain: &Arc<Domain>,
    process: Spare,
    config: &DomainConfig,
    descriptors: Descriptors,
    reader: ControlReader,
    (state, announcer): (&State, &Arc<Announcer>),
    ended: impl FnOnce(Arc<Domain>, ExitStatus) + Send + 'static,
) -> io::Result<()> {
    let (noticed, state, announcer) = (Arc::clone(domain), state.clone(), Arc::clone(announcer));
    let notices = std::thread::Builder::new().name("control".into());
    let notices = notices.spawn(move || {
        reader.run(|notice| {
            core::before_it_goes(&notice, &noticed, &state, &announcer);
            noticed.take_notice(notice);
        })
    })?;
    let waited = Arc::clone(domain);
    process.adopt(DOMAIN_UID_BASE + config.domid, config, descriptors, move |exit| {
        // Its last words are on the socket still.
        let _ = notices.join();
        ended(waited, exit);
    })
}

/// Ends a process of ours at once.
pub fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // It may be gone already, which is what is wanted.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// The domain's folder; if it was made here and the domain does not come up, it goes again.
struct OwnFolder {
    path: PathBuf,
    made: bool,
}

impl OwnFolder {
    fn make(state: &State, name: &str) -> io::Result<OwnFolder> {
        let path = state.domain(name);
        let made = !path.exists();
        state.make(&path)?;
        Ok(OwnFolder { path, made })
    }

    fn keep(mut self) {
        self.made = false;
    }
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

struct Hand {
    descriptors: Descriptors,
}

impl Hand {
    fn disks(&mut self, disks: &[Disk]) -> io::Result<Vec<DiskConfig>> {
        let hand = |disk: &Disk| {
            Ok(DiskConfig {
                vdev: disk.spec.vdev.clone(),
                base_fd: self.descriptors.hand_copy(&disk.base)?,
                frozen_fds: disk
                    .frozen
                    .iter()
                    .map(|layer| self.descriptors.hand_copy(layer))
                    .collect::<io::Result<_>>()?,
                layer_fd: disk.layer.as_ref().map(|layer| self.descriptors.hand_copy(layer)).transpose()?,
                read_only: disk.spec.read_only,
            })
        };
        disks.iter().map(hand).collect()
    }

    fn diffs(&mut self, saved: Option<&Saved>) -> io::Result<Vec<RamDiff>> {
        let diffs = saved.map(Saved::ram_diffs).transpose().map_err(io::Error::other)?.unwrap_or_default();
        let mut hand = |file: File| self.descriptors.hand(file);
        Ok(diffs.into_iter().map(|(data, map)| RamDiff { data_fd: hand(data), map_fd: hand(map) }).collect())
    }

    fn vifs(&mut self, vifs: &[Vif]) -> io::Result<Vec<VifConfig>> {
        let hand = |vif: &Vif| {
            Ok(VifConfig {
                mac: vif.mac.clone(),
                port_fd: self.descriptors.hand_copy(&vif.port.memory)?,
                to_switch_fd: self.descriptors.hand_copy(&vif.port.to_switch)?,
                from_switch_fd: self.descriptors.hand_copy(&vif.port.from_switch)?,
            })
        };
        vifs.iter().map(hand).collect()
    }

    // Without logsink a domain runs all the same: a sensor never waits for the sink.
    fn events(&mut self, state: &State) -> Option<i32> {
        let socket = UnixStream::connect(state.events_socket()).ok()?;
        Some(self.descriptors.hand(socket))
    }
}

fn last_line(mut log: File) -> String {
    let mut text = String::new();
    let read =
        log.seek(SeekFrom::Start(0)).and_then(|_| Read::take(&mut log, 64 * 1024).read_to_string(&mut text));
    match (read, text.lines().rfind(|line| !line.trim().is_empty())) {
        (Ok(_), Some(line)) => line.trim_start_matches("honeynet: ").to_owned(),
        _ => "its process said nothing".to_owned(),
    }
}

/// Where what the VMM of a domain wrote lies.
pub fn vmm_log(state: &State, name: &str) -> PathBuf {
    Path::new(&state.domain(name)).join("vmm.log")
}
