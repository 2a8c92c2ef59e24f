//! Memory of the kernel that stays as it is after boot, compared byte by byte with how it should be.
//!
//! Text: as the image has it, but for places that are patched at boot, which are taken from memory when the reference is; whatever else
//! differs then was changed by somebody, and the image's bytes stay the measure. Places that are patched later may have each of their forms.
//! Read-only data: as the image has it, but for what boot still writes (`__ro_after_init`, and tables that it sorts).

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use honeyvmm::memory::Gva;

use super::finding::{Certainty, Finding, Findings, SHOWN_BYTES_MAX, What, shown};
use super::forms::{Form, Kind, Targets};
use super::hooks::Tracers;
use super::sites::{Site, Sites};
use crate::symbols::Symbols;
use crate::symbols::segments::Segments;
use crate::view::layout::{Unknown, symbol};
use crate::view::{Look, READ_BYTES_MAX, View, ViewError};

/// Steps that suffice for a kernel of 256 MB each of whose 200,000 places has changed.
pub const STEPS_MAX: u32 = 1 << 19;
/// Differing bytes with at most so many equal ones between them are one change.
const GAP_BYTES: u64 = 8;
/// Traced functions that are named; a tracer of all functions is told by them well enough.
const TRACED_MAX: usize = 16;
/// A piece that is compared at once, before its bytes are looked at.
const PIECE_BYTES: usize = 4096;
/// ftrace's entries.
const TRACER_ENTRIES: [&str; 3] = ["ftrace_caller", "ftrace_regs_caller", "__fentry__"];
/// What boot writes of read-only data.
const WRITTEN_AT_BOOT: [(&str, &str); 2] =
    [("__start_ro_after_init", "__end_ro_after_init"), ("__start___ex_table", "__stop___ex_table")];

/// A stretch of memory and how it should be.
#[derive(Debug)]
pub struct Constant {
    what: What,
    start: u64,
    expected: Expected,
    sites: Sites,
    /// By address: told of by others.
    skipped: Vec<Range<u64>>,
    /// By address: what boot writes.
    written_at_boot: Vec<Range<u64>>,
    tracer_entries: Vec<u64>,
}

/// How a stretch should be.
#[derive(Debug)]
enum Expected {
    /// These are its bytes.
    Held(Vec<u8>),
    /// As in the snapshot that the guest went on from, which is in the host's page cache once for all that went on from it.
    Saved(Arc<View>, usize),
}

impl Expected {
    fn bytes(&self) -> usize {
        match self {
            Expected::Held(bytes) => bytes.len(),
            Expected::Saved(_, bytes) => *bytes,
        }
    }

    /// Copies what should be at an address into `out`; `start`: where the stretch begins.
    fn read(&self, start: u64, at: u64, out: &mut [u8]) -> Result<(), ViewError> {
        match self {
            Expected::Held(bytes) => {
                let first = (at - start) as usize;
                out.copy_from_slice(&bytes[first..first + out.len()]);
                Ok(())
            }
            Expected::Saved(view, _) => view.look(1).read(Gva(at), out),
        }
    }
}

/// Why a byte differs.
enum Reason {
    /// It may, up to this address.
    Fine(u64),
    /// A function that is traced.
    Traced(Site),
    /// It may not.
    None,
    /// It is in a place where a breakpoint stands.
    Between(Site),
}

/// A change: its address, and how certain it is.
struct Run {
    range: Range<u64>,
    certainty: Certainty,
}

