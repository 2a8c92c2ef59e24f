//! Who watches system calls as they happen. One who reads too slowly loses lines, and is told how many; the guest does not wait for him.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::SendFlags;
use serde_json::json;

use super::requests;
use super::wall_clock::WallClock;
use crate::trace::pairing::Traced;
use crate::trace::record::Record;
use crate::trace::scap::{Capture, Facts, Machine};
use crate::trace::selection::Selection;
use crate::trace::{calls, strace};

/// Bytes that wait for one watcher.
const BACKLOG_MAX: usize = 16 * 1024 * 1024;
/// Watchers of one domain.
const CLIENTS_MAX: usize = 16;

/// All watchers.
#[derive(Default)]
pub struct Clients(Vec<Client>);

struct Client {
    socket: OwnedFd,
    // What is recorded for him.
    selections: Vec<Selection>,
    pid: Option<u32>,
    // None: lines.
    capture: Option<Capture>,
    backlog: Vec<u8>,
    lost: u64,
    gone: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{CLIENTS_MAX} watch this domain already")]
struct TooMany;

impl Clients {
    /// One more, who wants lines; he is told that it begins.
    pub fn add(&mut self, socket: OwnedFd, selection: Selection, pid: Option<u32>) {
        self.push(Client::new(socket, vec![selection], pid));
    }

    /// One more, who wants a capture: of these calls, or of the default set and what goes with it.
    pub fn add_capture(
        &mut self,
        socket: OwnedFd,
        named: Option<Selection>,
        pid: Option<u32>,
        machine: &Machine,
    ) {
        let state = Selection::state();
        let wanted = named.clone().unwrap_or_else(Selection::default_set);
        let shown = named.unwrap_or_else(|| Selection::default_set().and(&state[0]));
        let (capture, begin) = Capture::begin(machine, shown);
        let mut client = Client::new(socket, [vec![wanted], state.to_vec()].concat(), pid);
        client.capture = Some(capture);
        client.backlog = begin;
        self.push(client);
    }

    fn push(&mut self, client: Client) {
        if self.0.len() >= CLIENTS_MAX {
            requests::refuse(&client.socket, &TooMany);
            return;
        }
        requests::answer(&client.socket, &json!({}));
        self.0.push(client);
    }

    /// What they want to see.
    pub fn selections(&self) -> Vec<&Selection> {
        self.0.iter().flat_map(|client| &client.selections).collect()
    }

    /// A call begins, which captures tell apart from its end.
    pub fn begins(&mut self, record: &Record, wall: &WallClock, facts: &dyn Facts) {
        for client in &mut self.0 {
            if client.capture.is_some()
                && client.wants(record)
                && client.has_room(record, wall)
                && let Some(capture) = &mut client.capture
            {
                capture.enter(record, nanoseconds(wall, record.time_ns), facts);
            }
        }
    }

    /// Shows a call to those who want it.
    pub fn show(&mut self, call: &Traced, wall: &WallClock, facts: &dyn Facts) {
        for client in &mut self.0 {
            if !client.wants(&call.enter) || !client.has_room(&call.enter, wall) {
                continue;
            }
            match &mut client.capture {
                Some(capture) => {
                    let ended_ns = call.enter.time_ns.saturating_add(call.duration_ns);
                    capture.exit(call, nanoseconds(wall, ended_ns), facts);
                }
                None => client.line(&strace::json(call)),
            }
        }
    }

    /// Sends what can be sent, after each look at all rings; answers whether somebody has gone.
    pub fn flush(&mut self) -> bool {
        self.0.iter_mut().for_each(Client::flush);
        let before = self.0.len();
        self.0.retain(|client| !client.gone);
        before != self.0.len()
    }
}

fn nanoseconds(wall: &WallClock, system_ns: u64) -> u64 {
    u64::try_from(wall.time(system_ns).as_nanosecond()).unwrap_or(0)
}

impl Client {
    fn new(socket: OwnedFd, selections: Vec<Selection>, pid: Option<u32>) -> Client {
        Client { socket, selections, pid, capture: None, backlog: Vec::new(), lost: 0, gone: false }
    }

    fn wants(&self, record: &Record) -> bool {
        let number = calls::of(record.number, record.compat).map_or(record.number, |known| known.number);
        self.selections.iter().any(|selection| selection.has(number))
            && self.pid.is_none_or(|pid| pid == record.tgid)
    }

    /// Whether one more can wait; what could not is told as soon as it is so again.
    fn has_room(&mut self, record: &Record, wall: &WallClock) -> bool {
        let pending = self.capture.as_ref().map_or(0, Capture::pending_bytes);
        if self.backlog.len() + pending > BACKLOG_MAX {
            self.lost += 1;
            return false;
        }
        let lost = std::mem::take(&mut self.lost);
        match &mut self.capture {
            _ if lost == 0 => {}
            Some(capture) => capture.lost(lost, record, nanoseconds(wall, record.time_ns)),
            None => self.line(&json!({ "lost": lost })),
        }
        true
    }

    fn line(&mut self, value: &serde_json::Value) {
        self.backlog.extend_from_slice(value.to_string().as_bytes());
        self.backlog.push(b'\n');
    }

    fn flush(&mut self) {
        if let Some(capture) = &mut self.capture {
            capture.release(&mut self.backlog);
        }
        let mut sent = 0;
        while sent < self.backlog.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, &self.backlog[sent..], flags) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(_) => {
                    self.gone = true;
                    break;
                }
            }
        }
        self.backlog.drain(..sent);
        self.gone = self.gone || self.hung_up();
    }

    /// He sends nothing: an end is all that there can be to read.
    fn hung_up(&self) -> bool {
        let mut byte = [0];
        let flags = rustix::net::RecvFlags::DONTWAIT | rustix::net::RecvFlags::PEEK;
        matches!(rustix::net::recv(&self.socket, &mut byte[..], flags), Ok((0, _)) | Err(Errno::CONNRESET))
    }
}
