//! The two ways in which a domain begins: a kernel is booted, or a saved domain goes on. Both give the same parts.

use std::ops::Range;
use std::sync::Arc;
use std::{io, thread};

use super::state::{ClockState, DomainState, Pages};
use super::{Boot, MachineError, NamedDevices, Offered};
use crate::builder::{self, Ports, StartOfDay};
use crate::clock::Clock;
use crate::console::Console;
use crate::evtchn::{BackendChannel, Doorbell, EventChannels};
use crate::grant::GrantTable;
use crate::kick::VcpuKicks;
use crate::memory::{Access, EvtchnPort, Gfn, Gpa, GuestMemory, Gva, MemoryError, PAGE_SIZE, Region};
use crate::shim::{self, Area, Backend, Field, GRANT_FRAMES, Layout, Register};
use crate::vcpus::Vcpus;
use crate::xenbus::Xenbus;
use crate::xenstore::{StoreError, Xenstore};

/// `struct vcpu_time_info` in a `struct vcpu_info`.
const TIME_INFO_AT: u64 = 32;

/// Where a domain is to begin.
pub struct Site {
    pub domid: u32,
    pub backend: Backend,
    pub layout: Layout,
    pub memory: GuestMemory,
    pub kicks: Arc<VcpuKicks>,
    /// Wakes the thread of xenstore and console.
    pub bell: Arc<dyn Doorbell>,
}

/// A domain's parts but for KVM and threads.
pub struct Begun {
    pub vcpus: Arc<Vcpus>,
    /// An L4 table for the vcpus to be made with.
    pub cr3: Gpa,
    pub events: EventChannels,
    pub store: Xenstore,
    pub console: Console,
    pub console_channel: BackendChannel,
    pub bus: Xenbus,
    pub devices: NamedDevices,
    pub pages: Pages,
    began: Beginning,
}

enum Beginning {
    Boot,
    /// The clock at that time, and further `vcpu_time_info`s.
    Saved(ClockState, Vec<Gpa>),
}

impl Begun {
    /// The domain's clock, told to guest and shim.
    pub fn set_clock(
        &self,
        tsc_khz: u32,
        layout: &Layout,
        memory: &GuestMemory,
    ) -> Result<Clock, MemoryError> {
        let clock = match &self.began {
            Beginning::Boot => Clock::start(tsc_khz),
            Beginning::Saved(then, _) => Clock::resume(tsc_khz, then.system_time_now()),
        };
        for area in self.vcpus.areas() {
            area.set(Field::TscBase, clock.tsc_base());
            area.set(Field::TscScale, clock.packed_scale());
        }
        match &self.began {
            Beginning::Boot => set_shared_info(memory, layout, &clock)?,
            Beginning::Saved(_, more) => {
                let infos =
                    (0..self.vcpus.count()).map(|vcpu| self.events.vcpu_info(vcpu).offset(TIME_INFO_AT));
                for at in infos.chain(more.iter().copied()) {
                    memory.write(at, &clock.time_info_of_restored(memory.read_u32(at)?))?;
                }
                set_wall_clock(memory, layout, &clock)?;
            }
        }
        Ok(clock)
    }
}

/// A kernel at its first instruction.
pub fn boot(
    place: Site,
    boot: &Boot<'_>,
    name: &str,
    uuid: [u8; 16],
    online: u32,
    offered: Vec<Offered>,
) -> Result<Begun, MachineError> {
    let Site { domid, backend, layout, memory, kicks, bell } = place;
    let areas = shim::populate(&memory, &layout, backend)?;
    let vcpus = Arc::new(Vcpus::new(areas, kicks.clone()));
    let events = EventChannels::new(memory.clone(), layout.shared_info(), vcpus.count(), kicks)?;
    let store_channel = events.alloc_backend_port(bell.clone()).map_err(MachineError::Port)?;
    let console_channel = events.alloc_backend_port(bell).map_err(MachineError::Port)?;
    let ports = Ports { store: store_channel.port(), console: console_channel.port() };
    let start = build(boot, &memory, &layout, backend, ports)?;
    map_ahead(memory.ram().clone(), start.image.clone())?;
    set_start(vcpus.area(0), &start);
    let pages = Pages { store: (start.store, ports.store.0), console: (start.console, ports.console.0) };

    let store = Xenstore::new(domid);
    write_home(&store, domid, name, uuid, &pages, &layout)?;
    set_availability(&store, layout.vcpus, online)?;
    store.attach(memory.clone(), gpa(start.store), store_channel)?;
    let console = Console::attach(memory.clone(), gpa(start.console))?;
    let mut bus = bus(&store, domid, &memory, &layout, &events);
    let mut devices = Vec::new();
    for Offered { device, backend, overseen } in offered {
        devices.push((device.name(), overseen));
        bus.add(device, backend)?;
    }
    let (cr3, began) = (start.cr3, Beginning::Boot);
    Ok(Begun { vcpus, cr3, events, store, console, console_channel, bus, devices, pages, began })
}

