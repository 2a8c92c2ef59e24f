//! The kernel's page tables for its own text and read-only data: each page is where the kernel was loaded, and none becomes writable.
//!
//! All other comparisons read memory where the kernel was loaded; this one tells when that is not what the processor sees. The tables are
//! those that all processes share (`init_top_pgt`); that each process does share them is looked at too.

use honeyvmm::memory::{Gva, PAGE_SIZE};

use super::finding::{Certainty, Finding, Findings, What};
use crate::symbols::Symbols;
use crate::view::layout::{Unknown, layout, symbol};
use crate::view::{KERNEL_MAP, Look, ViewError};
use crate::walk::task::Task;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const LARGE: u64 = 0x80;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: u64 = 512;
/// Of the top table: the last 512 GiB, where the kernel's image is.
const TOP_ENTRY: u64 = ENTRIES - 1;
const LINEAR_MAP: u64 = 0xffff_8880_0000_0000;
/// Bytes that a table of the last level maps.
const TABLE_SPAN: u64 = ENTRIES * PAGE_SIZE;

layout! {
    TaskLayout = "task_struct" {
        mm: "mm",
    }
}

layout! {
    MmLayout = "mm_struct" {
        root: "pgd",
    }
}

/// The pages, and which of them are writable.
#[derive(Debug)]
pub struct Mapping {
    root: Gva,
    task: TaskLayout,
    mm: MmLayout,
    ranges: [std::ops::Range<u64>; 2],
    /// Of each page, by address.
    reference: Vec<u64>,
}

impl Mapping {
    /// Of this kernel; nothing is known of its page tables yet.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        let address = |name| symbol(symbols, name).map(|at| at.0 & !(PAGE_SIZE - 1));
        Ok(Self {
            root: symbol(symbols, "init_top_pgt")?,
            task: TaskLayout::of(symbols)?,
            mm: MmLayout::of(symbols)?,
            ranges: [
                address("_stext")?..address("_etext")?,
                address("__start_rodata")?..address("__end_rodata")?,
            ],
            reference: Vec::new(),
        })
    }

    fn pages(&self) -> impl Iterator<Item = u64> {
        self.ranges.iter().cloned().flat_map(|range| range.step_by(PAGE_SIZE as usize))
    }

    /// Takes which pages are writable from a guest that has booted.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn take(&mut self, look: &Look<'_>) -> Result<(), ViewError> {
        let entries = self.entries(look)?;
        let expected = |(page, entry): (u64, &u64)| (page - KERNEL_MAP) | (entry & WRITABLE) | PRESENT;
        self.reference = self.pages().zip(&entries).map(expected).collect();
        Ok(())
    }

    /// Tells which pages are elsewhere, or writable and were not.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn check(
        &self,
        look: &Look<'_>,
        symbols: &Symbols,
        findings: &mut Findings,
    ) -> Result<(), ViewError> {
        let entries = self.entries(look)?;
        let pages = self.pages().zip(self.reference.iter().zip(&entries));
        let (mut last, mut count) = (0, 0);
        for (page, (before, after)) in pages.filter(|(_, (before, after))| before != after) {
            // Of pages side by side the first one is told.
            let goes_on = page == last + PAGE_SIZE && count > 0;
            (last, count) = (page, count + 1);
            if goes_on {
                continue;
            }
            let (name, offset) = symbols.nearest(Gva(page)).unwrap_or(("?", 0));
            let finding = Finding::Changed {
                what: What::Mapping,
                symbol: format!("{name}+{offset:#x}"),
                address: Gva(page),
                before: shown(*before),
                after: shown(*after),
            };
            findings.push(Certainty::Sure, finding);
        }
        Ok(())
    }

    /// Tells which processes see another kernel than the others.
    ///
    /// # Errors
    /// [`ViewError`] if what all share cannot be read.
    pub fn check_roots(
        &self,
        look: &Look<'_>,
        tasks: &[Task],
        findings: &mut Findings,
    ) -> Result<(), ViewError> {
        let top = |root: Gva| look.u64(Gva(root.0.wrapping_add(8 * TOP_ENTRY)));
        let expected = top(self.root)? & FRAME;
        let top_of = |task: &Task| {
            let mm = look.pointer(self.task.mm.of(task.at)).ok().filter(|mm| mm.0 != 0)?;
            let root = look.pointer(self.mm.root.of(mm)).ok()?;
            Some((root, top(root).ok()?))
        };
        for task in tasks.iter().filter(|task| !task.kernel_thread && task.pid == task.tgid) {
            // It may end while we look.
            let Some((root, entry)) = top_of(task).filter(|(_, entry)| entry & FRAME != expected) else {
                continue;
            };
            let finding = Finding::Changed {
                what: What::Mapping,
                symbol: format!("kernel of pid {} ({})", task.pid, task.comm),
                address: Gva(root.0.wrapping_add(8 * TOP_ENTRY)),
                before: shown(expected | PRESENT),
                after: shown(entry),
            };
            findings.push(Certainty::SeenTwice, finding);
        }
        Ok(())
    }

    /// Frame, presence and writability of each page, as the page tables say.
    fn entries(&self, look: &Look<'_>) -> Result<Vec<u64>, ViewError> {
        let mut entries = Vec::with_capacity(self.reference.len());
        let mut table: Option<(u64, Vec<u64>)> = None;
        for page in self.pages() {
            let span = page / TABLE_SPAN;
            let known = table.take().filter(|(known, _)| *known == span);
            let (_, words) = match known {
                Some(known) => table.insert(known),
                None => table.insert((span, self.last_table(look, Gva(page))?)),
            };
            let entry = words[(page / PAGE_SIZE % ENTRIES) as usize];
            entries.push(entry & (FRAME | PRESENT | WRITABLE));
        }
        Ok(entries)
    }

    /// The last level's table for this address. A page of two megabytes is shown as the table that it stands for; one that is not there
    /// as entries of zero.
    fn last_table(&self, look: &Look<'_>, at: Gva) -> Result<Vec<u64>, ViewError> {
        let mut table = self.root;
        for shift in [39, 30, 21] {
            let entry = look.u64(Gva(table.0 + 8 * (at.0 >> shift & (ENTRIES - 1))))?;
            if entry & PRESENT == 0 || (entry & LARGE != 0 && shift == 30) {
                return Ok(vec![0; ENTRIES as usize]);
            }
            if entry & LARGE != 0 {
                let first = entry & FRAME & !(TABLE_SPAN - 1);
                let page = |index| (first + index * PAGE_SIZE) | (entry & (PRESENT | WRITABLE));
                return Ok((0..ENTRIES).map(page).collect());
            }
            table = Gva(LINEAR_MAP.wrapping_add(entry & FRAME));
        }
        let bytes = look.bytes(table, PAGE_SIZE)?;
        let words = bytes.chunks_exact(8);
        Ok(words.map(|word| u64::from_le_bytes(std::array::from_fn(|byte| word[byte]))).collect())
    }
}

/// `0x1000000 read-only`.
fn shown(entry: u64) -> String {
    let rights = match (entry & PRESENT, entry & WRITABLE) {
        (0, _) => "not present",
        (_, 0) => "read-only",
        (_, _) => "writable",
    };
    format!("{:#x} {rights}", entry & FRAME)
}
