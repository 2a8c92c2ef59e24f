//! All checks together: a reference, then a look now and then.

use std::collections::HashSet;
use std::sync::Arc;

use honeyvmm::kernel_image::KernelImage;
use honeyvmm::memory::Gva;
use honeyvmm::shim::Entries;

use super::constant::{self, Constant};
use super::credentials::Credentials;
use super::finding::{Certainty, Confirmation, Finding, Findings, Told, What};
use super::hidden::{MissingFrom, hidden_tasks};
use super::hooks::{self, Hook, Hooks, Tracers, check_new};
use super::mapping::Mapping;
use super::tables::{CallTables, Registered};
use super::unlisted::Unlisted;
use crate::symbols::Symbols;
use crate::symbols::segments::Segments;
use crate::view::View;
use crate::view::layout::Unknown;
use crate::walk::WalkError;
use crate::walk::modules::{self, Module, Modules};
use crate::walk::pids::Pids;
use crate::walk::task::Task;
use crate::walk::tasks::{self, Tasks, Threads};

/// Letters of a module that nobody signed: built elsewhere, without a signature, loaded by force.
const FOREIGN: [char; 3] = ['O', 'E', 'F'];
/// Modules that have left the list and are remembered.
const MODULES_MAX: usize = 256;
/// Steps of a look at page tables and tables.
const TABLE_STEPS_MAX: u32 = 1 << 12;

/// What a check is told beside the guest's RAM.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// What each vcpu has registered.
    pub entries: &'a [Entries],
    /// Vcpus that are up: 0 to `vcpus - 1`.
    pub vcpus: u32,
    /// Processes that made system calls since the last check, and have not ended.
    pub callers: &'a HashSet<u32>,
    /// Tasks that made a call since the last check that gives rights: setuid and its like, a program that is setuid.
    pub explained: &'a HashSet<u32>,
}

/// What a check came to.
#[derive(Debug, Default)]
pub struct Checked {
    /// All that is wrong now.
    pub findings: Vec<Finding>,
    /// What could not be compared, and why: memory that does not hold together, a kernel that lays its data out in another way.
    pub incomplete: Vec<(&'static str, WalkError)>,
}

/// The integrity of one guest's kernel.
#[derive(Debug)]
pub struct Integrity {
    symbols: Arc<Symbols>,
    text: Constant,
    data: Constant,
    calls: CallTables,
    mapping: Mapping,
    registered: Registered,
    hooks: Result<Hooks, Unknown>,
    hooks_before: HashSet<Hook>,
    modules: Result<(Modules, Unlisted), Unknown>,
    /// Modules that were there when the reference was taken.
    modules_before: HashSet<Gva>,
    /// Modules that were in the list once, to name what is theirs when they have left it.
    modules_seen: Vec<Module>,
    tasks: Result<(Tasks, Pids, Credentials), Unknown>,
    confirmation: Confirmation,
    told: Told,
    has_reference: bool,
}

impl Integrity {
    /// Of a guest with this kernel. What its types do not tell is not compared.
    ///
    /// # Errors
    /// [`Unknown`]: not even its text is known.
    pub fn new(symbols: Arc<Symbols>, image: &KernelImage<'_>) -> Result<Self, Unknown> {
        let segments = Segments::of_kernel(image);
        let calls = CallTables::of(&symbols, &segments);
        let of_modules = || Ok((Modules::of(&symbols)?, Unlisted::of(&symbols)?));
        let of_tasks = || Ok((Tasks::of(&symbols)?, Pids::of(&symbols)?, Credentials::of(&symbols)?));
        Ok(Self {
            text: Constant::text(&symbols, &segments)?,
            data: Constant::data(&symbols, &segments, calls.ranges())?,
            mapping: Mapping::of(&symbols)?,
            registered: Registered::default(),
            hooks: Hooks::of(&symbols),
            hooks_before: HashSet::new(),
            modules: of_modules(),
            modules_before: HashSet::new(),
            modules_seen: Vec::new(),
            tasks: of_tasks(),
            confirmation: Confirmation::default(),
            told: Told::default(),
            has_reference: false,
            calls,
            symbols,
        })
    }

    /// What is not compared because the kernel does not tell its layouts.
    #[must_use]
    pub fn unknown(&self) -> Vec<&Unknown> {
        let parts = [self.hooks.as_ref().err(), self.modules.as_ref().err(), self.tasks.as_ref().err()];
        parts.into_iter().flatten().collect()
    }

