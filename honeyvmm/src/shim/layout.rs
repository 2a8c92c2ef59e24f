//! Where the shim's pages are, as guest-physical and as guest-virtual addresses.
//!
//! The shim's memory is a memslot of its own above RAM: one window a vcpu, then the page tables of the kernel's and the user's
//! view, the shared_info page, the grant table, the physmap's tables and the machine-to-phys table.

use crate::memory::{Gpa, Gva, PAGE_SIZE};

/// First byte of the shim's memslot; RAM must end below it (256 GiB).
pub const SHIM_GPA: Gpa = Gpa(1 << 38);
/// First address of L4 slot 257, where the windows are. Slot 256 is not usable on PVM; Xen's reserved slots are 256 to 271.
pub const SHIM_VA: Gva = Gva(0xffff_8080_0000_0000);
/// L4 slot 258: the machine-to-phys table, for the guest kernel to read.
pub const M2P_VA: Gva = Gva(0xffff_8100_0000_0000);
/// First L4 slot of ours; the next two follow.
pub const L4_SLOT_FIRST: u64 = 257;
/// L4 slots that are ours.
pub const L4_SLOTS: usize = 3;
/// Windows there is room for.
pub const VCPUS_MAX: u32 = 8;
/// Frames of the grant table (512 entries each); Xen's default maximum is 64.
pub const GRANT_FRAMES: u64 = 32;

const WINDOW_BYTES: u64 = 2 << 20;
/// Virtual distance of two windows: each has an L1 table of its own, and fills it.
const WINDOW_STRIDE: u64 = WINDOW_BYTES;
const COMMON: u64 = WINDOW_BYTES * VCPUS_MAX as u64;
const M2P: u64 = COMMON + (2 << 20);
const M2P_ALIGN: u64 = 2 << 20;
/// Tables of the physmap: one page maps 1 GiB in pages of 2 MiB.
const PHYSMAP_TABLES_MAX: u64 = 256;

/// Where in the trampoline page the fast way to the user changes views (PVM).
pub const TRAMPOLINE_EXIT: u64 = 0x40;

/// Offsets in a window; `shim/area.h` has the same.
pub mod window {
    /// The LSTAR page.
    pub const TRAMPOLINE: u64 = 0;
    /// CPL 0 stubs.
    pub const GATE_CODE: u64 = 0x1000;
    /// Interrupt descriptor table.
    pub const IDT: u64 = 0x2000;
    /// Task state segment.
    pub const TSS: u64 = 0x3000;
    /// `struct gate`.
    pub const GATE: u64 = 0x4000;
    /// The CPL 0 stack.
    pub const STACK0: u64 = 0x5000;
    /// Global descriptor table, 64 KiB.
    pub const GDT: u64 = 0x10000;
    /// Code.
    pub const CODE: u64 = 0x20000;
    /// First byte after the code.
    pub const CODE_END: u64 = 0x2f000;
    /// `struct area`.
    pub const AREA: u64 = 0x30000;
    /// Stacks.
    pub const STACKS: u64 = 0x40000;
    /// First byte after the stacks.
    pub const STACKS_END: u64 = 0x4a000;
    /// `struct trace` of `shim/trace.h`.
    pub const TRACE: u64 = 0x4b000;
    /// First byte after it and after the calls that have not returned.
    pub const TRACE_END: u64 = 0x64000;
    /// The domain's shared_info page.
    pub const SHARED_INFO: u64 = 0x80000;
    /// The trace's ring.
    pub const RING: u64 = 0x10_0000;
    /// First byte after it.
    pub const RING_END: u64 = 0x20_0000;
}

/// How KVM runs ring 0 here. Found by probing, never by CPU name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Ring 3 native, ring 0 emulated; SYSCALL stays at CPL 3.
    Pvm,
    /// VT-x or SVM, or what behaves like it.
    Hardware,
}

/// Offsets in a window of what the VMM must know of the code.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "each is explained at its label in shim/entry_*.S")]
pub struct Symbols {
    pub vmm_call: u64,
    pub resume: u64,
    pub restore: u64,
    pub window_begin: u64,
    pub window_end: u64,
    pub gate_exit: u64,
    pub gate_exit_fast: u64,
    pub gate_call: u64,
    pub gate_page_fault: u64,
    pub gate_user: u64,
    pub user_entries: u64,
    pub kernel_entries: u64,
    pub page_fault_entry: u64,
    pub entries: u64,
    pub irq_entry: u64,
    pub main_top: u64,
    pub trap_top: u64,
    pub ist_top: u64,
    pub fatal_top: u64,
    pub stack0_top: u64,
}

