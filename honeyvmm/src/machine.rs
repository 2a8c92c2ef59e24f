//! One domain, whole: its memory, vcpus, devices and the threads that drive them. Built from plain parts; opens nothing.
//!
//! Threads: one a vcpu; one that serves xenstore and the console; a worker a device. The caller keeps the [`Machine`] to pause,
//! shut down and look.

use std::ops::Range;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::{io, thread};

use rustix::event::{EventfdFlags, eventfd};

use crate::builder::{self, BuildError, Ports, StartOfDay};
use crate::clock::Clock;
use crate::console::Console;
use crate::cpuid::Place;
use crate::device::Overseen;
use crate::evtchn::{Doorbell, EventChannels, EvtchnSetupError};
use crate::grant::GrantTable;
use crate::hypercall::Shared;
use crate::kernel_image::KernelImage;
use crate::kick::{VcpuKick, VcpuKicks};
use crate::kvm::{KvmError, Vcpu, Vm};
use crate::memory::{Access, Gpa, GuestMemory, Gva, MemoryError, PAGE_SIZE, Region};
use crate::run_loop::{End, Requests, RunLoop, TraceCalls, VcpuSnapshot};
use crate::server::{ConsoleStream, Server, Wake};
use crate::shim::trace::Trace;
use crate::shim::{self, Area, Backend, Field, GRANT_FRAMES, Layout, Register};
use crate::vcpus::Vcpus;
use crate::xenbus::{self, Device, Xenbus};
use crate::xenstore::Xenstore;

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
    /// The kernel.
    pub kernel: &'a KernelImage<'a>,
    /// The initramfs.
    pub ramdisk: Option<&'a [u8]>,
    /// Kernel command line.
    pub cmdline: &'a str,
    /// The console's stream: what the guest writes goes out, what comes in is typed.
    pub console: OwnedFd,
    /// Devices.
    pub devices: Vec<Offered>,
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
    /// All that there ever may be, 1 to [`shim::VCPUS_MAX`].
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
    backend: Backend,
    vcpus: Vec<JoinHandle<()>>,
    ends: Receiver<End>,
    release: Vec<Sender<()>>,
    server: JoinHandle<()>,
    server_stop: OwnedFd,
}

fn set_shared_info(memory: &GuestMemory, layout: &Layout, clock: &Clock) -> Result<(), MemoryError> {
    const MASKS: u64 = 2048 + 512;
    const WALL_CLOCK: u64 = 3072;
    let page = layout.shared_info();
    for vcpu in 0..u64::from(layout.vcpus) {
        memory.write_u8(page.offset(64 * vcpu + 1), 1)?; // events masked
        memory.write(page.offset(64 * vcpu + 32), &clock.time_info())?;
    }
    memory.fill(page.offset(MASKS), 0xff, 512)?;
    let (seconds, nanoseconds) = clock.wall_clock_base();
    memory.write_u32(page.offset(WALL_CLOCK), 2)?; // even: not being written
    memory.write_u32(page.offset(WALL_CLOCK + 4), (seconds & 0xffff_ffff) as u32)?;
    memory.write_u32(page.offset(WALL_CLOCK + 8), nanoseconds)?;
    memory.write_u32(page.offset(WALL_CLOCK + 12), (seconds >> 32) as u32)
}

fn set_clock(area: &Area, clock: &Clock) {
    area.set(Field::TscBase, clock.tsc_base());
    area.set(Field::TscScale, clock.packed_scale());
}

fn set_start(area: &Area, start: &StartOfDay) {
    area.set(Field::KernelCr3, start.cr3.0);
    area.set(Field::CurrentCr3, start.cr3.0);
    area.set_gate_cr3(start.cr3.0);
    for (register, value) in [
        (Register::Rip, start.entry.0),
        (Register::Rsi, start.start_info.0),
        (Register::Rsp, start.stack.0),
        (Register::Rflags, 0x202),
    ] {
        area.set_register(register, value);
    }
}

