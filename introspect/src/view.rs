//! Reads of a running guest's memory: by kernel address, by user address of a task, by page-table walk (Intel SDM volume 3, section 4.5).
//!
//! Everything is copied out, and everything that the guest holds is foreign: a wrong pointer is an error value, and each read takes one
//! of the [`Look`]'s steps, so that no walk over lists or trees that the guest has bent goes on for ever. The kernel's image and its linear map
//! are read without the guest's page tables, which therefore cannot hide them.

pub mod layout;

use std::cell::Cell;

use honeyvmm::memory::{Gpa, Gva, MemoryError, PAGE_SIZE, ReadOnlyRam};
use thiserror::Error;

use crate::symbols::Symbols;

/// Where Linux maps its image: `__START_KERNEL_map` of `arch/x86/include/asm/page_64_types.h`. A PV kernel is not moved.
pub(crate) const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// The linear map with four levels and no randomised memory: `__PAGE_OFFSET_BASE_L4`. A PV kernel starts without either.
const LINEAR_MAP: u64 = 0xffff_8880_0000_0000;
/// The array of `struct page`, likewise: `__VMEMMAP_BASE_L4`.
const PAGE_ARRAY: u64 = 0xffff_ea00_0000_0000;

/// The most bytes that one read copies.
pub const READ_BYTES_MAX: usize = 64 << 10;

const PRESENT: u64 = 1;
const HUGE: u64 = 0x80;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Why nothing was read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ViewError {
    /// No page there, or a page table outside RAM.
    #[error("{0} is not mapped")]
    NotMapped(Gva),
    /// Mapped, but to where there is no RAM.
    #[error("{at} is mapped to {gpa}, outside RAM")]
    Outside {
        /// What was to be read.
        at: Gva,
        /// Where that is.
        gpa: Gpa,
    },
    /// The look is over: the guest's structures are larger than they can honestly be, or run in a circle.
    #[error("gave up after {0} steps")]
    Steps(u32),
    /// A length that the guest gave, and that is not believed.
    #[error("{bytes} bytes at {at} are more than {READ_BYTES_MAX}")]
    TooLong {
        /// Where they are.
        at: Gva,
        /// How many.
        bytes: u64,
    },
    /// A text without an end.
    #[error("text at {at} does not end in {bytes_max} bytes")]
    Unterminated {
        /// Where it begins.
        at: Gva,
        /// The limit.
        bytes_max: usize,
    },
}

/// Why a guest cannot be looked at.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A symbol that every kernel has is not there.
    #[error("kernel has no symbol {0}")]
    NoSymbol(&'static str),
    /// RAM cannot be mapped.
    #[error("cannot map the domain's RAM")]
    Ram(#[source] MemoryError),
}

/// A guest's memory.
#[derive(Debug)]
pub struct View {
    ram: ReadOnlyRam,
    /// `_text` to `_end`.
    image: std::ops::Range<u64>,
    /// `init_top_pgt`.
    kernel_root: Gpa,
    page_offset_base: Gva,
}

impl View {
    /// The memory of a domain that runs the kernel of these symbols.
    ///
    /// # Errors
    /// [`OpenError::NoSymbol`].
    pub fn new(ram: ReadOnlyRam, symbols: &Symbols) -> Result<Self, OpenError> {
        let address = |name| symbols.address(name).ok_or(OpenError::NoSymbol(name));
        let image = address("_text")?.0..address("_end")?.0;
        let kernel_root = Gpa(address("init_top_pgt")?.0.wrapping_sub(KERNEL_MAP));
        Ok(Self { ram, image, kernel_root, page_offset_base: address("page_offset_base")? })
    }

    /// Reads that take at most this many steps.
    #[must_use]
    pub fn look(&self, steps_max: u32) -> Look<'_> {
        Look { view: self, steps_max, steps_left: Cell::new(steps_max) }
    }

    /// RAM in bytes.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.ram.bytes()
    }

    /// Whether the kernel says what is true of every PV kernel: that its linear map is where we read it. A kernel that has
    /// not started yet says so too, the variable is initialised.
    #[must_use]
    pub fn linear_map_is_confirmed(&self) -> bool {
        self.look(1).u64(self.page_offset_base) == Ok(LINEAR_MAP)
    }

    /// Copies RAM, without page tables.
    ///
    /// # Errors
    /// A range that is not all in RAM.
    pub fn read_ram(&self, gpa: Gpa, out: &mut [u8]) -> Result<(), MemoryError> {
        self.ram.read(gpa, out)
    }

    /// Where a kernel address is, if that is known without page tables.
    fn direct(&self, at: Gva) -> Option<Gpa> {
        if self.image.contains(&at.0) {
            return Some(Gpa(at.0 - KERNEL_MAP));
        }
        let offset = at.0.checked_sub(LINEAR_MAP)?;
        (offset < self.ram.bytes()).then_some(Gpa(offset))
    }

    fn entry(&self, table: u64, index: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.ram.read(Gpa(table + 8 * index), &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    /// Walks four levels of page tables; large pages are pages. `mfn == pfn`, so an entry's frame is a place in RAM, or outside: the
    /// hypervisor's own slots are.
    fn translate(&self, root: Gpa, at: Gva) -> Result<Gpa, ViewError> {
        let mut table = root.0 & FRAME;
        for level in (1..=4u32).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry = self.entry(table, at.0 >> shift & 511).filter(|entry| entry & PRESENT != 0);
            let entry = entry.ok_or(ViewError::NotMapped(at))?;
            let offset_mask = (1u64 << shift) - 1;
            if level == 1 || (entry & HUGE != 0 && level <= 3) {
                return Ok(Gpa((entry & FRAME & !offset_mask) | (at.0 & offset_mask)));
            }
            table = entry & FRAME;
        }
        Err(ViewError::NotMapped(at))
    }

    fn read_walked(&self, root: Gpa, at: Gva, out: &mut [u8]) -> Result<(), ViewError> {
        let mut done = 0;
        while done < out.len() {
            let here = Gva(at.0.wrapping_add(done as u64));
            let room = (PAGE_SIZE - (here.0 & (PAGE_SIZE - 1))) as usize;
            let next = out.len().min(done + room);
            let gpa = self.translate(root, here)?;
            let outside = |_| ViewError::Outside { at: here, gpa };
            self.ram.read(gpa, &mut out[done..next]).map_err(outside)?;
            done = next;
        }
        Ok(())
    }

    fn read_kernel(&self, at: Gva, out: &mut [u8]) -> Result<(), ViewError> {
        let Some(gpa) = self.direct(at) else { return self.read_walked(self.kernel_root, at, out) };
        self.ram.read(gpa, out).map_err(|_| ViewError::Outside { at, gpa })
    }
}