    /// Whether the reference was taken.
    #[must_use]
    pub fn has_reference(&self) -> bool {
        self.has_reference
    }

    /// Takes the reference from a guest that has booted, once; what boot cannot have done is told at once, and at every check.
    pub fn reference(&mut self, view: &View, inputs: &Inputs<'_>) -> Checked {
        let mut round = Round::default();
        let symbols = Arc::clone(&self.symbols);
        let listed = self.listed(view, &mut round);
        self.modules_before = listed.iter().map(|module| module.at).collect();
        self.hooks_before = self.hooks_now(view, &listed, &mut round).into_iter().collect();
        let tracers = self.tracers(view, &mut round);
        for part in [&mut self.text, &mut self.data] {
            let taken = part.take(&view.look(constant::STEPS_MAX), &symbols, &tracers, &mut round.findings);
            round.note("text and read-only data", taken);
        }
        round.note("page tables", self.mapping.take(&view.look(TABLE_STEPS_MAX)));
        self.registered = Registered::take(inputs.entries);
        self.has_reference = true;
        self.finish(round)
    }

    /// Takes the reference from the snapshot that a guest went on from, which is then the measure and takes no memory of ours.
    pub fn reference_saved(&mut self, saved: &Arc<View>, inputs: &Inputs<'_>) -> Checked {
        let taken = self.reference(saved, inputs);
        [&mut self.text, &mut self.data].into_iter().for_each(|part| part.rely_on(saved));
        taken
    }

    /// Compares. Nothing is compared before there is a reference.
    pub fn check(&mut self, view: &View, inputs: &Inputs<'_>) -> Checked {
        let mut round = Round::default();
        if !self.has_reference {
            return Checked::default();
        }
        let symbols = Arc::clone(&self.symbols);
        let listed = self.listed(view, &mut round);
        self.remember(&listed);
        let hooks = self.hooks_now(view, &self.modules_seen, &mut round);
        check_new(&self.hooks_before, &hooks, &mut round.findings);
        let (look, seen) = (view.look(TABLE_STEPS_MAX), &self.modules_seen);
        let calls = self.calls.check(&look, &symbols, seen, &mut round.findings);
        let mapping = self.mapping.check(&look, &symbols, &mut round.findings);
        self.registered.check(inputs.entries, &symbols, seen, &mut round.findings);
        round.note("system calls", calls);
        round.note("page tables", mapping);
        self.check_modules(view, &listed, &mut round);
        self.check_tasks(view, inputs, &mut round);
        // Last, because there may be most of it.
        let tracers = self.tracers(view, &mut round);
        for part in [&self.text, &self.data] {
            let look = view.look(constant::STEPS_MAX);
            let checked = part.check(&look, &symbols, &tracers, &mut round.findings);
            round.note("text and read-only data", checked);
        }
        self.finish(round)
    }

    /// Whether something was seen that counts if the next check sees it too: then that should come soon.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.confirmation.is_waiting()
    }

    /// Whether a task runs a program that is setuid or setgid, at this moment.
    #[must_use]
    pub fn runs_set_id_program(&self, view: &View, task: Gva) -> bool {
        let Ok((_, _, credentials)) = &self.tasks else { return false };
        credentials.task_runs_set_id_program(&view.look(TABLE_STEPS_MAX), task)
    }

    /// What of a check was not told before.
    pub fn news(&mut self, checked: Vec<Finding>) -> Vec<Finding> {
        self.told.news(checked)
    }

    fn finish(&mut self, round: Round) -> Checked {
        Checked { findings: self.confirmation.confirmed(round.findings), incomplete: round.incomplete }
    }

    fn listed(&self, view: &View, round: &mut Round) -> Vec<Module> {
        let Ok((modules, _)) = &self.modules else { return Vec::new() };
        let listing = modules.list(&view.look(modules::STEPS_MAX));
        round.note("modules", listing.incomplete.map_or(Ok(()), Err));
        listing.items
    }

    /// Keeps the names of modules that leave the list, as long as no other takes their place.
    fn remember(&mut self, listed: &[Module]) {
        let end = |module: &Module| module.address.saturating_add(module.size);
        let overlaps = |a: &Module, b: &Module| a.address < end(b) && b.address < end(a);
        let mut seen = listed.to_vec();
        let left = self.modules_seen.drain(..).filter(|old| !listed.iter().any(|new| overlaps(old, new)));
        seen.extend(left.take(MODULES_MAX));
        self.modules_seen = seen;
    }

