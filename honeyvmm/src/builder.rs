//! The domain builder: what a PV kernel finds when it starts (Xen's public/xen.h, "Xen start of day").
//!
//! In physical order: kernel, initramfs, p2m list, start_info, xenstore page, console page, stack, page tables. The initial
//! mapping ends exactly with the last page table: Linux takes what lies beyond for its own and warns of insecure mappings otherwise.

use std::ops::Range;

use crate::memory::{Access, EvtchnPort, Gfn, Gpa, GuestMemory, Gva, MemoryError, PAGE_SIZE};
use crate::shim::{Backend, Layout, install_slots};

const MAGIC: &[u8] = b"xen-3.0-x86_64";
const SIF_MOD_START_PFN: u32 = 1 << 3;
/// `MAX_GUEST_CMDLINE` of xen.h, with its NUL.
const CMDLINE_BYTES: usize = 1024;
const TABLE_FLAGS: u64 = 0x67; // present, writable, user, accessed, dirty
/// A kernel linked at 0xffffffff80000000 reaches 1 GiB with one L3 table's last two entries; Linux's image has 512 MiB of it.
const MAPPED_BYTES_MAX: u64 = 512 << 20;

/// Why a domain cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// RAM is too small for what must be in it at the start.
    #[error(
        "domain memory of {ram_mib} MiB is too small: kernel, initramfs and page tables need {needed_mib} MiB"
    )]
    TooSmall {
        /// RAM.
        ram_mib: u64,
        /// What is needed.
        needed_mib: u64,
    },
    /// More than the initial mapping may hold.
    #[error(
        "kernel and initramfs together take {0} MiB, more than the 512 MiB that a kernel may have mapped at its start"
    )]
    TooLarge(u64),
    /// Too long for start_info.
    #[error("kernel command line has {0} bytes, the limit is 1023")]
    CmdlineTooLong(usize),
    /// A segment is not in RAM.
    #[error("kernel segment at {paddr:#x} of {bytes} bytes does not fit the domain's memory")]
    Segment {
        /// Its physical address.
        paddr: u64,
        /// Its length.
        bytes: u64,
        /// Why.
        #[source]
        source: MemoryError,
    },
    /// Writing a structure failed.
    #[error("cannot write the domain's start-of-day structures")]
    Memory(#[from] MemoryError),
}

/// A kernel ready to be copied in.
#[derive(Debug)]
pub struct Kernel<'a> {
    /// Entry point (note XEN_ELFNOTE_ENTRY).
    pub entry: Gva,
    /// Where physical 0 is mapped (note XEN_ELFNOTE_VIRT_BASE).
    pub virt_base: Gva,
    /// Physical address, contents, and length in memory of each segment.
    pub segments: Vec<(Gpa, &'a [u8], u64)>,
}

/// What start_info tells beside memory.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Of xenstore.
    pub store: EvtchnPort,
    /// Of the console.
    pub console: EvtchnPort,
}

/// Where the built domain starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOfDay {
    /// Instruction pointer.
    pub entry: Gva,
    /// Stack pointer.
    pub stack: Gva,
    /// start_info, for RSI.
    pub start_info: Gva,
    /// L4 table.
    pub cr3: Gpa,
    /// The xenstore ring's page.
    pub store: Gfn,
    /// The console ring's page.
    pub console: Gfn,
    /// Kernel, initramfs and what is listed above. What lies beyond is the kernel's to allocate from.
    pub image: Range<Gpa>,
}

/// Frame numbers of the start-of-day structures.
struct Plan {
    ramdisk: u64,
    p2m: u64,
    start_info: u64,
    store: u64,
    console: u64,
    stack: u64,
    tables: u64,
    table_count: u64,
}

fn plan(kernel_end: u64, ramdisk_bytes: u64, ram_bytes: u64) -> Result<Plan, BuildError> {
    let frames = |bytes: u64| bytes.div_ceil(PAGE_SIZE);
    let ramdisk = frames(kernel_end);
    let p2m = ramdisk + frames(ramdisk_bytes);
    let start_info = p2m + frames(ram_bytes / PAGE_SIZE * 8);
    let tables = start_info + 4;
    // L4, L3, L2, and L1 tables that map themselves too.
    let mut table_count = 4;
    while 3 + (tables + table_count).div_ceil(512) > table_count {
        table_count += 1;
    }
    let end = (tables + table_count) * PAGE_SIZE;
    if end > MAPPED_BYTES_MAX {
        return Err(BuildError::TooLarge(end >> 20));
    }
    if end > ram_bytes {
        return Err(BuildError::TooSmall { ram_mib: ram_bytes >> 20, needed_mib: end.div_ceil(1 << 20) });
    }
    let (store, console, stack) = (start_info + 1, start_info + 2, start_info + 3);
    Ok(Plan { ramdisk, p2m, start_info, store, console, stack, tables, table_count })
}