/// A saved domain; its memory holds what it held then.
pub fn restore(place: Site, state: &DomainState, offered: Vec<Offered>) -> Result<Begun, MachineError> {
    // Its number in the host is another; the guest sees xenstore alone, which nobody shares with it.
    let Site { domid: _, backend, layout, memory, kicks, bell } = place;
    let domid = state.domid;
    state.check(backend, &layout)?;
    let areas: Vec<Area> =
        (0..layout.vcpus).map(|vcpu| Area::new(&memory, &layout, backend, vcpu)).collect::<Result<_, _>>()?;
    // What the host's timer was armed for then means nothing now.
    areas.iter().for_each(|area| area.set(Field::Armed, 0));
    let cr3 = Gpa(areas[0].get(Field::KernelCr3));
    let vcpus = Arc::new(Vcpus::restore(areas, kicks.clone(), state.lives, &state.tables));
    let (page, count) = (layout.shared_info(), vcpus.count());
    let events = EventChannels::restore(memory.clone(), page, count, kicks, &state.channels)?;
    let bind = |port| events.bind_backend(EvtchnPort(port), bell.clone()).map_err(MachineError::Port);
    let ((store_page, store_port), (console_page, console_port)) = (state.pages.store, state.pages.console);
    let (store_channel, console_channel) = (bind(store_port)?, bind(console_port)?);
    let store = Xenstore::restore(domid, &state.store)?;
    store.attach_restored(memory.clone(), gpa(store_page), store_channel, &state.store)?;
    let console = Console::attach(memory.clone(), gpa(console_page))?;
    let mut bus = bus(&store, domid, &memory, &layout, &events);
    let mut devices = Vec::new();
    for Offered { device, backend, overseen } in offered {
        let name = device.name();
        bus.resume(&device, backend).map_err(|source| MachineError::Device { name: name.clone(), source })?;
        devices.push((name, overseen));
    }
    let time_areas = state.tables.iter().filter_map(|tables| tables.time_area.map(Gpa)).collect();
    let began = Beginning::Saved(state.clock, time_areas);
    let pages = state.pages;
    Ok(Begun { vcpus, cr3, events, store, console, console_channel, bus, devices, pages, began })
}

fn gpa(page: Gfn) -> Gpa {
    Gpa(page.0 * PAGE_SIZE)
}

fn bus(
    store: &Xenstore,
    domid: u32,
    memory: &GuestMemory,
    layout: &Layout,
    events: &EventChannels,
) -> Xenbus {
    let grants = GrantTable::new(memory.clone(), layout.grant_table(), GRANT_FRAMES as u32);
    Xenbus::new(store.clone(), domid, memory.clone(), grants, events.clone())
}

fn set_shared_info(memory: &GuestMemory, layout: &Layout, clock: &Clock) -> Result<(), MemoryError> {
    const MASKS: u64 = 2048 + 512;
    let page = layout.shared_info();
    for vcpu in 0..u64::from(layout.vcpus) {
        memory.write_u8(page.offset(64 * vcpu + 1), 1)?; // events masked
        memory.write(page.offset(64 * vcpu + 32), &clock.time_info())?;
    }
    memory.fill(page.offset(MASKS), 0xff, 512)?;
    set_wall_clock(memory, layout, clock)
}

/// A version that is even is not being written; the guest reads it when it starts.
fn set_wall_clock(memory: &GuestMemory, layout: &Layout, clock: &Clock) -> Result<(), MemoryError> {
    const WALL_CLOCK: u64 = 3072;
    let page = layout.shared_info();
    let (seconds, nanoseconds) = clock.wall_clock_base();
    memory.write_u32(page.offset(WALL_CLOCK), 2)?;
    memory.write_u32(page.offset(WALL_CLOCK + 4), (seconds & 0xffff_ffff) as u32)?;
    memory.write_u32(page.offset(WALL_CLOCK + 8), nanoseconds)?;
    memory.write_u32(page.offset(WALL_CLOCK + 12), (seconds >> 32) as u32)
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
    domid: u32,
    name: &str,
    uuid: [u8; 16],
    pages: &Pages,
    layout: &Layout,
) -> Result<(), MachineError> {
    let home = store.home();
    let uuid: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    let vm =
        format!("/vm/{}-{}-{}-{}-{}", &uuid[..8], &uuid[8..12], &uuid[12..16], &uuid[16..20], &uuid[20..]);
    let kib = (layout.ram_bytes / 1024).to_string();
    for (path, value) in [
        ("name", name.to_owned()),
        ("domid", domid.to_string()),
        ("vm", vm),
        ("memory/target", kib.clone()),
        ("memory/static-max", kib),
        ("console/ring-ref", pages.console.0.0.to_string()),
        ("console/port", pages.console.1.to_string()),
        ("console/type", "honeyvmm".to_owned()),
        ("store/ring-ref", pages.store.0.0.to_string()),
        ("store/port", pages.store.1.to_string()),
        ("control/platform-feature-multiprocessor-suspend", "0".to_owned()),
    ] {
        store.write(&format!("{home}/{path}"), &value)?;
    }
    Ok(())
}

/// Tells the guest which of its vcpus it may use, as xl does: the first ones.
pub fn set_availability(store: &Xenstore, all: u32, online: u32) -> Result<(), StoreError> {
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
    let share = |share: u64| (ram.bytes() / share) & !(PAGE_SIZE - 1);
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

fn build(
    boot: &Boot<'_>,
    memory: &GuestMemory,
    layout: &Layout,
    backend: Backend,
    ports: Ports,
) -> Result<StartOfDay, MachineError> {
    let image = boot.kernel;
    let notes = image.xen();
    let segments = image.segments().iter().map(|s| (s.paddr, image.segment_bytes(s), s.mem_bytes)).collect();
    let kernel = builder::Kernel { entry: Gva(notes.entry.0), virt_base: Gva(notes.virt_base.0), segments };
    let copy = |at: Gpa| memory.ram().load(at, boot.ramdisk.unwrap_or_default());
    let ramdisk = boot.ramdisk.map(|bytes| (bytes.len() as u64, &copy as &dyn Fn(_) -> _));
    Ok(builder::build(memory, layout, backend, &kernel, ramdisk, boot.cmdline, ports)?)
}
