//! A capture as it grows. Events come from a ring a vcpu; they leave in the order of their times.

use std::collections::HashMap;

use super::parameters::{Parameters, Shown, Stamp};
use super::preface::{self, Machine};
use super::table::{self, Row};
use super::value::{self, Value};
use super::{Facts, generic, process};
use crate::trace::calls;
use crate::trace::pairing::Traced;
use crate::trace::record::Record;
use crate::trace::selection::Selection;

/// Threads that are remembered; as many as a walk shows of a guest.
const THREADS_MAX: usize = 1 << 16;
/// Who tells that calls are missing.
const TELLER: &[u8] = b"honeynet";

/// A capture being made.
#[derive(Debug)]
pub struct Capture {
    shown: Selection,
    // Threads and their processes.
    threads: HashMap<u32, u32>,
    pending: Vec<(u64, Vec<u8>)>,
    pending_bytes: usize,
    // The latest time of what was there when the rings were looked at last.
    seen_ns: u64,
}

impl Capture {
    /// One that shows these calls, and what it begins with.
    #[must_use]
    pub fn begin(machine: &Machine, shown: Selection) -> (Capture, Vec<u8>) {
        let threads = machine.tasks.iter().take(THREADS_MAX).map(|task| (task.pid, task.tgid)).collect();
        let capture = Capture { shown, threads, pending: Vec::new(), pending_bytes: 0, seen_ns: 0 };
        (capture, preface::preface(machine))
    }

    /// A call begins, at this time since 1970.
    pub fn enter(&mut self, record: &Record, time_ns: u64, facts: &dyn Facts) {
        let stamp = stamp(record, time_ns);
        self.meet(record, stamp, facts);
        let enter = record.clone();
        let call =
            Traced { enter, result: None, duration_ns: 0, after: Vec::new(), comm: record.comm.clone() };
        let Some(row) = row(&call) else {
            let mut parameters = code(&call);
            parameters.number(record.number.to_le_bytes());
            self.push(table::GENERIC, parameters, stamp, self.is_shown(&call));
            return;
        };
        if !value::is_late(row.at_enter, &call) {
            self.add(row.enter, row.at_enter, &call, stamp, facts);
        }
    }

    /// A call has ended, at this time since 1970.
    pub fn exit(&mut self, call: &Traced, time_ns: u64, facts: &dyn Facts) {
        let stamp = stamp(&call.enter, time_ns);
        let Some(row) = row(call) else {
            match call.result {
                Some(_) => self.push(table::GENERIC + 1, code(call), stamp, self.is_shown(call)),
                None => self.end(call, stamp),
            }
            return;
        };
        if value::is_late(row.at_enter, call) {
            let began = Stamp { time_ns: time_ns.saturating_sub(call.duration_ns), ..stamp };
            self.add(row.enter, row.at_enter, &Traced { result: None, ..call.clone() }, began, facts);
        }
        self.add(row.enter + 1, row.at_exit, call, stamp, facts);
    }

    /// So many beginnings and ends of calls are missing before this one.
    pub fn lost(&mut self, events: u64, record: &Record, time_ns: u64) {
        let mut parameters = Parameters::default();
        parameters.text(TELLER);
        parameters.text(format!("{events} events are missing: what reads them was too slow").as_bytes());
        self.push(table::NOTIFICATION, parameters, stamp(record, time_ns), Shown::Yes);
    }

    /// Bytes that wait for [`Capture::release`].
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// After each look at all rings: what is no later than what the look before saw. Nothing earlier can come any more, for it was written
    /// to its ring before this look.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        self.pending.sort_by_key(|(time_ns, _)| *time_ns);
        let settled = self.pending.partition_point(|(time_ns, _)| *time_ns <= self.seen_ns);
        self.seen_ns = self.pending.last().map_or(self.seen_ns, |(time_ns, _)| *time_ns);
        for (_, event) in self.pending.drain(..settled) {
            self.pending_bytes -= event.len();
            out.extend(event);
        }
    }

    /// A thread that is seen for the first time has just come back from the clone(2) of another, which may not have ended yet.
    fn meet(&mut self, record: &Record, stamp: Stamp, facts: &dyn Facts) {
        if self.threads.contains_key(&record.pid) {
            return;
        }
        if self.threads.len() >= THREADS_MAX {
            // Threads whose end was not seen.
            self.threads.clear();
        }
        self.threads.insert(record.pid, record.tgid);
        let mut parameters = Parameters::default();
        parameters.i64(0);
        process::born(&mut parameters, record, facts.task(record.task).as_ref());
        self.push(table::CLONE_EXIT, parameters, stamp, self.shows("clone"));
    }

    /// exit(2) ends a thread, exit_group(2) all of a process.
    fn end(&mut self, call: &Traced, stamp: Stamp) {
        let shown = self.is_shown(call);
        let (tid, pid) = (call.enter.pid, call.enter.tgid);
        let is_whole = call.call().is_some_and(|known| known.name == "exit_group");
        let mut ended: Vec<u32> = match is_whole {
            true => self.threads.iter().filter(|(_, of)| **of == pid).map(|(tid, _)| *tid).collect(),
            false => vec![tid],
        };
        // A reader forgets a process with its first thread, so that comes last.
        ended.sort_unstable_by_key(|tid| (*tid == pid, *tid));
        let status = call.arguments()[0] as u8;
        for tid in ended {
            self.threads.remove(&tid);
            let mut parameters = Parameters::default();
            // As wait(2) gives it, as the program gave it, no signal, no core.
            parameters.i64(i64::from(status) << 8);
            parameters.i64(status.into());
            parameters.number([0]);
            parameters.number([0]);
            self.push(table::PROCEXIT, parameters, Stamp { tid, ..stamp }, shown);
        }
    }

    fn add(&mut self, event: u16, values: &[Value], call: &Traced, stamp: Stamp, facts: &dyn Facts) {
        let parameters = value::parameters(values, call, facts);
        self.push(event, parameters, stamp, self.is_shown(call));
    }

    fn push(&mut self, event: u16, parameters: Parameters, stamp: Stamp, shown: Shown) {
        let bytes = parameters.event(event, stamp, shown);
        self.pending_bytes += bytes.len();
        self.pending.push((stamp.time_ns, bytes));
    }

    fn is_shown(&self, call: &Traced) -> Shown {
        call.call().map_or(Shown::Yes, |known| self.shows(known.name))
    }

    fn shows(&self, call: &str) -> Shown {
        let is_shown = calls::by_name(call).is_some_and(|call| self.shown.has(call.number));
        if is_shown { Shown::Yes } else { Shown::ForState }
    }
}

fn row(call: &Traced) -> Option<&'static Row> {
    table::of(call.call()?.name)
}

/// The first parameter of a call that has no event of its own.
fn code(call: &Traced) -> Parameters {
    let mut parameters = Parameters::default();
    parameters.number(call.call().map_or(0, |known| generic::code(known.name)).to_le_bytes());
    parameters
}

fn stamp(record: &Record, time_ns: u64) -> Stamp {
    Stamp { time_ns, tid: record.pid, vcpu: record.vcpu }
}