/// The image that is copied to the start of each window.
pub fn image(backend: Backend) -> &'static [u8] {
    match backend {
        Backend::Pvm => include_bytes!(concat!(env!("OUT_DIR"), "/shim_pvm.bin")),
        Backend::Hardware => include_bytes!(concat!(env!("OUT_DIR"), "/shim_hw.bin")),
    }
}

/// Its symbols.
pub fn symbols(backend: Backend) -> Symbols {
    match backend {
        Backend::Pvm => include!(concat!(env!("OUT_DIR"), "/shim_pvm.rs")),
        Backend::Hardware => include!(concat!(env!("OUT_DIR"), "/shim_hw.rs")),
    }
}

/// Addresses for one domain.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// RAM in bytes.
    pub ram_bytes: u64,
    /// Number of vcpus.
    pub vcpus: u32,
}

impl Layout {
    /// Bytes of the shim's memslot. Most of it is never touched.
    pub fn shim_bytes(&self) -> u64 {
        M2P + (self.ram_bytes / PAGE_SIZE * 8).next_multiple_of(M2P_ALIGN)
    }

    /// The first byte of a vcpu's window.
    pub fn window_gpa(&self, vcpu: u32) -> Gpa {
        Gpa(SHIM_GPA.0 + u64::from(vcpu) * WINDOW_BYTES)
    }

    /// The address at which the guest sees it.
    pub fn window_va(&self, vcpu: u32) -> Gva {
        Gva(SHIM_VA.0 + u64::from(vcpu) * WINDOW_STRIDE)
    }

    /// First address after the last window.
    pub fn windows_end(&self) -> Gva {
        Gva(SHIM_VA.0 + u64::from(self.vcpus) * WINDOW_STRIDE)
    }

    fn common(page: u64) -> Gpa {
        Gpa(SHIM_GPA.0 + COMMON + page * PAGE_SIZE)
    }

    /// The shared_info page; the grant table's frames follow it.
    pub fn shared_info(&self) -> Gpa {
        Self::common(0)
    }

    /// First frame of the grant table.
    pub fn grant_table(&self) -> Gpa {
        Self::common(1)
    }

    /// Bytes from [`Self::shared_info`] that the guest may map.
    pub fn shared_bytes(&self) -> u64 {
        (1 + GRANT_FRAMES) * PAGE_SIZE
    }

    /// L3 table of slot 257, in the kernel's (0) or the user's view (1).
    pub fn l3(&self, view: u64) -> Gpa {
        Self::common(40 + view)
    }

    /// L2 table below it.
    pub fn l2(&self, view: u64) -> Gpa {
        Self::common(42 + view)
    }

    /// L1 table of a window.
    pub fn l1(&self, view: u64, vcpu: u32) -> Gpa {
        Self::common(44 + view * u64::from(VCPUS_MAX) + u64::from(vcpu))
    }

    /// The user's trampoline page: int3 all over.
    pub fn user_trampoline(&self) -> Gpa {
        Self::common(64)
    }

    /// The user's IDT, by vcpu.
    pub fn user_idt(&self, vcpu: u32) -> Gpa {
        Self::common(65 + u64::from(vcpu))
    }

    /// L3 table of the machine-to-phys slot; its L2 table is the next page.
    pub fn m2p_l3(&self) -> Gpa {
        Self::common(80)
    }

    /// L3 table of the physmap; its L2 tables follow.
    pub fn physmap_l3(&self) -> Gpa {
        Self::common(82)
    }

    /// Number of L2 tables of the physmap.
    pub fn physmap_tables(&self) -> u64 {
        self.ram_bytes.div_ceil(1 << 30).min(PHYSMAP_TABLES_MAX)
    }

    /// The machine-to-phys table.
    pub fn m2p(&self) -> Gpa {
        Gpa(SHIM_GPA.0 + M2P)
    }

    /// A page of zeros but for the shim's slots: an L4 table to start from.
    pub fn boot_l4(&self) -> Gpa {
        Self::common(81 + 1 + 1 + PHYSMAP_TABLES_MAX)
    }
}
