//! One domain, whole: its memory, vcpu, devices and the threads that drive them. Built from plain parts; opens nothing.
//!
//! Threads: the vcpu's; one that serves xenstore and the console; a worker a device. The caller keeps the [`Machine`] to pause,
//! shut down and look.

mod begin;
pub mod state;

use std::os::fd::{OwnedFd, RawFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::{io, thread};

use rustix::event::{EventfdFlags, eventfd};

use crate::builder::BuildError;
use crate::device::Overseen;
use crate::evtchn::{Doorbell, EvtchnSetupError};
use crate::hypercall::{CpuTables, Shared};
use crate::kernel_image::KernelImage;
use crate::kick::{VcpuKick, VcpuKicks};
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::memory::{GuestMemory, MemoryError, PAGE_SIZE, Region};
use crate::run_loop::{End, Requests, RunLoop, TraceCalls, VcpuSnapshot};
use crate::server::{ConsoleStream, Gate, Server, Wake};
use crate::shim::trace::Trace;
use crate::shim::{Area, Backend, Field, Layout};
use crate::xenbus::{self, BackendError, Device};
use crate::xenstore::Xenstore;
use begin::Place;
pub use state::{ClockState, DomainState, NotSaved, Pages, StateError};

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

/// Devices as they are seen from outside, by name: `vbd-51712`, `vif-0`.
type NamedDevices = Vec<(String, Arc<dyn Overseen>)>;

/// A running domain.
pub struct Machine {
    shared: Shared,
    kicks: Arc<VcpuKicks>,
    requests: Arc<Requests>,
    snapshot: Arc<Mutex<VcpuSnapshot>>,
    devices: NamedDevices,
    store: Xenstore,
    areas: Vec<Area>,
    pages: Pages,
    gate: Arc<Gate>,
    backend: Backend,
    vcpu: JoinHandle<End>,
    release: Sender<()>,
    server: JoinHandle<()>,
    server_stop: OwnedFd,
}

impl Machine {
    /// Makes the domain and starts its threads; no instruction of the guest runs before [`Machine::release`].
    pub fn build(parts: Parts<'_>) -> Result<Machine, MachineError> {
        let backend = parts.backend;
        let layout = Layout { ram_bytes: parts.ram.bytes() & !(PAGE_SIZE - 1), vcpus: 1 };
        let memory = GuestMemory::new(parts.ram.clone(), Some(parts.shim.clone()));
        let kicks = Arc::new(VcpuKicks(vec![VcpuKick::new()?]));
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let bell: Arc<dyn Doorbell> = Arc::new(Wake(wake.try_clone()?));
        let place =
            Place { domid: parts.domid, backend, layout, memory: memory.clone(), kicks: kicks.clone(), bell };
        let begun = match parts.origin {
            Origin::Boot(boot) => begin::boot(place, &boot, parts.name, parts.uuid, parts.devices)?,
            Origin::Saved(state) => begin::restore(place, state, parts.devices)?,
        };
        let vm = Vm::new(parts.kvm_fd, &memory)?;
        let area = begun.areas[0].clone();
        let mut vcpu = Vcpu::new(&vm, 0, backend, area.window_va(), area.get(Field::KernelCr3))?;
        let clock = begun.set_clock(vcpu.tsc_khz()?, &layout, &memory)?;
        let (tables, restored) = match parts.origin {
            Origin::Boot(_) => (CpuTables::default(), false),
            Origin::Saved(state) => {
                vcpu.load(&state.vcpus[0].registers)?;
                (state.vcpus[0].tables.clone(), true)
            }
        };

        let early_console = Arc::new(ConsoleStream(parts.console.try_clone()?));
        let shared = Shared { memory, layout, events: begun.events, clock, early_console, uuid: parts.uuid };
        let (requests, snapshot) =
            (Arc::new(Requests::default()), Arc::new(Mutex::new(VcpuSnapshot::default())));
        let server_stop =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
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
        let run_loop = RunLoop {
            vcpu,
            area,
            index: 0,
            shared: shared.clone(),
            kicks: kicks.clone(),
            requests: requests.clone(),
            snapshot: snapshot.clone(),
            trace: TraceCalls { trace: Trace::new(&parts.shim, 0)?, bell: parts.trace_bell },
            tables,
            restored,
        };
        let (release, vcpu) = spawn_vcpu(run_loop, vm)?;
        Ok(Machine {
            shared,
            kicks,
            requests,
            snapshot,
            devices: begun.devices,
            store: begun.store,
            areas: begun.areas,
            pages: begun.pages,
            gate,
            backend,
            vcpu,
            release,
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
        // The thread waits for it, unless it was released already and has come to its end.
        let _ = self.release.send(());
    }

    /// Waits until the domain ends.
    pub fn wait(self) -> End {
        let end = self.vcpu.join().unwrap_or_else(|_| End::Crash("the vcpu's thread panicked".to_owned()));
        let _ = rustix::io::write(&self.server_stop, &1u64.to_ne_bytes());
        // It brings out what the guest wrote last, and closes the devices. If it panicked, the domain is at its end all the same.
        let _ = self.server.join();
        end
    }

    /// How to reach it from other threads while one waits.
    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
            kicks: self.kicks.clone(),
            requests: self.requests.clone(),
            snapshot: self.snapshot.clone(),
            devices: self.devices.clone(),
            store: self.store.clone(),
            areas: self.areas.clone(),
            pages: self.pages,
            gate: self.gate.clone(),
            backend: self.backend,
        }
    }
}

/// A running domain, from other threads.
#[derive(Clone)]
pub struct Handle {
    shared: Shared,
    kicks: Arc<VcpuKicks>,
    requests: Arc<Requests>,
    snapshot: Arc<Mutex<VcpuSnapshot>>,
    devices: NamedDevices,
    store: Xenstore,
    areas: Vec<Area>,
    pages: Pages,
    gate: Arc<Gate>,
    backend: Backend,
}

impl Handle {
    /// Stops vcpus, devices and xenstore, and tells where the vcpus stand.
    pub fn pause(&self) -> Vec<VcpuSnapshot> {
        self.requests.pause(&self.kicks);
        self.gate.close();
        self.devices.iter().for_each(|(_, device)| device.pause());
        vec![self.snapshot()]
    }

    fn snapshot(&self) -> VcpuSnapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What there is of the paused domain beside its memory and its disks.
    ///
    /// # Errors
    /// KVM would not tell a vcpu's registers.
    pub fn save(&self) -> Result<DomainState, NotSaved> {
        let vcpus = vec![self.snapshot().kept.ok_or(NotSaved(0))?];
        Ok(DomainState {
            version: state::VERSION,
            shim: state::shim_id(self.backend),
            domid: self.store.domid(),
            backend: self.backend,
            ram_bytes: self.shared.layout.ram_bytes,
            clock: ClockState::now(&self.shared.clock),
            vcpus,
            channels: self.shared.events.save(),
            store: self.store.save(),
            pages: self.pages,
        })
    }

    /// Goes on.
    pub fn unpause(&self) {
        self.gate.open();
        self.devices.iter().for_each(|(_, device)| device.unpause());
        self.requests.unpause();
    }

    /// Ends the domain at once.
    pub fn destroy(&self) {
        self.requests.stop(&self.kicks);
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
        self.areas.iter().map(Area::counts).collect()
    }

    /// How KVM runs here.
    pub fn backend(&self) -> Backend {
        self.backend
    }
}

/// The vcpu's thread, which waits for its release.
fn spawn_vcpu(run_loop: RunLoop, vm: Vm) -> io::Result<(Sender<()>, JoinHandle<End>)> {
    let (release, released) = channel();
    let vcpu = thread::Builder::new().name(format!("vcpu{}", run_loop.index)).spawn(move || {
        let end = match released.recv() {
            Ok(()) => run_loop.run(),
            Err(_) => End::Stopped,
        };
        drop(vm);
        end
    })?;
    Ok((release, vcpu))
}