/// One look at a guest: reads, counted.
#[derive(Debug)]
pub struct Look<'v> {
    view: &'v View,
    steps_max: u32,
    steps_left: Cell<u32>,
}

impl Look<'_> {
    /// Takes a step. Every read does; a loop that does not read has to.
    ///
    /// # Errors
    /// [`ViewError::Steps`], from then on for ever.
    pub fn step(&self) -> Result<(), ViewError> {
        let left = self.steps_left.get().checked_sub(1).ok_or(ViewError::Steps(self.steps_max))?;
        self.steps_left.set(left);
        Ok(())
    }

    /// How many steps were taken.
    #[must_use]
    pub fn steps_taken(&self) -> u32 {
        self.steps_max - self.steps_left.get()
    }

    /// The guest's memory.
    #[must_use]
    pub fn view(&self) -> &View {
        self.view
    }

    /// Copies kernel memory.
    ///
    /// # Errors
    /// [`ViewError`]; part of `out` may have changed.
    pub fn read(&self, at: Gva, out: &mut [u8]) -> Result<(), ViewError> {
        self.step()?;
        check_length(at, out.len() as u64)?;
        self.view.read_kernel(at, out)
    }

    /// Copies `bytes` bytes of kernel memory; `bytes` may come from the guest.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn bytes(&self, at: Gva, bytes: u64) -> Result<Vec<u8>, ViewError> {
        check_length(at, bytes)?;
        let mut out = vec![0; bytes as usize];
        self.read(at, &mut out)?;
        Ok(out)
    }

    fn array<const N: usize>(&self, at: Gva) -> Result<[u8; N], ViewError> {
        let mut out = [0; N];
        self.read(at, &mut out)?;
        Ok(out)
    }

    /// A byte.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn u8(&self, at: Gva) -> Result<u8, ViewError> {
        self.array(at).map(u8::from_le_bytes)
    }

    /// A word of 16 bits.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn u16(&self, at: Gva) -> Result<u16, ViewError> {
        self.array(at).map(u16::from_le_bytes)
    }

    /// A word of 32 bits.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn u32(&self, at: Gva) -> Result<u32, ViewError> {
        self.array(at).map(u32::from_le_bytes)
    }

    /// A word of 64 bits.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn u64(&self, at: Gva) -> Result<u64, ViewError> {
        self.array(at).map(u64::from_le_bytes)
    }

    /// A pointer.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn pointer(&self, at: Gva) -> Result<Gva, ViewError> {
        self.u64(at).map(Gva)
    }

    /// The bytes of a text up to its NUL, which has to come within `bytes_max`.
    ///
    /// # Errors
    /// [`ViewError::Unterminated`], and the others.
    pub fn text(&self, at: Gva, bytes_max: usize) -> Result<Vec<u8>, ViewError> {
        let mut text = Vec::new();
        while text.len() < bytes_max {
            let here = Gva(at.0.wrapping_add(text.len() as u64));
            // Not over the end of a page, behind which there may be none.
            let room = (PAGE_SIZE - (here.0 & (PAGE_SIZE - 1))) as usize;
            let mut part = [0; 64];
            let part = &mut part[..room.min(64).min(bytes_max - text.len())];
            self.read(here, part)?;
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&part[..end]);
                return Ok(text);
            }
            text.extend_from_slice(part);
        }
        Err(ViewError::Unterminated { at, bytes_max })
    }

    /// Copies memory of a task: `pgd` is its `mm->pgd`, a kernel address.
    ///
    /// # Errors
    /// [`ViewError`], also for a page that is swapped out or was never touched; part of `out` may have changed.
    pub fn read_user(&self, pgd: Gva, at: Gva, out: &mut [u8]) -> Result<(), ViewError> {
        self.step()?;
        check_length(at, out.len() as u64)?;
        let root = self.view.direct(pgd).ok_or(ViewError::NotMapped(pgd))?;
        self.view.read_walked(root, at, out)
    }

    /// The frame number behind a pointer to a `struct page` (or a folio, which begins with one) of this size.
    #[must_use]
    pub fn pfn_of_page(&self, page: Gva, page_struct_bytes: u64) -> Option<u64> {
        let offset = page.0.checked_sub(PAGE_ARRAY)?;
        let pfn = offset.checked_div(page_struct_bytes)?;
        (offset.is_multiple_of(page_struct_bytes) && pfn < self.view.ram.bytes() / PAGE_SIZE).then_some(pfn)
    }
}

fn check_length(at: Gva, bytes: u64) -> Result<(), ViewError> {
    if bytes > READ_BYTES_MAX as u64 {
        return Err(ViewError::TooLong { at, bytes });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
