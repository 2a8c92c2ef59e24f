//! One domain, whole: its memory, vcpus, devices and the threads that drive them. Built from plain parts; opens nothing.
//!
//! Threads: one a vcpu; one that serves xenstore and the console; a worker a device. The caller keeps the [`Machine`] to pause,
//! shut down and look.

mod begin;
pub mod state;
mod write_log;

use std::os::fd::{OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::{io, thread};

use rustix::event::{EventfdFlags, eventfd};

use crate::builder::BuildError;
use crate::cpuid::Place;
use crate::device::Overseen;
use crate::dirty::{DirtyLog, LogRequest};
use crate::evtchn::{Doorbell, EvtchnSetupError};
use crate::hypercall::Shared;
use crate::kernel_image::KernelImage;
use crate::kick::{VcpuKick, VcpuKicks};
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::memory::{GuestMemory, MemoryError, PAGE_SIZE, Region};
use crate::run_loop::{End, Requests, RunLoop, TraceCalls, VcpuSnapshot};
use crate::server::{ConsoleStream, Gate, Server, Wake};
use crate::shim::trace::Trace;
use crate::shim::{Area, Backend, Layout};
use crate::xenbus::{self, BackendError, Device};
use crate::xenstore::Xenstore;
use begin::{Begun, Site, set_availability};
pub use state::{ClockState, DomainState, NotSaved, Pages, StateError};
use write_log::WriteLog;
pub use write_log::WriteLogError;

/// Why a domain cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM refused.
    #[error("kvm refused the domain")]
    Kvm(#[from] KvmError),
    /// RAM or the shim's memory cannot be mapped or filled.
    #[error("cannot set up the domain's memory")]
    Memory(#[from] MemoryError),
    /// Kernel and initramfs do not fit.
    #[error("cannot build the domain")]
    Build(#[from] BuildError),
    /// No event channels.
    #[error("cannot set up event channels")]
    Events(#[from] EvtchnSetupError),
    /// No port free for console or xenstore.
    #[error("cannot allocate a port: {0}")]
    Port(crate::errno::Errno),
    /// A node of xenstore could not be written.
    #[error("cannot write xenstore: {0}")]
    Store(#[from] crate::xenstore::StoreError),
    /// The page of the console or of xenstore is not in memory.
    #[error("cannot attach the domain's console and xenstore rings")]
    Ring(#[from] crate::ring::bytes::ByteRingError),
    /// The saved domain is none that this build can go on with.
    #[error(transparent)]
    State(#[from] StateError),
    /// A device of a saved domain cannot be taken up.
    #[error("device {name} of the saved domain cannot be taken up")]
    Device {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: BackendError,
    },
    /// A descriptor or a thread could not be had.
    #[error("cannot set up the domain's threads")]
    Io(#[from] io::Error),
}

/// What a domain is made of.
pub struct Parts<'a> {
    /// `/dev/kvm`.
    pub kvm_fd: RawFd,
    /// What [`crate::kvm::probe`] says of it.
    pub backend: Backend,
    /// How many vcpus the guest may have, and how many of these are offered at its start.
    pub vcpus: VcpuCounts,
    /// RAM; its base is 0.
    pub ram: Region,
    /// The shim's memory, of [`Layout::shim_bytes`] bytes at [`SHIM_GPA`]; who else maps it reads the trace.
    pub shim: Region,
    /// An eventfd that is rung when the trace's reader should look.
    pub trace_bell: Option<OwnedFd>,
    /// Number.
    pub domid: u32,
    /// Name, shown to the guest in xenstore.
    pub name: &'a str,
    /// UUID's bytes.
    pub uuid: [u8; 16],
    /// How it begins.
    pub origin: Origin<'a>,
    /// The console's stream: what the guest writes goes out, what comes in is typed.
    pub console: OwnedFd,
    /// Devices.
    pub devices: Vec<Offered>,
    /// Where it is noted which pages and clusters are written, when that is asked for.
    pub dirty_log: Option<DirtyLog>,
}

/// How a domain begins.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    /// With a kernel's first instruction.
    Boot(Boot<'a>),
    /// Where it was saved; RAM and the shim's memory hold what they held then.
    Saved(&'a DomainState),
}

/// What is booted.
#[derive(Clone, Copy)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a KernelImage<'a>,
    /// The initramfs.
    pub ramdisk: Option<&'a [u8]>,
    /// Kernel command line.
    pub cmdline: &'a str,
}

/// A device for the domain.
pub struct Offered {
    /// What it is.
    pub device: Device,
    /// Who serves it.
    pub backend: Box<dyn xenbus::Backend>,
    /// How it is seen from outside.
    pub overseen: Arc<dyn Overseen>,
}

/// How many vcpus a domain has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuCounts {
    /// All that there ever may be, 1 to [`crate::shim::VCPUS_MAX`].
    pub all: u32,
    /// Those that the guest is told to use at its start: the first ones.
    pub online: u32,
}

impl VcpuCounts {
    /// All from the start.
    pub fn all_online(vcpus: u32) -> VcpuCounts {
        VcpuCounts { all: vcpus, online: vcpus }
    }
}

/// Why the number of vcpus cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum VcpuSetError {
    /// Too many, or none.
    #[error("a domain with {all} vcpus cannot have {online} online")]
    Count {
        /// Asked for.
        online: u32,
        /// There are.
        all: u32,
    },
    /// Xenstore refused.
    #[error("cannot write xenstore: {0}")]
    Store(#[from] crate::xenstore::StoreError),
}

/// Where each vcpu stood last.
type Snapshots = Vec<Arc<Mutex<VcpuSnapshot>>>;

/// Devices as they are seen from outside, by name: `vbd-51712`, `vif-0`.
type NamedDevices = Vec<(String, Arc<dyn Overseen>)>;

/// A running domain.
pub struct Machine {
    shared: Shared,
    kicks: Arc<VcpuKicks>,
    requests: Arc<Requests>,
    snapshots: Snapshots,
    devices: NamedDevices,
    store: Xenstore,
    pages: Pages,
    gate: Arc<Gate>,
    write_log: WriteLog,
    backend: Backend,
    vcpus: Vec<JoinHandle<()>>,
    ends: Receiver<End>,
    start: Arc<Start>,
    server: JoinHandle<()>,
    server_stop: OwnedFd,
}

impl Machine {
    /// Builds the domain and starts its threads; no instruction of the guest runs before [`Machine::release`].
    pub fn build(parts: Parts<'_>) -> Result<Machine, MachineError> {
        let backend = parts.backend;
        let layout = Layout { ram_bytes: parts.ram.bytes() & !(PAGE_SIZE - 1), vcpus: parts.vcpus.all };
        let memory = GuestMemory::new(parts.ram.clone(), Some(parts.shim.clone()));
        let kicks =
            Arc::new(VcpuKicks((0..layout.vcpus).map(|_| VcpuKick::new()).collect::<io::Result<_>>()?));
        let (wake, server_stop) = (event()?, event()?);
        let bell: Arc<dyn Doorbell> = Arc::new(Wake(wake.try_clone()?));
        let site =
            Site { domid: parts.domid, backend, layout, memory: memory.clone(), kicks: kicks.clone(), bell };
        let begun = match parts.origin {
            Origin::Boot(boot) => {
                begin::boot(site, &boot, parts.name, parts.uuid, parts.vcpus.online, parts.devices)?
            }
            Origin::Saved(state) => begin::restore(site, state, parts.devices)?,
        };
        let vm = Arc::new(Vm::new(parts.kvm_fd, &memory)?);
        let of_kvm = make_vcpus(&vm, &begun, &layout, backend, parts.origin)?;
        let clock = begun.set_clock(of_kvm[0].0.tsc_khz()?, &layout, &memory)?;

        let (vcpus, early_console) = (begun.vcpus, Arc::new(ConsoleStream(parts.console.try_clone()?)));
        let shared =
            Shared { memory, layout, events: begun.events, vcpus, clock, early_console, uuid: parts.uuid };
        let requests = Arc::new(Requests::default());
        let snapshots: Snapshots = (0..layout.vcpus).map(|_| Arc::default()).collect();
        let gate = Arc::new(Gate::default());
        let server = Server {
            bus: begun.bus,
            console: begun.console,
            console_channel: begun.console_channel,
            stream: parts.console,
            wake,
            stop: server_stop.try_clone()?,
            complaints: 0,
            gate: gate.clone(),
        };
        let server = thread::Builder::new().name("xenstore".into()).spawn(move || server.run())?;
        let ((end, ends), mut waiting, mut threads) = (channel(), Vec::new(), Vec::new());
        for (index, (vcpu, started)) in of_kvm.into_iter().enumerate() {
            let bell = parts.trace_bell.as_ref().map(OwnedFd::try_clone).transpose()?;
            let run_loop = RunLoop {
                vcpu,
                area: shared.vcpus.area(index).clone(),
                index: index as u32,
                shared: shared.clone(),
                kicks: kicks.clone(),
                requests: requests.clone(),
                snapshot: snapshots[index].clone(),
                trace: TraceCalls { trace: Trace::new(&parts.shim, index as u32)?, bell },
                started,
            };
            let (go, thread) = spawn_vcpu(run_loop, vm.clone(), Ended(end.clone()))?;
            waiting.push(go);
            threads.push(thread);
        }
        Ok(Machine {
            shared,
            kicks,
            requests,
            snapshots,
            devices: begun.devices,
            store: begun.store,
            pages: begun.pages,
            gate,
            write_log: WriteLog::new(vm, parts.dirty_log, &parts.ram),
            backend,
            vcpus: threads,
            ends,
            start: Arc::new(Start(Mutex::new(waiting))),
            server,
            server_stop,
        })
    }

    /// Builds the domain and lets it run.
    pub fn start(parts: Parts<'_>) -> Result<Machine, MachineError> {
        let machine = Machine::build(parts)?;
        machine.release();
        Ok(machine)
    }

    /// Lets the vcpus run for the first time.
    pub fn release(&self) {
        self.start.give();
    }

    /// Holds everything but the vcpus, which are not released yet; [`Handle::unpause`] lets all of it go.
    pub fn park(&self) {
        self.gate.close();
        self.devices.iter().for_each(|(_, device)| device.pause());
    }

    /// Waits until the domain ends.
    pub fn wait(self) -> End {
        // The first one that ends ends the others: what one of them says of its own end counts.
        let end = self.ends.recv().unwrap_or(End::Stopped);
        self.requests.stop(&self.kicks);
        self.start.give();
        for vcpu in self.vcpus {
            // Its end was told also if it panicked.
            let _ = vcpu.join();
        }
        let _ = rustix::io::write(&self.server_stop, &1u64.to_ne_bytes());
        // It brings out what the guest wrote last, and closes the devices. If it panicked, the domain is at its end all the same.
        let _ = self.server.join();
        end
    }

    /// Where RAM is mapped in this process.
    pub fn ram_address(&self) -> u64 {
        self.shared.memory.ram().host_addr()
    }

    /// How to reach it from other threads while one waits.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
            kicks: self.kicks.clone(),
            requests: self.requests.clone(),
            snapshots: self.snapshots.clone(),
            devices: self.devices.clone(),
            store: self.store.clone(),
            pages: self.pages,
            gate: self.gate.clone(),
            start: self.start.clone(),
            write_log: self.write_log.clone(),
            backend: self.backend,
        }
    }
}

/// What the vcpus' threads wait for before their first instruction.
struct Start(Mutex<Vec<Sender<()>>>);

impl Start {
    /// Gives it, once.
    fn give(&self) {
        for vcpu in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It waits, unless the domain could not be built.
            let _ = vcpu.send(());
        }
    }
}

/// A running domain, from other threads.
#[derive(Clone)]
pub struct Handle {
    shared: Shared,
    kicks: Arc<VcpuKicks>,
    requests: Arc<Requests>,
    snapshots: Snapshots,
    devices: NamedDevices,
    store: Xenstore,
    pages: Pages,
    gate: Arc<Gate>,
    start: Arc<Start>,
    write_log: WriteLog,
    backend: Backend,
}

impl Handle {
    /// Stops vcpus, xenstore and devices, and tells where the vcpus stand that ever ran.
    pub fn pause(&self) -> Vec<VcpuSnapshot> {
        self.requests.pause(&self.kicks);
        self.gate.close();
        self.devices.iter().for_each(|(_, device)| device.pause());
        let ran = (0..self.snapshots.len()).filter(|vcpu| self.shared.vcpus.is_initialised(*vcpu));
        ran.map(|vcpu| self.stand(vcpu)).collect()
    }

    fn stand(&self, vcpu: usize) -> VcpuSnapshot {
        self.snapshots[vcpu].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What there is of the paused domain beside its memory and its disks.
    ///
    /// # Errors
    /// KVM would not tell a vcpu's registers.
    pub fn save(&self) -> Result<DomainState, NotSaved> {
        let kept = |vcpu: usize| self.stand(vcpu).kept.ok_or(NotSaved(vcpu));
        let vcpus = (0..self.snapshots.len()).map(kept).collect::<Result<_, _>>()?;
        let (lives, tables) = self.shared.vcpus.save();
        Ok(DomainState {
            version: state::VERSION,
            shim: state::shim_id(self.backend),
            domid: self.store.domid(),
            backend: self.backend,
            ram_bytes: self.shared.layout.ram_bytes,
            clock: ClockState::now(&self.shared.clock),
            vcpus,
            lives,
            tables,
            channels: self.shared.events.save(),
            store: self.store.save(),
            pages: self.pages,
        })
    }

    /// Has it noted which pages and clusters are written; the domain may run or stand.
    ///
    /// # Errors
    /// It was built without a log; KVM refused.
    pub fn log_writes(&self, request: LogRequest) -> Result<(), WriteLogError> {
        self.write_log.ask(request)
    }

    /// Goes on.
    pub fn unpause(&self) {
        self.gate.open();
        self.devices.iter().for_each(|(_, device)| device.unpause());
        self.requests.unpause();
        self.start.give();
    }

    /// Ends the domain at once.
    pub fn destroy(&self) {
        self.requests.stop(&self.kicks);
        self.start.give();
    }

    /// Asks the guest for `poweroff` or `reboot`, as xl does.
    pub fn ask(&self, what: &str) -> Result<(), crate::xenstore::StoreError> {
        self.store.write(&format!("{}/control/shutdown", self.store.home()), what)
    }

    /// The domain's xenstore.
    pub fn store(&self) -> &Xenstore {
        &self.store
    }

    /// System time in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.shared.clock.now_ns()
    }

    /// What went through each device so far: `vbd-51712`, `vif-0`.
    pub fn device_counts(&self) -> Vec<(&str, Vec<(&'static str, u64)>)> {
        self.devices.iter().map(|(name, device)| (name.as_str(), device.counts())).collect()
    }

    /// Statistics of each vcpu's shim, in the order of `shim/area.h`.
    pub fn shim_counts(&self) -> Vec<[u64; 14]> {
        self.shared.vcpus.areas().iter().map(Area::counts).collect()
    }

    /// Lets the guest use so many vcpus, at least one, as `xl vcpu-set` does: it takes the others offline itself.
    ///
    /// # Errors
    /// The number that there are, if it is more.
    pub fn set_vcpus(&self, online: u32) -> Result<(), VcpuSetError> {
        let all = self.shared.layout.vcpus;
        if online == 0 || online > all {
            return Err(VcpuSetError::Count { online, all });
        }
        Ok(set_availability(&self.store, all, online)?)
    }

    /// Which vcpus are up.
    pub fn vcpus_up(&self) -> Vec<bool> {
        (0..self.shared.vcpus.count()).map(|vcpu| self.shared.vcpus.is_up(vcpu)).collect()
    }

    /// How KVM runs here.
    pub fn backend(&self) -> Backend {
        self.backend
    }
}

/// Tells how a vcpu ended, also if its thread panicked.
struct Ended(Sender<End>);

impl Drop for Ended {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.send(End::Crash("a vcpu's thread panicked".to_owned()));
        }
    }
}

/// An eventfd that nobody has rung.
fn event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// KVM's vcpus, and of each whether it has been in the guest: those of a saved domain are what they were.
fn make_vcpus(
    vm: &Vm,
    begun: &Begun,
    layout: &Layout,
    backend: Backend,
    origin: Origin<'_>,
) -> Result<Vec<(Vcpu, bool)>, MachineError> {
    let make = |index: u32| {
        let place = Place { vcpu: index as u8, vcpus: layout.vcpus as u8 };
        let mut vcpu = Vcpu::new(vm, place, backend, layout.window_va(index), begun.cr3.0)?;
        if layout.vcpus > 1 {
            vcpu.tell_preemption(begun.vcpus.area(index as usize).steal_gpa());
        }
        let Origin::Saved(state) = origin else { return Ok((vcpu, false)) };
        let kept = &state.vcpus[index as usize];
        vcpu.load(&kept.registers)?;
        Ok((vcpu, kept.started))
    };
    (0..layout.vcpus).map(make).collect()
}

/// A vcpu's thread, which waits for its release.
fn spawn_vcpu(run_loop: RunLoop, vm: Arc<Vm>, ended: Ended) -> io::Result<(Sender<()>, JoinHandle<()>)> {
    let (release, released) = channel();
    let vcpu = thread::Builder::new().name(format!("vcpu{}", run_loop.index)).spawn(move || {
        let end = match released.recv() {
            Ok(()) => run_loop.run(),
            Err(_) => End::Stopped,
        };
        drop(vm);
        // Who waits has gone when the first vcpu's end was told.
        let _ = ended.0.send(end);
    })?;
    Ok((release, vcpu))
}
