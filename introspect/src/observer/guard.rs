//! When the guest's kernel is looked at, and what is told of it.
//!
//! The reference is taken when the first connection comes, before its process goes on, or half a minute after we began, whichever is first; of
//! a guest that goes on from a snapshot it is that snapshot, which nobody can change, so that nobody waits for it. A
//! check that has seen what counts only if it is seen twice is repeated soon.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::Event;
use honeyvmm::memory::{Gva, Region};
use honeyvmm::shim::Entries;
use jiff::Timestamp;

use super::ObserverConfig;
use super::cause::Lived;
use crate::integrity::{Checked, Inputs, Integrity};
use crate::session::Sessions;
use crate::trace::calls;
use crate::trace::pairing::Traced;
use crate::trace::record::{Phase, Record};
use crate::view::View;

/// How long a guest boots, at most, without a connection.
const BOOT: Duration = Duration::from_secs(30);
/// How often is looked.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// When the snapshot that a guest goes on from is looked at: it takes a while, and whoever waits for us just then has come at once.
const SETTLED: Duration = Duration::from_secs(1);
/// And how soon again.
const CONFIRM_AFTER: Duration = Duration::from_secs(1);
/// Processes that are remembered between two checks; a guest that lies about their numbers is believed so many.
const PROCESSES_MAX: usize = 1 << 16;
/// Calls by which a process gets rights that it had before.
const SETUID_FAMILY: [&str; 9] =
    ["setuid", "setreuid", "setresuid", "setfsuid", "setgid", "setregid", "setresgid", "setfsgid", "capset"];
/// Calls after which a process may be in another namespace of users.
const NAMESPACES: [&str; 2] = ["setns", "unshare"];

/// Watches over one guest's kernel.
pub struct Guard {
    integrity: Integrity,
    shim: Region,
    name: String,
    domid: u32,
    vcpus: u32,
    // What it went on from, with what its vcpus had registered then.
    saved: Option<(Arc<View>, Vec<Entries>)>,
    begun: Instant,
    next: Instant,
    was_live: bool,
    lived: Lived,
    callers: HashSet<u32>,
    explained: HashSet<u32>,
    /// Those of the interval before: a call may end a little after its rights were seen.
    explained_before: HashSet<u32>,
    news: Vec<Event>,
}

impl Guard {
    /// Of the domain with this shim; `saved`: the RAM that it went on with.
    pub fn new(integrity: Integrity, shim: &Region, config: &ObserverConfig, saved: Option<View>) -> Guard {
        for unknown in integrity.unknown() {
            tracing::warn!(%unknown, "part of the kernel is not compared");
        }
        let now = Instant::now();
        Guard {
            integrity,
            shim: shim.clone(),
            name: config.name.clone(),
            domid: config.domid,
            vcpus: config.vcpus,
            saved: saved.map(|saved| (Arc::new(saved), entries(shim, config.vcpus))),
            begun: now,
            next: now,
            was_live: false,
            lived: Lived::default(),
            callers: HashSet::new(),
            explained: HashSet::new(),
            explained_before: HashSet::new(),
            news: Vec::new(),
        }
    }

    /// A call begins.
    pub fn begins(&mut self, record: &Record) {
        let Phase::Enter(_) = record.phase else { return };
        if self.callers.len() < PROCESSES_MAX {
            self.callers.insert(record.tgid);
        }
        let name = calls::of(record.number, record.compat).map(|call| call.name);
        if name.is_some_and(|name| SETUID_FAMILY.contains(&name) || NAMESPACES.contains(&name)) {
            self.explain(record);
        }
        let is_last = name == Some("exit_group") || (name == Some("exit") && record.pid == record.tgid);
        if is_last {
            self.callers.remove(&record.tgid);
        }
    }

    /// A call has ended, and its process waits if it was execve.
    pub fn ended(&mut self, call: &Traced, view: &View) {
        let is_exec = call.call().is_some_and(|known| matches!(known.name, "execve" | "execveat"));
        if is_exec && call.result == Some(0) && self.integrity.runs_set_id_program(view, Gva(call.enter.task))
        {
            self.explain(&call.enter);
        }
    }

    fn explain(&mut self, record: &Record) {
        if self.explained.len() < PROCESSES_MAX {
            self.explained.extend([record.pid, record.tgid]);
        }
    }

    /// Somebody may come in as soon as this returns.
    pub fn before_live(&mut self, view: &View, sessions: &Sessions) {
        if self.saved.is_none() && !self.integrity.has_reference() {
            self.take_reference(view, sessions);
        }
    }

    /// Looks, if it is time to.
    pub fn look(&mut self, view: &View, sessions: &Sessions) {
        let has_ended = self.was_live && !sessions.wanted();
        self.was_live = sessions.wanted();
        self.lived.see(sessions.ids());
        if !self.integrity.has_reference() {
            let due = if self.saved.is_some() { SETTLED } else { BOOT };
            if self.begun.elapsed() >= due {
                self.take_reference(view, sessions);
            }
            return;
        }
        if has_ended || Instant::now() >= self.next {
            let mut explained = self.explained.clone();
            explained.extend(&self.explained_before);
            let checked = self.with_inputs(&explained, |integrity, inputs| integrity.check(view, inputs));
            self.callers.clear();
            self.explained_before = std::mem::take(&mut self.explained);
            self.tell(checked, sessions);
            self.lived.looked();
        }
    }

    /// What there is to tell since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.news)
    }

    fn take_reference(&mut self, view: &View, sessions: &Sessions) {
        let explained = HashSet::new();
        let taken = match self.saved.take() {
            Some((saved, entries)) => {
                // Nobody has called anything in it.
                let callers = HashSet::new();
                let inputs =
                    Inputs { entries: &entries, vcpus: self.vcpus, callers: &callers, explained: &explained };
                self.integrity.reference_saved(&saved, &inputs)
            }
            None => self.with_inputs(&explained, |integrity, inputs| integrity.reference(view, inputs)),
        };
        self.tell(taken, sessions);
    }

    fn with_inputs(
        &mut self,
        explained: &HashSet<u32>,
        look: impl FnOnce(&mut Integrity, &Inputs<'_>) -> Checked,
    ) -> Checked {
        let entries = entries(&self.shim, self.vcpus);
        let inputs = Inputs { entries: &entries, vcpus: self.vcpus, callers: &self.callers, explained };
        look(&mut self.integrity, &inputs)
    }

    fn tell(&mut self, checked: Checked, sessions: &Sessions) {
        for (what, error) in &checked.incomplete {
            tracing::warn!(what, error = events::sentence(error), "part of the kernel was not compared");
        }
        let now = Timestamp::now();
        let news = self.integrity.news(checked.findings);
        self.news.extend(news.iter().map(|finding| {
            let mut event = finding.event(now).domain(&self.name, Some(self.domid));
            event.session = self.lived.cause(finding.pid(), sessions);
            event
        }));
        let pause = if self.integrity.is_waiting() { CONFIRM_AFTER } else { CHECK_EVERY };
        self.next = Instant::now() + pause;
    }
}

/// What each vcpu has registered.
fn entries(shim: &Region, vcpus: u32) -> Vec<Entries> {
    (0..vcpus).map(|vcpu| Entries::registered(shim, vcpu).unwrap_or_default()).collect()
}
