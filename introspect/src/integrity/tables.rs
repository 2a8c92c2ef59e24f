//! Tables through which a program enters the kernel: those of system calls, against the image, and what each vcpu has registered with the
//! hypervisor, which a processor of its own would have in its IDT and in `LSTAR`.

use std::ops::Range;

use honeyvmm::memory::Gva;
use honeyvmm::shim::{Entries, TrapInfo};

use super::finding::{Certainty, Finding, Findings, What};
use super::hooks::place;
use crate::symbols::Symbols;
use crate::symbols::segments::Segments;
use crate::view::{Look, ViewError};
use crate::walk::modules::Module;

/// System call tables, of 64 bits, of 32 and of x32.
const CALL_TABLES: [&str; 3] = ["sys_call_table", "ia32_sys_call_table", "x32_sys_call_table"];
/// Linux has about 470 calls.
const CALLS_MAX: u64 = 4096;

/// The system call tables, as the image has them.
#[derive(Debug)]
pub struct CallTables(Vec<CallTable>);

#[derive(Debug)]
struct CallTable {
    name: &'static str,
    at: Gva,
    entries: Vec<u64>,
}

impl CallTables {
    /// Of this kernel. A table that it does not have is not compared.
    #[must_use]
    pub fn of(symbols: &Symbols, segments: &Segments<'_>) -> Self {
        Self(CALL_TABLES.iter().filter_map(|name| CallTable::of(symbols, segments, name)).collect())
    }

    /// Where they lie.
    #[must_use]
    pub fn ranges(&self) -> Vec<Range<u64>> {
        self.0.iter().map(|table| table.at.0..table.at.0 + 8 * table.entries.len() as u64).collect()
    }

    /// Tells which calls lead elsewhere; `modules` are those of the kernel's list, to name where.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn check(
        &self,
        look: &Look<'_>,
        symbols: &Symbols,
        modules: &[Module],
        findings: &mut Findings,
    ) -> Result<(), ViewError> {
        for table in &self.0 {
            let found = look.bytes(table.at, 8 * table.entries.len() as u64)?;
            let entries = table.entries.iter().zip(words(&found)).zip(0_u64..);
            for ((expected, found), number) in entries.filter(|((expected, found), _)| *expected != found) {
                let finding = Finding::Changed {
                    what: What::SystemCall,
                    symbol: format!("{}[{number}]", table.name),
                    address: Gva(table.at.0 + 8 * number),
                    before: named(symbols, modules, *expected),
                    after: named(symbols, modules, found),
                };
                findings.push(Certainty::Sure, finding);
            }
        }
        Ok(())
    }
}

impl CallTable {
    /// Entries up to the next symbol.
    fn of(symbols: &Symbols, segments: &Segments<'_>, name: &'static str) -> Option<Self> {
        let at = symbols.address(name)?;
        let end = symbols.kallsyms().next_address(at)?;
        let end = Gva(end.0.min(at.0 + 8 * CALLS_MAX));
        let mut entries: Vec<u64> = words(segments.between(at, end)?).collect();
        // Behind the last call there is room up to the next symbol.
        while entries.last() == Some(&0) {
            entries.pop();
        }
        Some(Self { name, at, entries })
    }
}

/// What each vcpu has registered.
#[derive(Debug, Default)]
pub struct Registered(Vec<Entries>);

impl Registered {
    /// As it is in a guest that has booted.
    #[must_use]
    pub fn take(now: &[Entries]) -> Self {
        Self(now.to_vec())
    }

    /// Tells what has changed, and what leads out of the kernel's text. A vcpu that came later has what the first one has.
    pub fn check(&self, now: &[Entries], symbols: &Symbols, modules: &[Module], findings: &mut Findings) {
        let is_up = |entries: &&Entries| entries.callbacks != [0; 4];
        for (vcpu, entries) in now.iter().enumerate().filter(|(_, entries)| is_up(entries)) {
            let Some(reference) = self.0.get(vcpu).filter(is_up).or(self.0.first()) else { continue };
            let shown = |trap: &TrapInfo| match trap.address {
                0 => "none".to_owned(),
                address => format!("{} flags {}", named(symbols, modules, address), trap.flags),
            };
            let mut tell = |symbol: String, address: u64, before: String, after: String| {
                let finding =
                    Finding::Changed { what: What::Trap, symbol, address: Gva(address), before, after };
                // They are registered one by one.
                findings.push(Certainty::SeenTwice, finding);
            };
            let leads_out = |address: u64| address != 0 && symbols.nearest(Gva(address)).is_none();
            for (vector, (before, after)) in reference.traps.iter().zip(&entries.traps).enumerate() {
                if before != after || leads_out(after.address) {
                    let symbol = format!("vector {vector} of vcpu {vcpu}");
                    tell(symbol, after.address, shown(before), shown(after));
                }
            }
            let callbacks = reference.callbacks.iter().zip(&entries.callbacks);
            for (name, (before, after)) in Entries::CALLBACKS.iter().zip(callbacks) {
                if before != after || leads_out(*after) {
                    let symbol = format!("{name} callback of vcpu {vcpu}");
                    let of = |address| named(symbols, modules, address);
                    tell(symbol, *after, of(*before), of(*after));
                }
            }
        }
    }
}

/// The function of the kernel or the module that an address lies in, or the address.
pub(super) fn named(symbols: &Symbols, modules: &[Module], address: u64) -> String {
    let owner = place(symbols, modules, Gva(address)).owner;
    owner.map_or_else(|| format!("{address:#x}"), |owner| format!("{owner} ({address:#x})"))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(std::array::from_fn(|byte| word[byte])))
}