/// Four levels that map physical 0 up to the last table at `virt_base`.
fn write_tables(memory: &GuestMemory, virt_base: Gva, plan: &Plan) -> Result<Gpa, MemoryError> {
    let page = |n: u64| Gpa((plan.tables + n) * PAGE_SIZE);
    let (l4, l3, l2) = (page(0), page(1), page(2));
    let index = |level: u64| virt_base.0 >> (12 + 9 * (level - 1)) & 511;
    memory.fill(l4, 0, plan.table_count * PAGE_SIZE)?;
    memory.write_u64(l4.offset(8 * index(4)), l3.0 | TABLE_FLAGS)?;
    memory.write_u64(l3.offset(8 * index(3)), l2.0 | TABLE_FLAGS)?;
    let frames = plan.tables + plan.table_count;
    for frame in 0..frames {
        let l1 = page(3 + frame / 512);
        if frame % 512 == 0 {
            memory.write_u64(l2.offset(8 * (index(2) + frame / 512)), l1.0 | TABLE_FLAGS)?;
        }
        memory.write_u64(l1.offset(8 * (frame % 512)), (frame * PAGE_SIZE) | TABLE_FLAGS)?;
    }
    Ok(l4)
}

fn write_p2m(memory: &GuestMemory, first: Gpa, frames: u64) -> Result<(), MemoryError> {
    let list: Vec<u8> = (0..frames).flat_map(u64::to_le_bytes).collect();
    memory.write(first, &list)
}

/// `struct start_info`, as the 64-bit ABI lays it out.
fn start_info_bytes(
    layout: &Layout,
    plan: &Plan,
    virt_base: Gva,
    ramdisk_bytes: u64,
    cmdline: &str,
    ports: Ports,
) -> Vec<u8> {
    let va = |frame: u64| virt_base.0 + frame * PAGE_SIZE;
    let mut out = vec![0u8; 1168];
    let mut put = |at: usize, value: &[u8]| out[at..at + value.len()].copy_from_slice(value);
    put(0, MAGIC);
    put(32, &(layout.ram_bytes / PAGE_SIZE).to_le_bytes());
    put(40, &layout.shared_info().0.to_le_bytes());
    put(48, &SIF_MOD_START_PFN.to_le_bytes());
    put(56, &plan.store.to_le_bytes());
    put(64, &ports.store.0.to_le_bytes());
    put(72, &plan.console.to_le_bytes());
    put(80, &ports.console.0.to_le_bytes());
    put(88, &va(plan.tables).to_le_bytes());
    put(96, &plan.table_count.to_le_bytes());
    put(104, &va(plan.p2m).to_le_bytes());
    put(112, &if ramdisk_bytes > 0 { plan.ramdisk } else { 0 }.to_le_bytes());
    put(120, &ramdisk_bytes.to_le_bytes());
    put(128, cmdline.as_bytes());
    out
}

/// How long an initramfs is, and what puts it at an address.
pub type Ramdisk<'a> = (u64, &'a dyn Fn(Gpa) -> Result<(), MemoryError>);