    fn hooks_now(&self, view: &View, listed: &[Module], round: &mut Round) -> Vec<Hook> {
        let Ok(hooks) = &self.hooks else { return Vec::new() };
        let listing = hooks.list(&view.look(hooks::STEPS_MAX), &self.symbols, listed);
        round.note("hooks", listing.incomplete.map_or(Ok(()), Err));
        listing.items
    }

    fn tracers(&self, view: &View, round: &mut Round) -> Tracers {
        let Ok(hooks) = &self.hooks else { return Tracers::default() };
        let known = hooks.known_tracers(&view.look(hooks::STEPS_MAX));
        known.unwrap_or_else(|error| {
            round.incomplete.push(("ftrace", error));
            Tracers::default()
        })
    }

    fn check_modules(&self, view: &View, listed: &[Module], round: &mut Round) {
        let is_foreign = |module: &&Module| module.taints.contains(FOREIGN);
        let is_new = |module: &&Module| !self.modules_before.contains(&module.at);
        for module in listed.iter().filter(is_new).filter(is_foreign) {
            let finding = Finding::Changed {
                what: What::Module,
                symbol: module.name.clone(),
                address: Gva(module.address),
                before: "none".to_owned(),
                after: format!("loaded, taints the kernel with {}", module.taints),
            };
            round.findings.push(Certainty::Sure, finding);
        }
        // Of a list that is torn everything behind the tear would be missing.
        if let Ok((_, unlisted)) = &self.modules
            && !round.incomplete.iter().any(|(what, _)| *what == "modules")
        {
            let look = view.look(modules::STEPS_MAX);
            let checked = unlisted.check(&look, &self.symbols, listed, &mut round.findings);
            round.note("hidden modules", checked);
        }
    }

    fn check_tasks(&mut self, view: &View, inputs: &Inputs<'_>, round: &mut Round) {
        let Ok((tasks, pids, credentials)) = &mut self.tasks else { return };
        let look = view.look(tasks::STEPS_MAX);
        for task in hidden_tasks(&look, tasks, pids, inputs.vcpus) {
            let (seen_by, missing_from) = match task.missing_from {
                MissingFrom::List => ("numbers", "list of tasks"),
                MissingFrom::Numbers => ("list of tasks", "numbers"),
                MissingFrom::Both => ("vcpu", "list of tasks and numbers"),
            };
            let (pid, comm) = task.task.map_or((0, String::new()), |task| (task.pid, task.comm));
            round.findings.push(Certainty::SeenTwice, Finding::Hidden { pid, comm, seen_by, missing_from });
        }
        let listing = tasks.list(&look, Threads::All);
        if let Some(error) = listing.incomplete {
            round.incomplete.push(("tasks", error));
            return;
        }
        check_callers(inputs.callers, &listing.items, &pids.list(&look).items, &mut round.findings);
        let roots = self.mapping.check_roots(&look, &listing.items, &mut round.findings);
        round.note("page tables of processes", roots);
        let looked = credentials.look(&look, &listing.items, inputs.explained, &mut round.findings);
        round.note("credentials", looked);
    }
}

/// Who makes system calls is in the list, or in the tree of numbers at least, where it would have been found.
fn check_callers(
    callers: &HashSet<u32>,
    tasks: &[Task],
    pids: &[crate::walk::pids::Pid],
    findings: &mut Findings,
) {
    let listed: HashSet<u32> = tasks.iter().map(|task| task.pid).collect();
    let numbered: HashSet<u32> = pids.iter().map(|pid| pid.number).collect();
    for pid in callers.iter().filter(|pid| !listed.contains(pid) && !numbered.contains(pid)) {
        let missing_from = "list of tasks and numbers";
        let finding =
            Finding::Hidden { pid: *pid, comm: String::new(), seen_by: "system calls", missing_from };
        findings.push(Certainty::SeenTwice, finding);
    }
}

/// One look.
#[derive(Debug, Default)]
struct Round {
    findings: Findings,
    incomplete: Vec<(&'static str, WalkError)>,
}

impl Round {
    fn note(&mut self, what: &'static str, result: Result<(), impl Into<WalkError>>) {
        if let Err(error) = result {
            self.incomplete.push((what, error.into()));
        }
    }
}
