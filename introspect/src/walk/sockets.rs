//! Sockets: `netstat -p`, from the files of all tasks and from TCP's table of connections, so that those without an owner are there too.

mod established;
mod sock;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use honeyvmm::memory::Gva;
use serde::Serialize;

use super::files::{FileType, Files};
use super::task::Task;
use super::{Listing, WalkError};
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Unknown};
use established::Established;
use sock::Sock;

/// Steps that suffice for the descriptors of any honest guest.
pub const STEPS_MAX: u32 = 4 << 20;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Address; all zeros if the socket is bound to none.
    pub address: IpAddr,
    /// Port; 0 if there is none.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::net::SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// Who has a socket open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Descriptor.
    pub fd: u32,
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// `tcp`, `udp6`, `unix`, `raw`, `netlink`, `packet` and so on.
    pub protocol: &'static str,
    /// This end, for the Internet's protocols.
    pub local: Option<Endpoint>,
    /// The other end.
    pub remote: Option<Endpoint>,
    /// As `netstat` prints it; empty where the protocol has none.
    pub state: &'static str,
    /// Bytes that have come and were not read; for a listening socket, connections that were not accepted.
    pub receive_queue: u64,
    /// Bytes that the other end has not confirmed.
    pub send_queue: u64,
    /// Inode's number; 0 for a connection that no file belongs to any more.
    pub inode: u64,
    /// Name of a Unix socket; `@` before one that is in no file system.
    pub path: Option<String>,
    /// Who has it open; several after a fork.
    pub owners: Vec<Owner>,
}

/// Where the parts of sockets are.
#[derive(Debug, Clone)]
pub struct Sockets {
    files: Files,
    socket_sock: Field,
    sock: Sock,
    established: Established,
}

impl Sockets {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            files: Files::of(symbols)?,
            socket_sock: Field::find(symbols, "socket", "sk", "socket.sk")?,
            sock: Sock::of(symbols)?,
            established: Established::of(symbols)?,
        })
    }

    /// All sockets that these tasks have open, and all TCP connections. Sockets of the kernel itself that are no connections are not found.
    #[must_use]
    pub fn list(&self, look: &Look<'_>, tasks: &[Task]) -> Listing<Socket> {
        let mut listing = Listing::new();
        let owned = self.owned(look, tasks, &mut listing);
        let connections = self.established.list(look);
        if let Some(error) = connections.incomplete {
            listing.note(error);
        }
        let orphans: HashSet<Gva> =
            connections.items.into_iter().filter(|at| !owned.contains_key(at)).collect();
        for (at, owners) in owned {
            match self.sock.socket(look, at) {
                Ok(socket) => listing.items.push(Socket { owners, ..socket }),
                Err(error) => listing.note(error),
            }
        }
        for at in orphans {
            // One that cannot be read has ended meanwhile: the table is walked without its locks.
            if let Ok(socket) = self.sock.socket(look, at) {
                listing.items.push(socket);
            }
        }
        listing.items.sort_by_key(|socket| (socket.protocol, socket.inode));
        listing
    }

    /// The socket that the task with this `task_struct` has under this descriptor.
    #[must_use]
    pub fn of_descriptor(&self, look: &Look<'_>, task: Gva, fd: u32) -> Option<Socket> {
        let descriptor = self.files.descriptor(look, task, fd).ok()??;
        if descriptor.file_type != FileType::Socket {
            return None;
        }
        let at = look.pointer(self.socket_sock.of(descriptor.private)).ok().filter(|at| at.0 != 0)?;
        self.sock.socket(look, at).ok()
    }

    /// The other end of the connection that this descriptor of a task is; none, if it is no connection or cannot be read.
    #[must_use]
    pub fn remote(&self, look: &Look<'_>, task: Gva, fd: u32) -> Option<Endpoint> {
        self.of_descriptor(look, task, fd)?.remote.filter(|end| end.port != 0)
    }

    /// Each `struct sock` that a task has open, and who does.
    fn owned(
        &self,
        look: &Look<'_>,
        tasks: &[Task],
        listing: &mut Listing<Socket>,
    ) -> BTreeMap<Gva, Vec<Owner>> {
        let mut owned = BTreeMap::<Gva, Vec<Owner>>::new();
        for task in tasks.iter().filter(|task| !task.kernel_thread) {
            let descriptors = self.files.descriptors(look, task.at);
            if let Some(error) = descriptors.incomplete {
                listing.note(error);
            }
            let sockets = descriptors.items.into_iter().filter(|file| file.file_type == FileType::Socket);
            for descriptor in sockets {
                match look.pointer(self.socket_sock.of(descriptor.private)) {
                    // Closed, but for its file.
                    Ok(Gva(0)) => {}
                    Ok(at) => owned.entry(at).or_default().push(Owner {
                        pid: task.pid,
                        comm: task.comm.clone(),
                        fd: descriptor.fd,
                    }),
                    Err(error) => listing.note(WalkError::from(error)),
                }
            }
        }
        owned
    }
}
