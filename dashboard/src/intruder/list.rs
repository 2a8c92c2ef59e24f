//! The list of sessions, newest first. What a file said is remembered until the file is another one, so a list is read once.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::file::Stamp;
use super::name::SessionId;
use super::object::{self, ObjectError, Session};
use super::question::Question;

/// Names that are read from the folder; more are as if they were not there.
const NAMES_MAX: usize = 500_000;
/// Objects, and bytes of them, that are read for one answer; the rest is on the next page.
const READ_MAX: usize = 5000;
const READ_BYTES_MAX: u64 = 64 << 20;
/// Summaries that are remembered; each has at most some 2 KiB.
const KNOWN_MAX: usize = 20_000;
/// Longest text of a summary, in characters.
const TEXT_CHARS_MAX: usize = 200;

/// What the list says of a session.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Its id.
    pub id: String,
    /// When it began.
    pub opened: Option<Timestamp>,
    /// When it ended; nothing while it lives.
    pub closed: Option<Timestamp>,
    /// Whether it lives.
    pub live: bool,
    /// The decoy.
    pub domain: Option<String>,
    /// From where.
    pub src_ip: Option<String>,
    /// And its port.
    pub src_port: Option<i64>,
    /// The program that was reached.
    pub service: Option<String>,
    /// Who logged in last.
    pub user: Option<String>,
    /// Tries that failed.
    pub logins_failed: usize,
    /// Programs that were run.
    pub commands: usize,
    /// Files that were kept.
    pub samples: usize,
    /// Terminals.
    pub terminals: usize,
    /// Why nothing else is known.
    pub error: Option<String>,
}

/// A page of the list.
#[derive(Debug)]
pub struct Page {
    /// The sessions.
    pub sessions: Vec<Arc<Summary>>,
    /// Where the next page starts, if there may be one.
    pub next_before: Option<SessionId>,
}

/// The folder of objects and what is known of it.
#[derive(Debug)]
pub struct Catalogue {
    folder: PathBuf,
    // Locked for a look at the table, never while a file is read.
    known: Mutex<HashMap<SessionId, (Stamp, Arc<Summary>)>>,
}

impl Catalogue {
    /// Nothing is read yet.
    pub fn new(folder: PathBuf) -> Catalogue {
        Catalogue { folder, known: Mutex::default() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The sessions that are meant.
    pub fn page(&self, question: &Question) -> io::Result<Page> {
        let mut sessions = Vec::new();
        let mut read = Read::default();
        let mut next_before = None;
        for id in ids(&self.folder, question.before)? {
            if sessions.len() == question.limit() || read.is_enough() {
                break;
            }
            next_before = Some(id);
            // One that has just gone is none.
            let Some(summary) = self.summary(id, &mut read) else { continue };
            if means(question, &summary) {
                sessions.push(summary);
            }
        }
        let whole = sessions.len() < question.limit() && !read.is_enough();
        // Ids begin with the second; within it the time in the object knows better.
        sessions.sort_by_key(|summary| std::cmp::Reverse(summary.opened));
        Ok(Page { sessions, next_before: next_before.filter(|_| !whole) })
    }

    fn summary(&self, id: SessionId, read: &mut Read) -> Option<Arc<Summary>> {
        let (file, metadata) = match object::open(&self.folder, id) {
            Ok(opened) => opened,
            Err(ObjectError::Missing) => return None,
            Err(error) => return Some(Arc::new(failed(id, &error))),
        };
        let stamp = Stamp::of(&metadata);
        if let Some((known, summary)) = self.known().get(&id)
            && *known == stamp
        {
            return Some(Arc::clone(summary));
        }
        read.objects += 1;
        read.bytes += metadata.len().min(object::OBJECT_BYTES_MAX);
        let summary = match object::read(file, id) {
            Ok(session) => summarize(&session),
            Err(error) => failed(id, &error),
        };
        let summary = Arc::new(summary);
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(id, (stamp, Arc::clone(&summary)));
        Some(summary)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, (Stamp, Arc<Summary>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one answer has read.
#[derive(Default)]
struct Read {
    objects: usize,
    bytes: u64,
}

impl Read {
    fn is_enough(&self) -> bool {
        self.objects >= READ_MAX || self.bytes >= READ_BYTES_MAX
    }
}

/// All sessions of the folder older than `before`, newest first. Before the first session there is no folder.
fn ids(folder: &Path, before: Option<SessionId>) -> io::Result<Vec<SessionId>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.take(NAMES_MAX).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut ids: Vec<SessionId> = names.filter_map(|name| SessionId::of_file(&name)).collect();
    ids.retain(|id| before.is_none_or(|before| *id < before));
    ids.sort_unstable_by(|a, b| b.cmp(a));
    Ok(ids)
}

fn means(question: &Question, summary: &Summary) -> bool {
    let address = || summary.src_ip.as_ref()?.parse::<IpAddr>().ok();
    let same = |wanted: IpAddr| address().is_some_and(|is| is.to_canonical() == wanted.to_canonical());
    question.domain.as_ref().is_none_or(|wanted| summary.domain.as_ref() == Some(wanted))
        && question.address.is_none_or(same)
}

fn summarize(session: &Session) -> Summary {
    // How he came in; what he became by su later is among the logins.
    let got_in = session.logins.iter().find(|login| login.success == Some(true));
    Summary {
        id: session.id.clone(),
        opened: session.opened,
        closed: session.closed,
        live: session.closed.is_none(),
        domain: short(session.domain.as_ref()),
        src_ip: short(session.src_ip.as_ref()),
        src_port: session.src_port,
        service: short(session.service.as_ref()),
        user: got_in.and_then(|login| short(login.user.as_ref())),
        logins_failed: session.logins.iter().filter(|login| login.success != Some(true)).count(),
        commands: session.processes.len(),
        samples: session.samples.len(),
        terminals: session.tty.len(),
        error: None,
    }
}

fn short(text: Option<&String>) -> Option<String> {
    text.map(|text| text.chars().take(TEXT_CHARS_MAX).collect())
}

fn failed(id: SessionId, error: &ObjectError) -> Summary {
    Summary { id: id.to_string(), error: Some(error.to_string()), ..Summary::default() }
}

#[cfg(test)]
mod tests;
