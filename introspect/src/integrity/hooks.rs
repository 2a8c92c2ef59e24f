//! What has hooked itself into the kernel by the kernel's own means: kprobes, ftrace and eBPF, and where it leads.

use std::collections::HashSet;
use std::ops::Range;

use honeyvmm::memory::Gva;
use serde::Serialize;

use super::finding::{Certainty, Finding, Findings, What};
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Snapshot, Unknown, layout, symbol};
use crate::walk::modules::Module;
use crate::walk::xarray::{self, Xarray};
use crate::walk::{Listing, WalkError};

/// Steps that suffice for any honest number of hooks.
pub const STEPS_MAX: u32 = 1 << 18;
/// Hooks of one kind that are believed.
const HOOKS_MAX: usize = 1 << 14;
/// The longest trampoline that is believed; Linux' have less than a page.
const TRAMPOLINE_BYTES_MAX: u64 = 8192;
/// `KPROBE_TABLE_SIZE` of `kernel/kprobes.c`.
const KPROBE_CHAINS: u64 = 64;

layout! {
    ProbeLayout = "kprobe" {
        next: "hlist",
        at: "addr",
        handler: "pre_handler",
    }
}

layout! {
    TracerLayout = "ftrace_ops" {
        function: "func",
        next: "next",
        trampoline: "trampoline",
        trampoline_bytes: "trampoline_size",
    }
}

layout! {
    ProgramLayout = "bpf_prog" {
        kind: "type",
        aux: "aux",
    }
}

layout! {
    ProgramAuxLayout = "bpf_prog_aux" {
        number: "id",
        name: "name",
    }
}

/// Kinds of eBPF programs that decide over sockets and devices of a control group alone (`BPF_PROG_TYPE_CGROUP_`: SKB, SOCK, DEVICE,
/// SOCK_ADDR, SYSCTL, SOCKOPT): systemd loads them for services.
const GROUP_PROGRAMS: [u32; 6] = [8, 9, 15, 18, 23, 25];

/// Where an address is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Place {
    /// The address.
    pub address: u64,
    /// `do_sys_open+0x4`, `name_of_a_module`, or `None` for memory that belongs to neither.
    pub owner: Option<String>,
}

/// Something that runs when the kernel comes by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Hook {
    /// A breakpoint or jump in the kernel's text.
    Kprobe {
        /// Where it is.
        at: Place,
        /// What it calls; nothing for one of several at a place.
        handler: Option<Place>,
    },
    /// A function that is called at the begin of others.
    Ftrace {
        /// What is called.
        function: Place,
    },
    /// An eBPF program that is loaded, attached or not.
    Bpf {
        /// Its number.
        number: u32,
        /// The name that its loader gave it.
        name: String,
        /// `BPF_PROG_TYPE_` of `include/uapi/linux/bpf.h`.
        program_type: u32,
    },
}

/// Where ftrace may lead, as its list has it.
#[derive(Debug, Clone, Default)]
pub struct Tracers {
    /// What is called.
    pub functions: Vec<Gva>,
    /// Code that was written to call it.
    pub trampolines: Vec<Range<u64>>,
}

impl Hook {
    /// That it is there.
    fn finding(&self) -> Finding {
        let named = |place: &Place| place.owner.clone().unwrap_or_else(|| format!("{:#x}", place.address));
        let (what, symbol, address, after) = match self {
            Self::Kprobe { at, handler } => {
                let handler = handler.as_ref().map_or_else(|| "several".to_owned(), named);
                (What::Kprobe, named(at), at.address, handler)
            }
            Self::Ftrace { function } => (What::Ftrace, named(function), function.address, named(function)),
            Self::Bpf { number, name, program_type } => {
                (What::Bpf, name.clone(), 0, format!("program {number} of type {program_type}"))
            }
        };
        Finding::Changed { what, symbol, address: Gva(address), before: "none".to_owned(), after }
    }

    fn is_of_a_group(&self) -> bool {
        matches!(self, Self::Bpf { program_type, .. } if GROUP_PROGRAMS.contains(program_type))
    }
}

/// Tells the hooks that were not there before.
pub fn check_new(before: &HashSet<Hook>, now: &[Hook], findings: &mut Findings) {
    let is_new = |hook: &&Hook| !before.contains(*hook) && !hook.is_of_a_group();
    now.iter().filter(is_new).for_each(|hook| findings.push(Certainty::Sure, hook.finding()));
}

/// Where hooks are.
#[derive(Debug, Clone)]
pub struct Hooks {
    probes: Gva,
    probe: ProbeLayout,
    tracers: Gva,
    tracers_end: Gva,
    tracer: TracerLayout,
    programs: Gva,
    xarray: Xarray,
    program: ProgramLayout,
    program_aux: ProgramAuxLayout,
}

