//! kallsyms: the kernel's own symbol table, as `scripts/kallsyms.c` packs it into `.rodata`, found in the image by its shape.
//!
//! Nothing names the tables (kallsyms leaves itself out), so the search starts at the token table, which holds the ten digits as
//! one-letter tokens, and goes from table to table. Three orders are known, [`Layout`]. What is found counts only if `linux_banner`
//! then points at the banner. Modules of a running kernel are not in it.

mod addresses;
mod search;

use honeyvmm::memory::Gva;
use thiserror::Error;

use super::names::NameIndex;
use super::segments::Segments;
pub use addresses::{Base, Layout};

/// The most symbols that are read. Debian's 6.12 has 154,686 of them.
pub const SYMBOLS_MAX: usize = 1 << 20;
/// The longest name, in bytes, with its type letter: `KSYM_NAME_LEN` of include/linux/kallsyms.h since 6.1.
pub const NAME_BYTES_MAX: usize = 512;

/// Why a kernel's symbols cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KallsymsError {
    /// No table of tokens.
    #[error("kernel has no kallsyms token table (CONFIG_KALLSYMS is off, or its form is not known)")]
    NoTokenTable,
    /// A token table, but no names before it that fit to their markers.
    #[error("kernel has a kallsyms token table at {0}, but no names before it")]
    NoNames(Gva),
    /// More than [`SYMBOLS_MAX`] symbols.
    #[error("kernel has {0} symbols, more than {SYMBOLS_MAX}")]
    TooMany(u32),
    /// Names without `linux_banner`, by which addresses are checked.
    #[error("kernel has {0} symbols, but no linux_banner (CONFIG_KALLSYMS_ALL is off)")]
    NoBanner(usize),
    /// No known layout makes `linux_banner` point at the banner.
    #[error("kernel has {0} symbols, but in no known layout linux_banner points at the banner")]
    NoAddresses(usize),
}

/// Where the tables lie; the kernel does not name them in kallsyms, but Volatility wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// `kallsyms_offsets`.
    pub offsets: Gva,
    /// `kallsyms_relative_base`; not there in layout C.
    pub relative_base: Option<Gva>,
    /// `kallsyms_num_syms`.
    pub num_syms: Gva,
    /// `kallsyms_names`.
    pub names: Gva,
    /// `kallsyms_markers`.
    pub markers: Gva,
    /// `kallsyms_seqs_of_names`; since 6.2.
    pub seqs: Option<Gva>,
    /// `kallsyms_token_table`.
    pub token_table: Gva,
    /// `kallsyms_token_index`.
    pub token_index: Gva,
}

/// One symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its address, or offset in the per-cpu area.
    pub address: Gva,
    /// nm's letter: T text, D data, A absolute and per-cpu, lower case where local.
    pub letter: char,
    /// Its name; 927 names of Debian's 6.1 are borne by more than one symbol.
    pub name: &'a str,
}

/// All symbols of a kernel, by address and by name.
#[derive(Debug, Clone)]
pub struct Kallsyms {
    /// Letter and name of each symbol, one after another.
    arena: String,
    /// By address; equal ones in the kernel's order.
    entries: Vec<Entry>,
    by_name: NameIndex,
    layout: Layout,
    tables: Tables,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    address: u64,
    /// Where its letter lies in the arena; the name follows.
    at: u32,
    /// Bytes of letter and name.
    bytes: u16,
}

/// Letter and name of each symbol, in the kernel's order.
#[derive(Debug, Default)]
struct Names {
    arena: String,
    /// Start of each, and the arena's end.
    starts: Vec<u32>,
}

impl Names {
    fn iter(&self) -> impl Iterator<Item = &str> {
        self.starts.windows(2).map(|pair| &self.arena[pair[0] as usize + 1..pair[1] as usize])
    }
}

impl Kallsyms {
    /// Finds and decodes the table in a kernel's loaded bytes.
    ///
    /// # Errors
    /// [`KallsymsError`]: how far the search came.
    pub fn decode(kernel: &Segments<'_>) -> Result<Self, KallsymsError> {
        let mut furthest = KallsymsError::NoTokenTable;
        for run in kernel.runs() {
            for tokens in search::token_tables(run) {
                match search::names(run, &tokens).and_then(|found| addresses::assign(kernel, run, found)) {
                    Ok((layout, tables, addresses, names)) => {
                        return Ok(Self::new(names, &addresses, layout, tables));
                    }
                    Err(error) => furthest = error,
                }
            }
        }
        Err(furthest)
    }

    fn new(names: Names, addresses: &[u64], layout: Layout, tables: Tables) -> Self {
        let spans = names.starts.windows(2).zip(addresses);
        let mut entries: Vec<Entry> = spans
            .map(|(span, address)| Entry {
                address: *address,
                at: span[0],
                // No truncation: a name has at most NAME_BYTES_MAX bytes.
                bytes: (span[1] - span[0]) as u16,
            })
            .collect();
        // Stable, and next to nothing where the kernel's order is that of addresses already.
        entries.sort_by_key(|entry| entry.address);
        let numbered = entries.iter().zip(0_u32..);
        let by_name = NameIndex::new(numbered.map(|(entry, number)| (name(&names.arena, entry), number)));
        Self { arena: names.arena, entries, by_name, layout, tables }
    }

    /// All symbols, by address.
    pub fn symbols(&self) -> impl ExactSizeIterator<Item = Symbol<'_>> + Clone {
        self.entries.iter().map(|entry| self.symbol(entry))
    }

    /// All symbols, by address, without those whose name a lower one bears already.
    pub fn first_of_each_name(&self) -> impl Iterator<Item = Symbol<'_>> {
        let first = |number: u32| {
            let name = self.name_of(number)?;
            let first = self.by_name.find(name, |number| self.name_of(number)).next();
            (first == Some(number)).then(|| self.entries.get(number as usize)).flatten()
        };
        (0..self.entries.len() as u32).filter_map(first).map(|entry| self.symbol(entry))
    }

    /// The symbol of a name; the one of the lowest address where there are more.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Symbol<'_>> {
        let number = self.by_name.find(name, |number| self.name_of(number)).next()?;
        Some(self.symbol(self.entries.get(number as usize)?))
    }

    /// The last symbol at or below an address, the first one of several there, as the kernel itself looks addresses up.
    #[must_use]
    pub fn nearest(&self, at: Gva) -> Option<Symbol<'_>> {
        let after = self.entries.partition_point(|entry| entry.address <= at.0);
        let address = self.entries.get(after.checked_sub(1)?)?.address;
        let first = self.entries.partition_point(|entry| entry.address < address);
        Some(self.symbol(self.entries.get(first)?))
    }

    /// The lowest address above `at` that has a symbol.
    #[must_use]
    pub fn next_address(&self, at: Gva) -> Option<Gva> {
        let after = self.entries.partition_point(|entry| entry.address <= at.0);
        Some(Gva(self.entries.get(after)?.address))
    }

    /// How the tables are ordered and addresses encoded.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Where the tables lie.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    fn symbol(&self, entry: &Entry) -> Symbol<'_> {
        let letter = self.arena.as_bytes().get(entry.at as usize).copied().unwrap_or(b'?');
        Symbol { address: Gva(entry.address), letter: char::from(letter), name: name(&self.arena, entry) }
    }

    fn name_of(&self, number: u32) -> Option<&str> {
        self.entries.get(number as usize).map(|entry| name(&self.arena, entry))
    }
}

fn name<'a>(arena: &'a str, entry: &Entry) -> &'a str {
    let start = entry.at as usize;
    arena.get(start + 1..start + usize::from(entry.bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