fn write_home(
    store: &Xenstore,
    parts: &Parts<'_>,
    start: &StartOfDay,
    ports: Ports,
    layout: &Layout,
) -> Result<(), MachineError> {
    let home = store.home();
    let uuid: String = parts.uuid.iter().map(|b| format!("{b:02x}")).collect();
    let vm =
        format!("/vm/{}-{}-{}-{}-{}", &uuid[..8], &uuid[8..12], &uuid[12..16], &uuid[16..20], &uuid[20..]);
    let kib = (layout.ram_bytes / 1024).to_string();
    for (path, value) in [
        ("name", parts.name.to_owned()),
        ("domid", parts.domid.to_string()),
        ("vm", vm),
        ("memory/target", kib.clone()),
        ("memory/static-max", kib),
        ("console/ring-ref", start.console.0.to_string()),
        ("console/port", ports.console.0.to_string()),
        ("console/type", "honeyvmm".to_owned()),
        ("store/ring-ref", start.store.0.to_string()),
        ("store/port", ports.store.0.to_string()),
        ("control/platform-feature-multiprocessor-suspend", "0".to_owned()),
    ] {
        store.write(&format!("{home}/{path}"), &value)?;
    }
    Ok(set_availability(store, layout.vcpus, parts.vcpus.online)?)
}

/// Tells the guest which of its vcpus it may use, as xl does: the first ones.
fn set_availability(store: &Xenstore, all: u32, online: u32) -> Result<(), crate::xenstore::StoreError> {
    for vcpu in 0..all {
        let value = if vcpu < online { "online" } else { "offline" };
        store.write(&format!("{}/cpu/{vcpu}/availability", store.home()), value)?;
    }
    Ok(())
}

/// What a booting kernel touches is mapped while it begins (see [`Region::map_now`]), in the order in which it comes there: its image, also
/// where that is zero and was not copied; the end of RAM, with this share for memmap (1/64) and other early tables; what it allocates
/// upwards from the image's end, of which no decoy has less than that share in use.
const EARLY_SHARE: u64 = 32;
const AHEAD_SHARE: u64 = 5;
const AHEAD_STEP_BYTES: u64 = 1 << 20;

fn map_ahead(ram: Region, image: Range<Gpa>) -> io::Result<()> {
    let share = |share: u64| ram.bytes() / share & !(PAGE_SIZE - 1);
    let early = ram.bytes() - share(EARLY_SHARE);
    let beyond = image.end.0..early.min(image.end.0 + share(AHEAD_SHARE));
    let ranges = [image.start.0..image.end.0, early..ram.bytes(), beyond];
    let map = move || {
        for range in ranges {
            for at in range.clone().step_by(AHEAD_STEP_BYTES as usize) {
                ram.map_now(Gpa(at), AHEAD_STEP_BYTES.min(range.end - at));
            }
        }
    };
    thread::Builder::new().name("map-ahead".into()).spawn(map).map(drop)
}

