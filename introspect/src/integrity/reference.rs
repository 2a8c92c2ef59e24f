//! The kernel's text, read-only data and system call tables, compared with how they were.
//!
//! Linux patches its text while it boots, by thousands of places, so that the image on disk is no measure of it: the reference is taken
//! from memory once, after boot, and never again. Places that Linux patches later too (static keys and calls, ftrace's) are known from the
//! image and left out of it. The system call tables are compared with the image itself.

use std::collections::BTreeMap;
use std::ops::Range;

use honeyvmm::kernel_image::KernelImage;
use honeyvmm::memory::{Gva, PAGE_SIZE};
use serde::Serialize;

use super::hooks::{Place, place};
use crate::symbols::Symbols;
use crate::symbols::segments::Segments;
use crate::view::layout::{Unknown, symbol};
use crate::view::{Look, ViewError};
use crate::walk::modules::Module;

/// Steps that suffice for a kernel of 256 MB.
pub const STEPS_MAX: u32 = 1 << 17;
/// What a static key or call, or ftrace, patches: a call or jump (`CALL_INSN_SIZE`). Not a byte more, or what is behind it could hide there.
const SITE_BYTES: u64 = 5;
/// A static call at the end of a function may be a conditional jump, which begins with this byte and is one longer.
const CONDITIONAL_JUMP: u8 = 0x0f;
/// A trampoline of a static call: one jump, and what marks it (`include/asm/static_call.h`).
const TRAMPOLINE_BYTES: u64 = 8;
/// `struct jump_entry`: code and target as distances, and the key.
const JUMP_ENTRY_BYTES: usize = 16;
/// `struct static_call_site`: address and key as distances.
const CALL_SITE_BYTES: usize = 8;
/// Labels in ftrace's own entry code whose calls it patches.
const FTRACE_CALLS: [&str; 5] = [
    "ftrace_call",
    "ftrace_regs_call",
    "ftrace_graph_call",
    "ftrace_caller_op_ptr",
    "ftrace_regs_caller_op_ptr",
];
/// System call tables, of 64 bits, of 32 and of x32.
const CALL_TABLES: [&str; 3] = ["sys_call_table", "ia32_sys_call_table", "x32_sys_call_table"];

/// Something that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Change {
    /// A page of text.
    Text {
        /// Its first address, and the function that goes over it.
        page: Place,
    },
    /// A page of data that is only read after boot.
    ReadOnlyData {
        /// Its first address, and what lies there.
        page: Place,
    },
    /// An entry of a system call table.
    SystemCall {
        /// Which table.
        table: &'static str,
        /// The call's number.
        number: u64,
        /// Where it should lead.
        expected: Place,
        /// Where it leads.
        found: Place,
    },
}

/// What a kernel was.
#[derive(Debug)]
pub struct Reference {
    text: Pages,
    data: Pages,
    tables: Vec<(&'static str, Gva, Vec<u64>)>,
}

/// Hashes of pages, and what is left out of each.
#[derive(Debug)]
struct Pages {
    range: Range<u64>,
    /// By page: bytes that may change.
    sites: BTreeMap<u64, Vec<Range<usize>>>,
    hashes: Vec<blake3::Hash>,
}

/// Why there is no reference.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The kernel is laid out in another way.
    #[error("kernel cannot be compared")]
    Unknown(#[from] Unknown),
    /// Its memory cannot be read.
    #[error("kernel's memory cannot be read")]
    View(#[from] ViewError),
}

impl Reference {
    /// Takes the reference: once, when the guest has booted.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn take(look: &Look<'_>, symbols: &Symbols, image: &KernelImage<'_>) -> Result<Self, ReferenceError> {
        let address = |name| symbol(symbols, name).map(|at| at.0);
        let segments = Segments::of_kernel(image);
        let text = address("_stext")?..address("_etext")?;
        let data = address("__start_rodata")?..address("__end_rodata")?;
        Ok(Self {
            text: Pages::take(look, text, &sites(symbols, &segments))?,
            data: Pages::take(look, data, &[])?,
            tables: CALL_TABLES.iter().filter_map(|name| call_table(symbols, &segments, name)).collect(),
        })
    }

    /// What differs now. `modules` are those of the kernel's list, to name what a table leads to.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn changes(
        &self,
        look: &Look<'_>,
        symbols: &Symbols,
        modules: &[Module],
    ) -> Result<Vec<Change>, ViewError> {
        let place = |at| place(symbols, modules, at);
        let mut changes = Vec::new();
        changes.extend(self.text.changed(look)?.into_iter().map(|at| Change::Text { page: place(at) }));
        changes
            .extend(self.data.changed(look)?.into_iter().map(|at| Change::ReadOnlyData { page: place(at) }));
        for (table, at, entries) in &self.tables {
            let found = look.bytes(*at, 8 * entries.len() as u64)?;
            for (number, (expected, found)) in entries.iter().zip(words(&found)).enumerate() {
                if *expected != found {
                    let (expected, found) = (place(Gva(*expected)), place(Gva(found)));
                    changes.push(Change::SystemCall { table, number: number as u64, expected, found });
                }
            }
        }
        Ok(changes)
    }
}

