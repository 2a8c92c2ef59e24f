//! Sessions: one connection from outside, the processes that came of it, and what they did, made of the trace's calls.
//!
//! A session begins when a program that has accepted a connection from another machine forks; whoever descends from that child belongs to it.
//! It ends with its last process.

mod cast;
mod folders;
pub mod ftp;
pub mod guest;
mod guest_log;
mod line;
mod live;
pub mod password;
pub mod peer;
pub mod privsep;
pub mod report;
pub mod samples;
mod screens;

use std::collections::HashMap;
use std::io;

use events::{Event, EventId};
use jiff::Timestamp;

use crate::trace::calls;
use crate::trace::pairing::Traced;
use crate::trace::record::Record;
use crate::trace::selection::FileKind;
pub use folders::Folders;
use guest::{Found, Guest};
use live::Live;
use peer::Peer;
use samples::Written;

/// Connections that were accepted and have not led to a process, per program.
const ACCEPTED_MAX: usize = 256;
/// Such a connection is waited for so long.
const ACCEPTED_S: i64 = 60;
/// Processes that are known at one time.
const PROCESSES_MAX: usize = 32 * 1024;
/// Sessions that live at one time.
const SESSIONS_MAX: usize = 1024;
/// `CLONE_THREAD`: the new task is no process.
const CLONE_THREAD: u64 = 0x10000;

struct Accepted {
    fd: i64,
    peer: Peer,
    at: Timestamp,
}

#[derive(Debug, Clone)]
struct Known {
    session: Option<String>,
    exe: String,
}

/// All sessions of a domain.
pub struct Sessions {
    domain: String,
    domid: u32,
    folders: Folders,
    live: HashMap<String, Live>,
    processes: HashMap<u32, Known>,
    accepted: HashMap<u32, Vec<Accepted>>,
    written: Written,
    last: u16,
    events: Vec<Event>,
}

impl Sessions {
    /// None yet.
    pub fn new(domain: String, domid: u32, folders: Folders) -> Sessions {
        Sessions {
            domain,
            domid,
            folders,
            live: HashMap::new(),
            processes: HashMap::new(),
            accepted: HashMap::new(),
            written: Written::default(),
            last: 0,
            events: Vec::new(),
        }
    }

    /// Is everything to be recorded? Else only the beginnings of connections are of interest.
    pub fn wanted(&self) -> bool {
        !self.live.is_empty() || !self.accepted.is_empty()
    }

