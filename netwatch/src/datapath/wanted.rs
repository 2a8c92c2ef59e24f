//! The socket on which the toolstack hears of sources that wait for a clone.

use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};
use serde_json::json;

use crate::switch::Wanted;

pub(super) struct WantedSocket {
    socket: OwnedFd,
}

impl WantedSocket {
    pub fn new(socket: OwnedFd) -> WantedSocket {
        WantedSocket { socket }
    }

    /// Sends a line, without waiting; false where it is lost. A unix socket takes so short a line whole or not at all.
    pub fn tell(&self, wanted: &Wanted) -> bool {
        let line = format!("{}\n", json!({ "wanted": wanted }));
        let sent = send(&self.socket, line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        sent.is_ok_and(|sent| sent == line.len())
    }
}