/// Copies kernel and initramfs into RAM and writes what they find there.
pub fn build(
    memory: &GuestMemory,
    layout: &Layout,
    backend: Backend,
    kernel: &Kernel<'_>,
    ramdisk: Option<Ramdisk<'_>>,
    cmdline: &str,
    ports: Ports,
) -> Result<StartOfDay, BuildError> {
    if cmdline.len() >= CMDLINE_BYTES {
        return Err(BuildError::CmdlineTooLong(cmdline.len()));
    }
    let kernel_end =
        kernel.segments.iter().map(|(at, _, bytes)| at.0.saturating_add(*bytes)).max().unwrap_or(0);
    let kernel_start = kernel.segments.iter().map(|(at, ..)| *at).min().unwrap_or(Gpa(0));
    let ramdisk_bytes = ramdisk.as_ref().map_or(0, |(bytes, _)| *bytes);
    let plan = plan(kernel_end, ramdisk_bytes, layout.ram_bytes)?;
    load(memory, kernel, ramdisk, &plan)?;
    write_p2m(memory, Gpa(plan.p2m * PAGE_SIZE), layout.ram_bytes / PAGE_SIZE)?;
    let info = start_info_bytes(layout, &plan, kernel.virt_base, ramdisk_bytes, cmdline, ports);
    memory.write(Gpa(plan.start_info * PAGE_SIZE), &info)?;
    let cr3 = write_tables(memory, kernel.virt_base, &plan)?;
    install_slots(memory, layout, backend, cr3)?;
    let va = |frame: u64| Gva(kernel.virt_base.0 + frame * PAGE_SIZE);
    Ok(StartOfDay {
        entry: kernel.entry,
        stack: va(plan.stack + 1),
        start_info: va(plan.start_info),
        cr3,
        store: Gfn(plan.store),
        console: Gfn(plan.console),
        image: kernel_start..Gpa((plan.tables + plan.table_count) * PAGE_SIZE),
    })
}

fn load(
    memory: &GuestMemory,
    kernel: &Kernel<'_>,
    ramdisk: Option<Ramdisk<'_>>,
    plan: &Plan,
) -> Result<(), BuildError> {
    for (paddr, contents, bytes) in &kernel.segments {
        memory.ram().load(*paddr, contents).map_err(|source| BuildError::Segment {
            paddr: paddr.0,
            bytes: *bytes,
            source,
        })?;
    }
    if let Some((_, copy)) = ramdisk {
        copy(Gpa(plan.ramdisk * PAGE_SIZE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;
    use crate::paging::AddressSpace;
    use crate::shim::SHIM_GPA;

    const PORTS: Ports = Ports { store: EvtchnPort(1), console: EvtchnPort(2) };

    fn memory(layout: &Layout) -> GuestMemory {
        let ram = Region::anonymous(Gpa(0), layout.ram_bytes).unwrap();
        GuestMemory::new(ram, Some(Region::anonymous(SHIM_GPA, layout.shim_bytes()).unwrap()))
    }

    fn kernel(code: &[u8], bytes: u64) -> Kernel<'_> {
        let base = Gva(0xffff_ffff_8000_0000);
        Kernel { entry: base, virt_base: base, segments: vec![(Gpa(0x10_0000), code, bytes)] }
    }

    #[test]
    fn start_info_and_stack_are_mapped_and_nothing_after_the_last_table() {
        let layout = Layout { ram_bytes: 32 << 20, vcpus: 1 };
        let memory = memory(&layout);
        let kernel = kernel(&[1, 2, 3], 8 << 20);
        let start = build(&memory, &layout, Backend::Pvm, &kernel, None, "root=/dev/xvda", PORTS).unwrap();
        let space = AddressSpace::new(&memory, start.cr3);
        assert_eq!(&space.read_array::<14>(start.start_info).unwrap(), MAGIC);
        space.translate(Gva(start.stack.0 - 8)).unwrap();
        let info = space.read_array::<128>(start.start_info).unwrap();
        let word = |at: usize| u64::from_le_bytes(info[at..at + 8].try_into().unwrap());
        let end = word(88) + word(96) * PAGE_SIZE;
        space.translate(Gva(end - 8)).unwrap();
        assert!(space.translate(Gva(end)).is_err());
    }

    #[test]
    fn a_kernel_larger_than_ram_is_refused() {
        let layout = Layout { ram_bytes: 16 << 20, vcpus: 1 };
        let memory = memory(&layout);
        let result = build(&memory, &layout, Backend::Pvm, &kernel(&[], 64 << 20), None, "", PORTS);
        assert!(matches!(result, Err(BuildError::TooSmall { ram_mib: 16, .. })));
    }

    #[test]
    fn a_command_line_of_1024_bytes_is_refused() {
        let layout = Layout { ram_bytes: 16 << 20, vcpus: 1 };
        let long = "x".repeat(1024);
        let result = build(&memory(&layout), &layout, Backend::Pvm, &kernel(&[], 4096), None, &long, PORTS);
        assert!(matches!(result, Err(BuildError::CmdlineTooLong(1024))));
    }
}
