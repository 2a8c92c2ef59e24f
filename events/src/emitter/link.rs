//! The connection to the sink: non-blocking, bytes out, acknowledgement lines in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::wire::{ACK_BYTES_MAX, Position, parse_ack};

/// Time between two attempts to connect.
const RECONNECT: Duration = Duration::from_millis(200);
/// Bytes that are handed to the kernel in one call.
const SEND_BYTES_MAX: usize = 64 * 1024;

/// Where connections come from.
pub enum Dial {
    /// A socket in the file system; when to try next.
    Path(PathBuf, Instant),
    /// The one connection that was handed in.
    Handed(Option<Link>),
}

impl Dial {
    pub fn path(path: &Path) -> Dial {
        Dial::Path(path.to_owned(), Instant::now())
    }

    /// A new connection, if it is time and somebody listens.
    pub fn dial(&mut self, now: Instant) -> Option<Link> {
        match self {
            Dial::Handed(link) => link.take(),
            Dial::Path(_, next) if now < *next => None,
            Dial::Path(path, next) => {
                *next = now + RECONNECT;
                connect(path).ok()
            }
        }
    }

    /// How long to sleep before the next attempt makes sense; `None` is for ever.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        match self {
            Dial::Handed(_) => None,
            Dial::Path(_, next) => Some(next.saturating_duration_since(now)),
        }
    }
}

/// A connection that was refused, or broke.
#[derive(Debug)]
pub struct Broken;

/// One connection.
pub struct Link {
    socket: OwnedFd,
    /// Bytes on their way; `out[sent..]` is still to go.
    out: Vec<u8>,
    sent: usize,
    line: Vec<u8>,
}

impl Link {
    pub fn from_fd(socket: OwnedFd) -> std::io::Result<Link> {
        let flags = rustix::fs::fcntl_getfl(&socket)?;
        rustix::fs::fcntl_setfl(&socket, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Link { socket, out: Vec::new(), sent: 0, line: Vec::new() })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Nothing is left to send.
    pub fn idle(&self) -> bool {
        self.sent == self.out.len()
    }

    /// Room for another frame in the next call to the kernel.
    pub fn has_room(&self) -> bool {
        self.out.len() < SEND_BYTES_MAX
    }

    pub fn queue(&mut self, frame: &[u8]) {
        self.out.extend_from_slice(frame);
    }

    /// Sends until the kernel takes no more.
    pub fn send(&mut self) -> Result<(), Broken> {
        while !self.idle() {
            let rest = self.out.get(self.sent..).unwrap_or_default();
            match net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Broken),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Acknowledgements that have come.
    pub fn receive(&mut self) -> Result<Vec<Position>, Broken> {
        let mut acks = Vec::new();
        let mut chunk = [0u8; 4096];
        let count = match net::recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Broken),
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(acks),
            Err(_) => return Err(Broken),
        };
        for byte in chunk.iter().take(count) {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() >= ACK_BYTES_MAX {
                    return Err(Broken);
                }
            } else if let Some(position) = parse_ack(&self.line) {
                acks.push(position);
                self.line.clear();
            } else {
                return Err(Broken);
            }
        }
        Ok(acks)
    }
}

/// A unix socket's connect does not wait: a full backlog is an error like a missing listener.
fn connect(path: &Path) -> rustix::io::Result<Link> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(Link { socket, out: Vec::new(), sent: 0, line: Vec::new() })
}