impl Pages {
    fn take(look: &Look<'_>, range: Range<u64>, sites: &[Range<u64>]) -> Result<Self, ViewError> {
        let mut by_page = BTreeMap::<u64, Vec<Range<usize>>>::new();
        for site in sites.iter().filter(|site| range.contains(&site.start)) {
            // A site may go over the end of its page.
            for byte in site.clone() {
                let offset = (byte % PAGE_SIZE) as usize;
                let ranges = by_page.entry(byte / PAGE_SIZE).or_default();
                match ranges.last_mut() {
                    Some(last) if last.end == offset => last.end += 1,
                    _ => ranges.push(offset..offset + 1),
                }
            }
        }
        let mut pages = Self { range, sites: by_page, hashes: Vec::new() };
        pages.hashes = pages.hash_all(look)?;
        Ok(pages)
    }

    fn changed(&self, look: &Look<'_>) -> Result<Vec<Gva>, ViewError> {
        let now = self.hash_all(look)?;
        let pairs = self.starts().zip(self.hashes.iter().zip(&now));
        Ok(pairs.filter(|(_, (then, now))| then != now).map(|(at, _)| Gva(at)).collect())
    }

    /// The first address of each page; the first and the last may be parts.
    fn starts(&self) -> impl Iterator<Item = u64> {
        let first = self.range.start;
        let rest = (first / PAGE_SIZE + 1..self.range.end.div_ceil(PAGE_SIZE)).map(|page| page * PAGE_SIZE);
        std::iter::once(first).chain(rest)
    }

    fn hash_all(&self, look: &Look<'_>) -> Result<Vec<blake3::Hash>, ViewError> {
        let mut page = [0; PAGE_SIZE as usize];
        let hash = |start: u64| {
            let offset = (start % PAGE_SIZE) as usize;
            let end = PAGE_SIZE.min(self.range.end - (start - start % PAGE_SIZE)) as usize;
            page.fill(0);
            look.read(Gva(start), &mut page[offset..end])?;
            for site in self.sites.get(&(start / PAGE_SIZE)).into_iter().flatten() {
                page[site.clone()].fill(0);
            }
            Ok(blake3::hash(&page))
        };
        self.starts().map(hash).collect()
    }
}

/// Places in the text that Linux patches for as long as it runs.
fn sites(symbols: &Symbols, segments: &Segments<'_>) -> Vec<Range<u64>> {
    let table = |start, end| Some((symbols.address(start)?, symbols.address(end)?));
    let bytes = |(start, end)| Some((start, segments.between(start, end)?));
    // An entry's first word is the distance from itself to its place.
    let relative = |start: Gva, bytes: &[u8], entry_bytes: usize| {
        let entries = bytes.chunks_exact(entry_bytes).enumerate();
        let place = entries.filter_map(|(index, entry)| {
            let distance = i32::from_le_bytes(*entry.first_chunk()?);
            Some((start.0 + (index * entry_bytes) as u64).wrapping_add_signed(distance.into()))
        });
        place.collect::<Vec<u64>>()
    };
    let mut places = Vec::new();
    if let Some((start, bytes)) = table("__start___jump_table", "__stop___jump_table").and_then(bytes) {
        places.extend(relative(start, bytes, JUMP_ENTRY_BYTES));
    }
    if let Some((start, bytes)) =
        table("__start_static_call_sites", "__stop_static_call_sites").and_then(bytes)
    {
        places.extend(relative(start, bytes, CALL_SITE_BYTES));
    }
    if let Some((_, bytes)) = table("__start_mcount_loc", "__stop_mcount_loc").and_then(bytes) {
        places.extend(words(bytes));
    }
    places.extend(FTRACE_CALLS.iter().filter_map(|name| Some(symbols.address(name)?.0)));
    let trampolines = symbols.symbols().filter(|symbol| symbol.name.starts_with("__SCT__"));
    let trampolines = trampolines.map(|symbol| symbol.address.0..symbol.address.0 + TRAMPOLINE_BYTES);
    let is_conditional = |at: u64| {
        let code = segments.from(Gva(at)).and_then(<[u8]>::first_chunk::<2>);
        // Six bytes with a distance of four; the five bytes of a nop begin with the same byte, and go on differently.
        code.is_some_and(|code| code[0] == CONDITIONAL_JUMP && code[1] & 0xf0 == 0x80)
    };
    let bytes = |at| if is_conditional(at) { SITE_BYTES + 1 } else { SITE_BYTES };
    let sites = places.into_iter().map(|at| at..at.saturating_add(bytes(at)));
    sites.chain(trampolines).collect()
}

/// A table's entries as the image has them: up to the next symbol.
fn call_table(
    symbols: &Symbols,
    segments: &Segments<'_>,
    name: &'static str,
) -> Option<(&'static str, Gva, Vec<u64>)> {
    /// Linux has about 470 calls.
    const CALLS_MAX: u64 = 4096;
    let start = symbols.address(name)?;
    let end = symbols.kallsyms().next_address(start)?;
    let end = Gva(end.0.min(start.0 + 8 * CALLS_MAX));
    let mut entries: Vec<u64> = words(segments.between(start, end)?).collect();
    // Behind the last call there is room up to the next symbol.
    while entries.last() == Some(&0) {
        entries.pop();
    }
    Some((name, start, entries))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(std::array::from_fn(|byte| word[byte])))
}