impl Machine {
    /// Builds the domain and starts its threads; no instruction of the guest runs before [`Machine::release`].
    pub fn build(parts: Parts<'_>) -> Result<Machine, MachineError> {
        let backend = parts.backend;
        let layout = Layout { ram_bytes: parts.ram.bytes() & !(PAGE_SIZE - 1), vcpus: parts.vcpus.all };
        let memory = GuestMemory::new(parts.ram.clone(), Some(parts.shim.clone()));
        let areas = shim::populate(&memory, &layout, backend)?;
        let kicks = (0..layout.vcpus).map(|_| VcpuKick::new()).collect::<io::Result<_>>()?;
        let kicks = Arc::new(VcpuKicks(kicks));
        let vcpus = Arc::new(Vcpus::new(areas, kicks.clone()));
        let events = EventChannels::new(memory.clone(), layout.shared_info(), vcpus.count(), kicks.clone())?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let bell: Arc<dyn Doorbell> = Arc::new(Wake(wake.try_clone()?));
        let store_channel = events.alloc_backend_port(bell.clone()).map_err(MachineError::Port)?;
        let console_channel = events.alloc_backend_port(bell).map_err(MachineError::Port)?;
        let ports = Ports { store: store_channel.port(), console: console_channel.port() };
        let start = build(&parts, &memory, &layout, backend, ports)?;
        map_ahead(parts.ram.clone(), start.image.clone())?;

        let store = Xenstore::new(parts.domid);
        write_home(&store, &parts, &start, ports, &layout)?;
        store.attach(memory.clone(), Gpa(start.store.0 * PAGE_SIZE), store_channel)?;
        let console = Console::attach(memory.clone(), Gpa(start.console.0 * PAGE_SIZE))?;
        let grants = GrantTable::new(memory.clone(), layout.grant_table(), GRANT_FRAMES as u32);
        let mut bus = Xenbus::new(store.clone(), parts.domid, memory.clone(), grants, events.clone());
        let devices = add_devices(&mut bus, parts.devices)?;

        let vm = Arc::new(Vm::new(parts.kvm_fd, &memory)?);
        let of_kvm: Vec<Vcpu> = (0..layout.vcpus)
            .map(|index| {
                let place = Place { vcpu: index as u8, vcpus: layout.vcpus as u8 };
                Vcpu::new(&vm, place, backend, layout.window_va(index), start.cr3.0)
            })
            .collect::<Result<_, _>>()?;
        if layout.vcpus > 1 {
            of_kvm.iter().zip(vcpus.areas()).for_each(|(vcpu, area)| vcpu.tell_preemption(area.steal_gpa()));
        }
        let clock = Clock::start(of_kvm[0].tsc_khz()?);
        set_shared_info(&memory, &layout, &clock)?;
        vcpus.areas().iter().for_each(|area| set_clock(area, &clock));
        set_start(vcpus.area(0), &start);

        let early_console = Arc::new(ConsoleStream(parts.console.try_clone()?));
        let shared = Shared { memory, layout, events, vcpus, clock, early_console, uuid: parts.uuid };
        let requests = Arc::new(Requests::default());
        let snapshots: Snapshots = (0..layout.vcpus).map(|_| Arc::default()).collect();
        let server_stop =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let server = Server {
            bus,
            console,
            console_channel,
            stream: parts.console,
            wake,
            stop: server_stop.try_clone()?,
            complaints: 0,
        };
        let server = thread::Builder::new().name("xenstore".into()).spawn(move || server.run())?;
        let (end, ends) = channel();
        let (mut release, mut threads) = (Vec::new(), Vec::new());
        for (index, vcpu) in of_kvm.into_iter().enumerate() {
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
            };
            let (go, thread) = spawn_vcpu(run_loop, vm.clone(), Ended(end.clone()))?;
            release.push(go);
            threads.push(thread);
        }
        Ok(Machine {
            shared,
            kicks,
            requests,
            snapshots,
            devices,
            store,
            backend,
            vcpus: threads,
            ends,
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
        // The threads wait for it, unless they were released already and have come to their end.
        self.release.iter().for_each(|vcpu| {
            let _ = vcpu.send(());
        });
    }

    /// Waits until the domain ends.
    pub fn wait(self) -> End {
        // The first one that ends ends the others: what one of them says of its own end counts.
        let end = self.ends.recv().unwrap_or(End::Stopped);
        self.requests.stop(&self.kicks);
        for vcpu in self.vcpus {
            // Its end was told also if it panicked.
            let _ = vcpu.join();
        }
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
            snapshots: self.snapshots.clone(),
            devices: self.devices.clone(),
            store: self.store.clone(),
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
    snapshots: Snapshots,
    devices: NamedDevices,
    store: Xenstore,
    backend: Backend,
}

impl Handle {
    /// Stops vcpus and devices, and tells where the vcpus stand that ever ran.
    pub fn pause(&self) -> Vec<VcpuSnapshot> {
        self.requests.pause(&self.kicks);
        self.devices.iter().for_each(|(_, device)| device.pause());
        let stand = |(_, snapshot): (_, &Arc<Mutex<VcpuSnapshot>>)| {
            *snapshot.lock().unwrap_or_else(PoisonError::into_inner)
        };
        let ran = self.snapshots.iter().enumerate();
        ran.filter(|(vcpu, _)| self.shared.vcpus.is_initialised(*vcpu)).map(stand).collect()
    }

    /// Goes on.
    pub fn unpause(&self) {
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

/// Offers the devices; what stays is their view from outside, by name.
fn add_devices(bus: &mut Xenbus, offered: Vec<Offered>) -> Result<NamedDevices, MachineError> {
    let mut devices = Vec::new();
    for Offered { device, backend, overseen } in offered {
        devices.push((format!("{}-{}", device.kind.name(), device.id), overseen));
        bus.add(device, backend)?;
    }
    Ok(devices)
}

fn build(
    parts: &Parts<'_>,
    memory: &GuestMemory,
    layout: &Layout,
    backend: Backend,
    ports: Ports,
) -> Result<StartOfDay, MachineError> {
    let image = parts.kernel;
    let notes = image.xen();
    let segments = image.segments().iter().map(|s| (s.paddr, image.segment_bytes(s), s.mem_bytes)).collect();
    let kernel = builder::Kernel { entry: Gva(notes.entry.0), virt_base: Gva(notes.virt_base.0), segments };
    let copy = |at: crate::memory::Gpa| memory.ram().load(at, parts.ramdisk.unwrap_or_default());
    let ramdisk = parts.ramdisk.map(|bytes| (bytes.len() as u64, &copy as &dyn Fn(_) -> _));
    Ok(builder::build(memory, layout, backend, &kernel, ramdisk, parts.cmdline, ports)?)
}
