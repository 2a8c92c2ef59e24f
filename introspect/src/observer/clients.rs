//! Who watches system calls as they happen. One who reads too slowly loses lines, and is told how many; the guest does not wait for him.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::SendFlags;
use serde_json::json;

use super::requests;
use crate::trace::pairing::Traced;
use crate::trace::selection::Selection;
use crate::trace::strace;

/// Bytes that wait for one watcher.
const BACKLOG_MAX: usize = 16 * 1024 * 1024;
/// Watchers of one domain.
const CLIENTS_MAX: usize = 16;

/// All watchers.
#[derive(Default)]
pub struct Clients(Vec<Client>);

struct Client {
    socket: OwnedFd,
    selection: Selection,
    pid: Option<u32>,
    backlog: Vec<u8>,
    lost: u64,
    gone: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{CLIENTS_MAX} watch this domain already")]
struct TooMany;

impl Clients {
    /// One more; he is told that it begins.
    pub fn add(&mut self, socket: OwnedFd, selection: Selection, pid: Option<u32>) {
        if self.0.len() >= CLIENTS_MAX {
            requests::refuse(&socket, &TooMany);
            return;
        }
        requests::answer(&socket, &json!({}));
        self.0.push(Client { socket, selection, pid, backlog: Vec::new(), lost: 0, gone: false });
    }

    /// What they want to see.
    pub fn selections(&self) -> Vec<&Selection> {
        self.0.iter().map(|client| &client.selection).collect()
    }

    /// Shows a call to those who want it.
    pub fn show(&mut self, call: &Traced) {
        let number = call.call().map_or(call.enter.number, |known| known.number);
        for client in &mut self.0 {
            let wanted = client.selection.has(number) && client.pid.is_none_or(|pid| pid == call.enter.tgid);
            if !wanted {
                continue;
            }
            if client.backlog.len() > BACKLOG_MAX {
                client.lost += 1;
                continue;
            }
            if client.lost > 0 {
                client.push(&json!({ "lost": client.lost }));
                client.lost = 0;
            }
            client.push(&strace::json(call));
        }
    }

    /// Sends what can be sent; answers whether somebody has gone.
    pub fn flush(&mut self) -> bool {
        self.0.iter_mut().for_each(Client::flush);
        let before = self.0.len();
        self.0.retain(|client| !client.gone);
        before != self.0.len()
    }
}

impl Client {
    fn push(&mut self, value: &serde_json::Value) {
        self.backlog.extend_from_slice(value.to_string().as_bytes());
        self.backlog.push(b'\n');
    }

    fn flush(&mut self) {
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
