//! Places in text that Linux patches, from the tables that the image has for that (`arch/x86/kernel/vmlinux.lds.S`): some only while it boots,
//! some for as long as it runs.

use std::ops::Range;

use honeyvmm::memory::Gva;

use super::forms::{CALL_BYTES, JUMP_SHORT_BYTES, Kind};
use crate::symbols::Symbols;
use crate::symbols::segments::Segments;

/// `struct jump_entry`: code and target as distances, and the key.
const JUMP_ENTRY_BYTES: usize = 16;
/// `struct static_call_site`: address and key as distances.
const CALL_SITE_BYTES: usize = 8;
/// A distance.
const DISTANCE_BYTES: usize = 4;
/// `ENDBR64`, which is overwritten where nobody jumps to.
const ENDBR_BYTES: u64 = 4;
/// Bytes of `struct alt_instr` before Linux 6.3, if there is no BTF to ask.
const ALTERNATIVE_BYTES: u64 = 12;
/// `struct paravirt_patch_site`: address, type, length.
const PARAVIRT_BYTES: usize = 16;
const PAGE_BYTES: u64 = 4096;
/// Kinds of constants and their bytes: an address, the bits of a shift.
const CONSTANTS: [(&str, u64); 2] = [("ptr_", 8), ("shift_", 1)];
/// Labels in ftrace's own entry code whose calls it patches.
const TRACER_CALLS: [&str; 3] = ["ftrace_call", "ftrace_regs_call", "ftrace_graph_call"];

/// A place that is patched while the kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Its first byte.
    pub at: u64,
    /// Bytes of it that are patched.
    pub bytes: u64,
    /// By what, and so to what.
    pub kind: Kind,
}

/// All places.
#[derive(Debug, Default)]
pub struct Sites {
    /// By address.
    running: Vec<Site>,
    /// By address, without overlap.
    boot: Vec<Range<u64>>,
}

impl Sites {
    /// Of this kernel. A table that it does not have is empty.
    #[must_use]
    pub fn of(symbols: &Symbols, segments: &Segments<'_>) -> Self {
        let tables = Tables { symbols, segments };
        let mut running = tables.jumps();
        running.extend(tables.static_calls());
        running.extend(tables.tracers());
        running.extend(tables.locks());
        running.sort_by_key(|site| site.at);
        let mut boot = tables.alternatives();
        boot.extend(tables.paravirt());
        boot.extend(tables.branches());
        boot.extend(tables.constants());
        boot.extend(tables.of_xen());
        Self { running, boot: merged(boot) }
    }

    /// The place that a byte is in, of those that are patched while the kernel runs.
    #[must_use]
    pub fn running(&self, at: u64) -> Option<&Site> {
        let after = self.running.partition_point(|site| site.at <= at);
        let site = self.running.get(after.checked_sub(1)?)?;
        (at < site.at + site.bytes).then_some(site)
    }

    /// The end of the place that a byte is in, of those that are patched while it boots.
    #[must_use]
    pub fn boot(&self, at: u64) -> Option<u64> {
        let after = self.boot.partition_point(|range| range.start <= at);
        let range = self.boot.get(after.checked_sub(1)?)?;
        range.contains(&at).then_some(range.end)
    }
}

fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// The tables, which the image alone tells.
struct Tables<'a> {
    symbols: &'a Symbols,
    segments: &'a Segments<'a>,
}

impl<'a> Tables<'a> {
    fn table(&self, start: &str, end: &str) -> Option<(u64, &'a [u8])> {
        let (start, end) = (self.symbols.address(start)?, self.symbols.address(end)?);
        Some((start.0, self.segments.between(start, end)?))
    }

    /// Places of a table whose entries begin with the distance from themselves to it.
    fn relative(&self, start: &str, end: &str, entry_bytes: usize) -> Vec<u64> {
        let Some((at, bytes)) = self.table(start, end) else { return Vec::new() };
        let entries = bytes.chunks_exact(entry_bytes).zip(0_u64..);
        entries.map(|(entry, index)| distant(at + index * entry_bytes as u64, entry)).collect()
    }