impl Hooks {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        let tree: Field = xarray::of_idr(symbols)?;
        Ok(Self {
            probes: symbol(symbols, "kprobe_table")?,
            probe: ProbeLayout::of(symbols)?,
            tracers: symbol(symbols, "ftrace_ops_list")?,
            tracers_end: symbol(symbols, "ftrace_list_end")?,
            tracer: TracerLayout::of(symbols)?,
            programs: tree.of(symbol(symbols, "prog_idr")?),
            xarray: Xarray::of(symbols)?,
            program: ProgramLayout::of(symbols)?,
            program_aux: ProgramAuxLayout::of(symbols)?,
        })
    }

    /// All hooks. `modules` are those of the kernel's list: code of one that has left it belongs to nobody, which is what to look for.
    #[must_use]
    pub fn list(&self, look: &Look<'_>, symbols: &Symbols, modules: &[Module]) -> Listing<Hook> {
        let mut listing = Listing { items: Vec::new(), incomplete: None };
        let place = |at: Gva| place(symbols, modules, at);
        for chain in 0..KPROBE_CHAINS {
            let result =
                self.chain_of_probes(look, Gva(self.probes.0 + 8 * chain), &mut listing.items, &place);
            if let Err(error) = result {
                listing.incomplete.get_or_insert(error);
            }
        }
        let items = &mut listing.items;
        let result = self.each_tracer(look, |tracer| {
            items.push(Hook::Ftrace { function: place(tracer.pointer(self.tracer.function)) });
        });
        if let Err(error) = result {
            listing.incomplete.get_or_insert(error);
        }
        let programs = self.xarray.entries(look, self.programs, HOOKS_MAX);
        for program in programs.items.into_iter().filter_map(xarray::pointer) {
            match self.program(look, program) {
                Ok(hook) => listing.items.push(hook),
                Err(error) => _ = listing.incomplete.get_or_insert(error),
            }
        }
        listing.incomplete = listing.incomplete.or(programs.incomplete);
        listing
    }

    /// Where ftrace may lead.
    ///
    /// # Errors
    /// [`WalkError`].
    pub fn known_tracers(&self, look: &Look<'_>) -> Result<Tracers, WalkError> {
        let mut known = Tracers::default();
        self.each_tracer(look, |tracer| {
            known.functions.push(tracer.pointer(self.tracer.function));
            let start = tracer.u64(self.tracer.trampoline);
            if start != 0 {
                let bytes = tracer.u64(self.tracer.trampoline_bytes).min(TRAMPOLINE_BYTES_MAX);
                known.trampolines.push(start..start.saturating_add(bytes));
            }
        })?;
        Ok(known)
    }

    fn chain_of_probes(
        &self,
        look: &Look<'_>,
        head: Gva,
        found: &mut Vec<Hook>,
        place: &impl Fn(Gva) -> Place,
    ) -> Result<(), WalkError> {
        let mut node = look.pointer(head)?;
        while node.0 != 0 {
            check_count(found)?;
            let probe = self.probe.read(look, self.probe.next.container(node))?;
            let handler = probe.target(self.probe.handler).map(place);
            found.push(Hook::Kprobe { at: place(probe.pointer(self.probe.at)), handler });
            // The first word of the node.
            node = look.pointer(node)?;
        }
        Ok(())
    }

    fn each_tracer(&self, look: &Look<'_>, mut take: impl FnMut(&Snapshot)) -> Result<(), WalkError> {
        let mut at = look.pointer(self.tracers)?;
        for _ in 0..HOOKS_MAX {
            if at == self.tracers_end || at.0 == 0 {
                return Ok(());
            }
            let tracer = self.tracer.read(look, at)?;
            take(&tracer);
            at = tracer.pointer(self.tracer.next);
        }
        Err(WalkError::TooMany { what: "hooks", max: HOOKS_MAX })
    }

    fn program(&self, look: &Look<'_>, at: Gva) -> Result<Hook, WalkError> {
        let program = self.program.read(look, at)?;
        let aux = self.program_aux.read(look, program.pointer(self.program.aux))?;
        Ok(Hook::Bpf {
            number: aux.u32(self.program_aux.number),
            name: aux.text(self.program_aux.name),
            program_type: program.u32(self.program.kind),
        })
    }
}

fn check_count(found: &[Hook]) -> Result<(), WalkError> {
    match found.len() >= HOOKS_MAX {
        true => Err(WalkError::TooMany { what: "hooks", max: HOOKS_MAX }),
        false => Ok(()),
    }
}

/// The kernel's function, or the module, that an address lies in.
#[must_use]
pub fn place(symbols: &Symbols, modules: &[Module], at: Gva) -> Place {
    let in_module =
        |module: &&Module| (module.address..module.address.saturating_add(module.size)).contains(&at.0);
    let owner = match symbols.nearest(at) {
        Some((name, 0)) => Some(name.to_owned()),
        Some((name, offset)) => Some(format!("{name}+{offset:#x}")),
        None => modules.iter().find(in_module).map(|module| module.name.clone()),
    };
    Place { address: at.0, owner }
}