    /// Those that live.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.live.keys().map(String::as_str)
    }

    /// The session that this process belongs to.
    pub fn of_process(&self, pid: u32) -> Option<&str> {
        self.processes.get(&pid)?.session.as_deref()
    }

    /// What there is to tell since the last call.
    pub fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Takes a call that was made at this time.
    pub fn take(&mut self, call: &Traced, at: Timestamp, guest: &dyn Guest) {
        let Some(name) = call.call().map(|known| known.name) else {
            return;
        };
        match name {
            "accept" | "accept4" => self.accept(call, at, guest),
            "close" => self.close(call),
            "write" | "writev" | "sendto" | "sendmsg" => self.logged(call, at),
            _ => {}
        }
        let Some(id) = self.session_of(call, guest) else {
            if matches!(name, "clone" | "clone3" | "fork" | "vfork") {
                self.fork(call, at, guest);
            }
            return;
        };
        match name {
            "clone" | "clone3" | "fork" | "vfork" => self.inherit(call, &id, guest),
            "execve" | "execveat" if call.result == Some(0) => self.executed(call, at, &id, guest),
            _ => {}
        }
        let exe = self.processes.get(&call.enter.tgid).map(|known| known.exe.clone()).unwrap_or_default();
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        let wrote = matches!(name, "write" | "writev" | "pwrite64" | "pwritev") && call.enter.kind.is_none();
        if wrote && call.enter.file != 0 && !live.is_service(&exe) {
            live.dirty.wrote(call.enter.file, call.enter.tgid, at, guest);
        }
        self.events.extend(live.take(call, name, at, &exe, &self.folders));
        if name == "exit_group" {
            self.exited(call.enter.tgid, at, Some(call.arguments()[0] as i32), guest);
        }
    }

    /// A call begins, and the vcpu waits: what it will make vanish is looked at now.
    pub fn before(&mut self, record: &Record, at: Timestamp, guest: &dyn Guest) {
        let Some(id) = self.processes.get(&record.tgid).and_then(|known| known.session.clone()) else {
            return;
        };
        let found: Vec<Found> = match calls::of(record.number, record.compat).map(|call| call.name) {
            Some("close" | "dup2" | "dup3") if record.kind.is_none() => {
                let found = guest.written(record.file);
                if found.is_some()
                    && let Some(live) = self.live.get_mut(&id)
                {
                    live.dirty.closed(record.file);
                }
                found.into_iter().collect()
            }
            Some("exit_group") => guest.all_written(record.task),
            _ => return,
        };
        for found in found {
            self.written.note(found.file);
            self.keep(&id, &found, "written", record.tgid, at);
        }
    }

    fn keep(&mut self, id: &str, found: &Found, why: &str, pid: u32, at: Timestamp) {
        let how = if found.path.starts_with("/memfd:") { "memfd" } else { why };
        let Some(live) = self.live.get_mut(id) else {
            return;
        };
        // The service's own files are no intruder's: its logs, its record of logins.
        if self.processes.get(&pid).is_some_and(|known| live.is_service(&known.exe)) {
            return;
        }
        match live.keep(found, how, pid, at, &self.folders) {
            Ok(event) => self.events.extend(event),
            Err(error) => tracing::error!(%error, session = id, "a sample is not kept"),
        }
    }

    /// Goes on with the sessions that another observer of this domain has left. `alive`: the guest's processes, by number, with when they
    /// began; without it all are taken for living, until [`Sessions::reap`] knows better. What is over, or was another's, ends now.
    pub fn take_up(&mut self, alive: Option<&HashMap<u32, u64>>, at: Timestamp, guest: &dyn Guest) {
        let (reports, last) = match self.folders.open_reports(self.domid) {
            Ok(found) => found,
            Err(error) => return tracing::error!(%error, "sessions that were open before are not taken up"),
        };
        self.last = last;
        for mut report in reports.into_iter().take(SESSIONS_MAX) {
            let id = report.id.clone();
            if report.domain != self.domain || report.domid != self.domid {
                // An earlier house gave the number to another domain.
                report.resume = None;
            }
            let resumed = report.resume.iter().flat_map(|resume| &resume.alive).cloned();
            for process in resumed.collect::<Vec<_>>() {
                let known = Known { session: Some(id.clone()), exe: process.exe };
                self.processes.insert(process.pid, known);
            }
            let live = Live::resumed(report, &self.folders);
            let is_over = live.processes.is_empty();
            self.live.insert(id.clone(), live);
            if is_over {
                self.finish(&id, at, guest);
            }
        }
        if let Some(alive) = alive {
            self.reap(alive, at, guest);
        }
    }

    /// The domain is gone, and with it everybody in it.
    pub fn end(&mut self, at: Timestamp, guest: &dyn Guest) {
        self.reap(&HashMap::new(), at, guest);
    }

    /// Processes that were killed make no call: those that are not among the living have ended. With each of these is told when it began:
    /// one that has the number of another is not that one.
    pub fn reap(&mut self, alive: &HashMap<u32, u64>, at: Timestamp, guest: &dyn Guest) {
        let mut gone = Vec::new();
        for live in self.live.values_mut() {
            for (pid, known_ns) in &mut live.processes {
                match (alive.get(pid), *known_ns) {
                    (Some(start_ns), None) => {
                        *known_ns = Some(*start_ns);
                        live.changed = true;
                    }
                    (Some(start_ns), Some(known_ns)) if *start_ns == known_ns => {}
                    (Some(_), Some(_)) | (None, _) => gone.push(*pid),
                }
            }
        }
        gone.into_iter().for_each(|pid| self.exited(pid, at, None, guest));
        let ids: Vec<String> = self.live.keys().cloned().collect();
        ids.iter().for_each(|id| self.keep_quiet(id, at, false, guest));
        self.accepted.retain(|_, list| {
            list.retain(|accepted| at.as_second() - accepted.at.as_second() < ACCEPTED_S);
            !list.is_empty()
        });
    }

    /// Writes down what has changed.
    ///
    /// # Errors
    /// The disk is full, or broken.
    pub fn save(&mut self) -> io::Result<()> {
        let exe = |pid| self.processes.get(&pid).map(|known| known.exe.clone()).unwrap_or_default();
        self.live.values_mut().filter(|live| live.changed).try_for_each(|live| {
            live.changed = false;
            live.report.resume = Some(live.resume(exe));
            self.folders.write_report(&live.report)
        })
    }

    fn accept(&mut self, call: &Traced, at: Timestamp, guest: &dyn Guest) {
        let Some(fd) = call.result.filter(|result| *result >= 0) else {
            return;
        };
        // inetd does not ask who it is.
        let peer = match call.address(1) {
            Some(chunk) => Peer::parse(&chunk.bytes),
            None => guest.peer(call.enter.task, fd.unsigned_abs()),
        };
        // From this machine itself, nobody begins a session.
        if let Some(peer) = peer.filter(|peer| !peer.address.is_loopback())
            && self.accepted.len() < ACCEPTED_MAX
        {
            let list = self.accepted.entry(call.enter.tgid).or_default();
            list.retain(|accepted| accepted.fd != fd);
            if list.len() < ACCEPTED_MAX {
                list.push(Accepted { fd, peer, at });
            }
        }
    }

    /// A line for the syslog daemon, whoever writes it.
    fn logged(&mut self, call: &Traced, at: Timestamp) {
        let kind = call.enter.kind.and_then(FileKind::at);
        let Some(kind) = kind.filter(|kind| matches!(kind, FileKind::UnixDatagram | FileKind::Kmsg)) else {
            return;
        };
        if let Some(event) = guest_log::event(kind, &call.bytes(1), at) {
            let mut event = event.domain(self.domain.clone(), Some(self.domid));
            event.session = self.processes.get(&call.enter.tgid).and_then(|known| known.session.clone());
            self.events.push(event);
        }
    }

    fn close(&mut self, call: &Traced) {
        if let Some(list) = self.accepted.get_mut(&call.enter.tgid) {
            list.retain(|accepted| accepted.fd != call.arguments()[0] as i64);
            if list.is_empty() {
                self.accepted.remove(&call.enter.tgid);
            }
        }
    }

    /// A fork of a process that is in no session: the child of one that holds a connection begins one.
    fn fork(&mut self, call: &Traced, at: Timestamp, guest: &dyn Guest) {
        let (parent, child) = (call.enter.tgid, child_of(call));
        let Some(list) = self.accepted.get_mut(&parent) else {
            return;
        };
        let own =
            |child| if guest.is_nested(call.enter.task) { guest.newest_child(parent) } else { Some(child) };
        let Some(child) = child.and_then(own) else {
            return;
        };
        let accepted = list.pop();
        if list.is_empty() {
            self.accepted.remove(&parent);
        }
        let Some(accepted) = accepted else {
            return;
        };
        if self.live.len() >= SESSIONS_MAX {
            tracing::warn!("{SESSIONS_MAX} sessions live already");
            return;
        }
        self.last = self.last.wrapping_add(1);
        let id = format!("{:08x}{:04x}{:04x}", at.as_second() & 0xffff_ffff, self.domid & 0xffff, self.last);
        let service = call.enter.comm.clone();
        let live = Live::new(&id, (&self.domain, self.domid), service.clone(), child, at, accepted.peer);
        self.events
            .push(live.event(EventId::SessionOpened, at).with("service", service.clone()).with("pid", child));
        self.live.insert(id.clone(), live);
        // What it did before its parent's fork ended is its own still.
        self.processes.insert(child, Known { session: Some(id), exe: service });
    }

    fn inherit(&mut self, call: &Traced, id: &str, guest: &dyn Guest) {
        // A child whose number is another one here is known by its parent when it makes its first call.
        if let Some(child) = child_of(call).filter(|_| !guest.is_nested(call.enter.task)) {
            self.join(child, id, call.enter.tgid);
        }
    }

    fn join(&mut self, child: u32, id: &str, parent: u32) {
        if self.processes.len() >= PROCESSES_MAX {
            self.processes.retain(|_, known| known.session.is_some());
        }
        let exe = self.processes.get(&parent).map(|known| known.exe.clone()).unwrap_or_default();
        if let Some(live) = self.live.get_mut(id) {
            live.forked(parent, child);
            self.processes.entry(child).or_insert(Known { session: Some(id.to_owned()), exe });
        }
    }

    /// The session of the one who calls. A process that is not known yet is asked for its parent.
    fn session_of(&mut self, call: &Traced, guest: &dyn Guest) -> Option<String> {
        let tgid = call.enter.tgid;
        if let Some(known) = self.processes.get(&tgid) {
            return known.session.clone();
        }
        if self.live.is_empty() {
            return None;
        }
        let parent = guest.parent(call.enter.task).filter(|parent| *parent != tgid);
        let session = parent.and_then(|parent| self.processes.get(&parent)?.session.clone());
        match (&session, parent) {
            (Some(id), Some(parent)) => self.join(tgid, &id.clone(), parent),
            _ => {
                if self.processes.len() < PROCESSES_MAX {
                    self.processes.insert(tgid, Known { session: None, exe: String::new() });
                }
            }
        }
        session
    }

    fn executed(&mut self, call: &Traced, at: Timestamp, id: &str, guest: &dyn Guest) {
        let argument = u8::from(call.call().is_some_and(|known| known.name == "execveat"));
        let exe = call.string(argument).unwrap_or_default();
        if let Some(known) = self.processes.get_mut(&call.enter.tgid) {
            known.exe.clone_from(&exe);
        }
        let ppid = guest.parent(call.enter.task).unwrap_or(0);
        let argv = guest.arguments(call.enter.task);
        let folder = guest.folder(call.enter.task);
        if let Some(live) = self.live.get_mut(id) {
            self.events.extend(live.executed(call, at, exe, live::Started { ppid, argv, folder }));
        }
        let program = guest.program(call.enter.task);
        if let Some((inode, path)) = program.filter(|(inode, path)| self.written.is_foreign(inode.file, path))
            && let Some(contents) = guest.contents(inode)
        {
            self.keep(id, &Found { path, ..contents }, "run", call.enter.tgid, at);
        }
    }

    fn keep_quiet(&mut self, id: &str, at: Timestamp, all: bool, guest: &dyn Guest) {
        let quiet = self.live.get_mut(id).map(|live| live.dirty.quiet(at, all, guest)).unwrap_or_default();
        for (pid, found) in quiet {
            self.written.note(found.file);
            self.keep(id, &found, "written", pid, at);
        }
    }

    fn exited(&mut self, pid: u32, at: Timestamp, status: Option<i32>, guest: &dyn Guest) {
        let Some(known) = self.processes.remove(&pid) else {
            return;
        };
        let Some(id) = known.session else {
            return;
        };
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        self.events.extend(live.exited(pid, &known.exe, at, status));
        if live.processes.is_empty() {
            self.finish(&id, at, guest);
        }
    }

    fn finish(&mut self, id: &str, at: Timestamp, guest: &dyn Guest) {
        self.keep_quiet(id, at, true, guest);
        if let Some(mut live) = self.live.remove(id) {
            self.events.push(live.closed(at));
            if let Err(error) = self.folders.write_report(&live.report) {
                tracing::error!(%error, session = id, "a session is not written down");
            }
        }
    }
}

/// The process that a fork has made.
fn child_of(call: &Traced) -> Option<u32> {
    let child = call.result.and_then(|pid| u32::try_from(pid).ok());
    child.filter(|pid| *pid > 0 && !is_thread(call))
}

fn is_thread(call: &Traced) -> bool {
    call.call().is_some_and(|known| known.name == "clone") && call.arguments()[0] & CLONE_THREAD != 0
}

#[cfg(test)]
mod tests;