    fn code(&self, at: u64) -> &'a [u8] {
        self.segments.from(Gva(at)).unwrap_or_default()
    }

    /// Static keys: a jump, or a nop of its size; the compiler, or objtool, has chosen which size.
    fn jumps(&self) -> Vec<Site> {
        let Some((at, bytes)) = self.table("__start___jump_table", "__stop___jump_table") else {
            return Vec::new();
        };
        let entries = bytes.chunks_exact(JUMP_ENTRY_BYTES).zip(0_u64..);
        let site = |(entry, index): (&[u8], u64)| {
            let entry_at = at + index * JUMP_ENTRY_BYTES as u64;
            let code = distant(entry_at, entry);
            let target = distant(entry_at + 4, &entry[4..]);
            let is_short = matches!(self.code(code).first(), Some(0xeb | 0x66));
            let bytes = if is_short { JUMP_SHORT_BYTES } else { CALL_BYTES };
            Site { at: code, bytes, kind: Kind::Jump { target } }
        };
        entries.map(site).collect()
    }

    fn static_calls(&self) -> Vec<Site> {
        let sites = self.relative("__start_static_call_sites", "__stop_static_call_sites", CALL_SITE_BYTES);
        let sites = sites.into_iter().map(|at| {
            // At the end of a function it may be a conditional jump, which is one longer: six bytes with a distance of four.
            let is_conditional = matches!(self.code(at), [0x0f, 0x80..=0x8f, ..]);
            Site { at, bytes: CALL_BYTES + u64::from(is_conditional), kind: Kind::StaticCall }
        });
        // What is behind a trampoline's jump marks it, and is not patched.
        let trampolines = self.symbols.symbols().filter(|symbol| symbol.name.starts_with("__SCT__"));
        let trampolines = trampolines.map(|symbol| symbol.address.0);
        let trampolines = trampolines.map(|at| Site { at, bytes: CALL_BYTES, kind: Kind::StaticCall });
        sites.chain(trampolines).collect()
    }

    fn tracers(&self) -> Vec<Site> {
        let table = self.table("__start_mcount_loc", "__stop_mcount_loc");
        let words = table.map_or(&[][..], |(_, bytes)| bytes).chunks_exact(8);
        let begins = words.map(|word| u64::from_le_bytes(std::array::from_fn(|byte| word[byte])));
        let begins = begins.map(|at| Site { at, bytes: CALL_BYTES, kind: Kind::Tracer });
        let calls = TRACER_CALLS.iter().filter_map(|name| self.symbols.address(name));
        let calls = calls.map(|at| Site { at: at.0, bytes: CALL_BYTES, kind: Kind::TracerCall });
        begins.chain(calls).collect()
    }

    fn locks(&self) -> Vec<Site> {
        let locks = self.relative("__smp_locks", "__smp_locks_end", DISTANCE_BYTES);
        locks.into_iter().map(|at| Site { at, bytes: 1, kind: Kind::Lock }).collect()
    }

    fn alternatives(&self) -> Vec<Range<u64>> {
        let entry_bytes = self.symbols.size_of("alt_instr").unwrap_or(ALTERNATIVE_BYTES).max(12) as usize;
        let Some((at, bytes)) = self.table("__alt_instructions", "__alt_instructions_end") else {
            return Vec::new();
        };
        let length = self.symbols.member("alt_instr", "instrlen").map_or(10, |member| member.offset as usize);
        let entries = bytes.chunks_exact(entry_bytes).zip(0_u64..);
        let range = |(entry, index): (&[u8], u64)| {
            let code = distant(at + index * entry_bytes as u64, entry);
            code..code + u64::from(entry.get(length).copied().unwrap_or(0))
        };
        entries.map(range).collect()
    }

    fn paravirt(&self) -> Vec<Range<u64>> {
        let Some((_, bytes)) = self.table("__parainstructions", "__parainstructions_end") else {
            return Vec::new();
        };
        let entries = bytes.chunks_exact(PARAVIRT_BYTES);
        let range = |entry: &[u8]| {
            let code = u64::from_le_bytes(std::array::from_fn(|byte| entry[byte]));
            code..code.saturating_add(u64::from(entry[9]))
        };
        entries.map(range).collect()
    }

    /// Indirect branches, returns and calls that a mitigation replaces, and landing pads that are closed.
    fn branches(&self) -> Vec<Range<u64>> {
        let mut places = self.relative("__retpoline_sites", "__retpoline_sites_end", DISTANCE_BYTES);
        places.extend(self.relative("__return_sites", "__return_sites_end", DISTANCE_BYTES));
        places.extend(self.relative("__call_sites", "__call_sites_end", DISTANCE_BYTES));
        let branches = places.into_iter().map(|at| at..at + branch_bytes(self.code(at)));
        let pads = self.relative("__ibt_endbr_seal", "__ibt_endbr_seal_end", DISTANCE_BYTES);
        branches.chain(pads.into_iter().map(|at| at..at + ENDBR_BYTES)).collect()
    }

    /// Constants that are known when it has booted, and are then part of instructions (`include/asm/runtime-const.h`, since 6.11): a table each.
    fn constants(&self) -> Vec<Range<u64>> {
        let tables = self.symbols.symbols().filter_map(|symbol| {
            let name = symbol.name.strip_prefix("__start_runtime_")?;
            let bytes = CONSTANTS.iter().find(|(kind, _)| name.starts_with(kind))?.1;
            Some((self.relative(symbol.name, &format!("__stop_runtime_{name}"), DISTANCE_BYTES), bytes))
        });
        tables.flat_map(|(places, bytes)| places.into_iter().map(move |at| at..at + bytes)).collect()
    }

    /// What no table names: the page of stubs that the domain's builder fills, and the jump by which all returns to user mode go through
    /// Xen (`entry_64.S`).
    fn of_xen(&self) -> Vec<Range<u64>> {
        let places = [("hypercall_page", PAGE_BYTES), ("early_xen_iret_patch", CALL_BYTES)];
        let range = |(name, bytes)| {
            let at = self.symbols.address(name)?.0;
            Some(at..at + bytes)
        };
        places.into_iter().filter_map(range).collect()
    }
}