impl Constant {
    /// The kernel's text.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn text(symbols: &Symbols, segments: &Segments<'_>) -> Result<Self, Unknown> {
        let entries = TRACER_ENTRIES.iter().filter_map(|name| symbols.address(name));
        Ok(Self {
            sites: Sites::of(symbols, segments),
            tracer_entries: entries.map(|at| at.0).collect(),
            ..Self::of(What::Text, symbols, segments, "_stext", "_etext")?
        })
    }

    /// Its read-only data, without these ranges.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn data(
        symbols: &Symbols,
        segments: &Segments<'_>,
        skipped: Vec<Range<u64>>,
    ) -> Result<Self, Unknown> {
        let written = WRITTEN_AT_BOOT
            .iter()
            .filter_map(|(start, end)| Some(symbols.address(start)?.0..symbols.address(end)?.0));
        Ok(Self {
            skipped,
            written_at_boot: written.collect(),
            ..Self::of(What::ReadOnlyData, symbols, segments, "__start_rodata", "__end_rodata")?
        })
    }

    fn of(
        what: What,
        symbols: &Symbols,
        segments: &Segments<'_>,
        start: &'static str,
        end: &'static str,
    ) -> Result<Self, Unknown> {
        let (start, end) = (symbol(symbols, start)?.0, symbol(symbols, end)?.0);
        // What the file does not hold, between two sections, is zero.
        let mut expected = vec![0; end.saturating_sub(start) as usize];
        for run in segments.runs() {
            let first = run.start.0.max(start);
            let last = (run.start.0 + run.bytes.len() as u64).min(end);
            if first < last {
                let bytes = &run.bytes[(first - run.start.0) as usize..(last - run.start.0) as usize];
                expected[(first - start) as usize..(last - start) as usize].copy_from_slice(bytes);
            }
        }
        let (sites, skipped) = (Sites::default(), Vec::new());
        let expected = Expected::Held(expected);
        Ok(Self {
            what,
            start,
            expected,
            sites,
            skipped,
            written_at_boot: Vec::new(),
            tracer_entries: Vec::new(),
        })
    }

    /// Takes what boot has written from a guest that has booted, and tells what differs beyond that.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn take(
        &mut self,
        look: &Look<'_>,
        symbols: &Symbols,
        tracers: &Tracers,
        findings: &mut Findings,
    ) -> Result<(), ViewError> {
        // What is traced already is a hook of the reference.
        let (runs, _) = self.differences(look, symbols, tracers, |constant, at| constant.at_boot(at))?;
        for run in &runs {
            self.report(look, symbols, self.what, run, findings)?;
        }
        let Expected::Held(all) = &mut self.expected else { return Ok(()) };
        let mut kept = runs.into_iter().map(|run| run.range).peekable();
        let mut now = vec![0; READ_BYTES_MAX];
        for (expected, at) in all.chunks_mut(READ_BYTES_MAX).zip((self.start..).step_by(READ_BYTES_MAX)) {
            let now = &mut now[..expected.len()];
            let end = at + expected.len() as u64;
            look.read(Gva(at), now)?;
            // What somebody has changed stays as the image has it.
            while let Some(range) = kept.peek().filter(|range| range.start < end).cloned() {
                let from = (range.start.max(at) - at) as usize;
                let to = (range.end.min(end) - at) as usize;
                now[from..to].copy_from_slice(&expected[from..to]);
                if range.end > end {
                    break;
                }
                kept.next();
            }
            expected.copy_from_slice(now);
        }
        Ok(())
    }

    /// From now on the measure is this memory, which stays as it is, where it is the same as the one that was taken.
    pub fn rely_on(&mut self, saved: &Arc<View>) {
        let relied = Expected::Saved(Arc::clone(saved), self.expected.bytes());
        let mut piece = (vec![0; READ_BYTES_MAX], vec![0; READ_BYTES_MAX]);
        let same = (0..self.expected.bytes()).step_by(READ_BYTES_MAX).all(|first| {
            let (at, length) = (self.start + first as u64, READ_BYTES_MAX.min(self.expected.bytes() - first));
            let (held, saved) = (&mut piece.0[..length], &mut piece.1[..length]);
            let read =
                self.expected.read(self.start, at, held).and_then(|()| relied.read(self.start, at, saved));
            read.is_ok() && held == saved
        });
        if same {
            self.expected = relied;
        }
    }

    /// Tells what differs.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn check(
        &self,
        look: &Look<'_>,
        symbols: &Symbols,
        tracers: &Tracers,
        findings: &mut Findings,
    ) -> Result<(), ViewError> {
        let (runs, traced) = self.differences(look, symbols, tracers, |_, _| None)?;
        for range in traced {
            let run = Run { range, certainty: Certainty::Sure };
            self.report(look, symbols, What::Ftrace, &run, findings)?;
        }
        runs.iter().try_for_each(|run| self.report(look, symbols, self.what, run, findings))
    }

    fn at_boot(&self, at: u64) -> Option<u64> {
        let written = self.written_at_boot.iter().find(|range| range.contains(&at)).map(|range| range.end);
        written.or_else(|| self.sites.boot(at))
    }

    /// What differs and may not, where `fine` says up to which address a byte of no running place may; and where functions are traced that
    /// were not.
    fn differences(
        &self,
        look: &Look<'_>,
        symbols: &Symbols,
        tracers: &Tracers,
        fine: impl Fn(&Self, u64) -> Option<u64>,
    ) -> Result<(Vec<Run>, Vec<Range<u64>>), ViewError> {
        let is_function = |at| symbols.nearest(Gva(at)).is_some_and(|(_, offset)| offset == 0);
        let functions: BTreeSet<u64> = tracers.functions.iter().map(|at| at.0).collect();
        let targets = Targets {
            is_function: &is_function,
            tracer_entries: &self.tracer_entries,
            trampolines: &tracers.trampolines,
            tracers: &functions,
        };
        let mut runs: Vec<Run> = Vec::new();
        let mut traced: Vec<Range<u64>> = Vec::new();
        // Up to where bytes have been judged.
        let mut judged = self.start;
        let (mut expected, mut now) = (vec![0; READ_BYTES_MAX], vec![0; READ_BYTES_MAX]);
        for offset in (0..self.expected.bytes()).step_by(READ_BYTES_MAX) {
            let (first, length) =
                (self.start + offset as u64, READ_BYTES_MAX.min(self.expected.bytes() - offset));
            let (expected, now) = (&mut expected[..length], &mut now[..length]);
            self.expected.read(self.start, first, expected)?;
            look.read(Gva(first), now)?;
            let pieces = expected.chunks(PIECE_BYTES).zip(now.chunks(PIECE_BYTES));
            for ((expected, now), first) in pieces.zip((first..).step_by(PIECE_BYTES)) {
                if expected == now {
                    continue;
                }
                for (at, (expected, now)) in (first..).zip(expected.iter().zip(now)) {
                    if expected == now || at < judged {
                        continue;
                    }
                    judged = at + 1;
                    match self.judge(look, at, &targets, &fine)? {
                        Reason::Fine(end) => judged = end.max(judged),
                        Reason::Traced(site) => {
                            judged = site.at + site.bytes;
                            if traced.len() < TRACED_MAX {
                                traced.push(site.at..judged);
                            }
                        }
                        Reason::None => extend(&mut runs, at..at + 1, Certainty::Sure),
                        Reason::Between(site) => {
                            judged = site.at + site.bytes;
                            extend(&mut runs, site.at..judged, Certainty::SeenTwice);
                        }
                    }
                }
            }
        }
        Ok((runs, traced))
    }

    fn judge(
        &self,
        look: &Look<'_>,
        at: u64,
        targets: &Targets<'_>,
        fine: &impl Fn(&Self, u64) -> Option<u64>,
    ) -> Result<Reason, ViewError> {
        if let Some(range) = self.skipped.iter().find(|range| range.contains(&at)) {
            return Ok(Reason::Fine(range.end));
        }
        if let Some(site) = self.sites.running(at) {
            // Read again: a place may go over the end of what was read at once.
            let bytes = look.bytes(Gva(site.at), site.bytes)?;
            match site.kind.judge(site.at, &bytes, targets) {
                Form::Legal if site.kind == Kind::Tracer => return Ok(Reason::Traced(*site)),
                Form::Legal => return Ok(Reason::Fine(site.at + site.bytes)),
                Form::Between => return Ok(Reason::Between(*site)),
                Form::Illegal => {}
            }
        }
        Ok(fine(self, at).map_or(Reason::None, Reason::Fine))
    }

    fn report(
        &self,
        look: &Look<'_>,
        symbols: &Symbols,
        what: What,
        run: &Run,
        findings: &mut Findings,
    ) -> Result<(), ViewError> {
        let bytes = run.range.end - run.range.start;
        let mut before = vec![0; bytes.min(SHOWN_BYTES_MAX as u64 + 1) as usize];
        self.expected.read(self.start, run.range.start, &mut before)?;
        // One more than is shown tells that there is more.
        let now = look.bytes(Gva(run.range.start), bytes.min(SHOWN_BYTES_MAX as u64 + 1))?;
        let finding = Finding::Changed {
            what,
            symbol: match (what, symbols.nearest(Gva(run.range.start))) {
                // ftrace's place may be behind a landing pad: what counts is whose it is.
                (What::Ftrace, Some((function, _))) => function.to_owned(),
                (_, nearest) => named(nearest, run.range.start),
            },
            address: Gva(run.range.start),
            before: shown(&before),
            after: shown(&now),
        };
        findings.push(run.certainty, finding);
        Ok(())
    }
}

fn extend(runs: &mut Vec<Run>, range: Range<u64>, certainty: Certainty) {
    match runs.last_mut() {
        Some(last) if range.start <= last.range.end + GAP_BYTES && last.certainty == certainty => {
            last.range.end = range.end;
        }
        _ => runs.push(Run { range, certainty }),
    }
}

/// `do_sys_open+0x4`.
fn named(nearest: Option<(&str, u64)>, at: u64) -> String {
    match nearest {
        Some((name, 0)) => name.to_owned(),
        Some((name, offset)) => format!("{name}+{offset:#x}"),
        None => format!("{at:#x}"),
    }
}