/// A branch with a distance of four bytes: one byte before it, two if it is conditional, one more with a prefix.
fn branch_bytes(code: &[u8]) -> u64 {
    match code {
        [0x2e | 0x3e, rest @ ..] => 1 + branch_bytes(rest.get(..2).unwrap_or_default()),
        [0x0f, 0x80..=0x8f, ..] => CALL_BYTES + 1,
        _ => CALL_BYTES,
    }
}

/// Where a distance leads that lies at this address.
fn distant(at: u64, bytes: &[u8]) -> u64 {
    let distance = bytes.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
    at.wrapping_add_signed(distance.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_touch_are_one() {
        assert_eq!(merged(vec![8..12, 0..4, 4..6, 9..10]), [0..6, 8..12]);
    }

    #[test]
    fn branches_have_the_length_of_their_instruction() {
        assert_eq!(branch_bytes(&[0xe9, 0, 0, 0, 0]), 5);
        assert_eq!(branch_bytes(&[0x0f, 0x84, 0, 0, 0, 0]), 6);
        assert_eq!(branch_bytes(&[0x2e, 0xe8, 0, 0, 0, 0]), 6);
        assert_eq!(branch_bytes(&[]), 5);
    }

    #[test]
    fn a_byte_is_in_a_place_or_in_none() {
        let site = Site { at: 16, bytes: 5, kind: Kind::StaticCall };
        let boot = std::iter::once(32..40).collect();
        let sites = Sites { running: vec![site], boot };
        assert_eq!([15, 16, 20, 21].map(|at| sites.running(at).is_some()), [false, true, true, false]);
        assert_eq!([31, 32, 39, 40].map(|at| sites.boot(at)), [None, Some(40), Some(40), None]);
    }
}
