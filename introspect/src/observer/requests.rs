//! Questions: JSON messages on a socket that keeps their borders, each with the descriptor of the asker's own socket. The answer goes there
//! directly, so that nothing a guest wrote passes the supervisor.

use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The longest question.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// How long an asker may take to read an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How calls are told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A JSON object a line.
    #[default]
    Lines,
    /// A capture of sysdig's.
    Scap,
}

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// System calls as they happen, until the asker goes.
    Trace {
        /// How they are told.
        #[serde(default)]
        form: Form,
        /// Which, by name with commas between; the default set if none are named.
        calls: Option<String>,
        /// Only this process.
        pid: Option<u32>,
    },
    /// Every process.
    Ps,
    /// Open files.
    Lsof {
        /// Of this process; of all if none is named.
        pid: Option<u32>,
    },
    /// Sockets.
    Netstat,
    /// Loaded modules.
    Modules,
    /// The kernel's log.
    Dmesg,
}

/// Where questions come from.
pub struct Requests(OwnedFd);

impl AsFd for Requests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Requests {
    /// From this socket.
    pub fn new(socket: OwnedFd) -> Requests {
        Requests(socket)
    }

    /// The next question and where to answer it; `None`: nobody asks any more.
    pub fn next(&self) -> io::Result<Option<(Request, OwnedFd)>> {
        let mut bytes = vec![0; REQUEST_BYTES_MAX];
        let mut control = nix::cmsg_space!([std::os::fd::RawFd; 2]);
        let (count, handed) = {
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
            let mut handed = Vec::new();
            for part in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(descriptors) = part {
                    handed.extend(descriptors.into_iter().map(|fd| {
                        // SAFETY:
                        // - The kernel has just made this descriptor for us, and it is open.
                        // - Nobody else knows its number.
                        unsafe { OwnedFd::from_raw_fd(fd) }
                    }));
                }
            }
            (message.bytes, handed)
        };
        if count == 0 && handed.is_empty() {
            return Ok(None);
        }
        let socket = handed.into_iter().next().ok_or_else(|| io::Error::other("no socket to answer on"))?;
        match serde_json::from_slice(&bytes[..count]) {
            Ok(request) => Ok(Some((request, socket))),
            Err(error) => {
                refuse(&socket, &error);
                Err(error.into())
            }
        }
    }
}

/// Answers `{"ok": …}`.
pub fn answer(socket: &OwnedFd, value: &Value) {
    write_line(socket, &json!({ "ok": value }));
}

/// Answers with what there is, or why there is nothing.
pub fn give(socket: &OwnedFd, answer: Result<Value, impl std::error::Error>) {
    match answer {
        Ok(value) => self::answer(socket, &value),
        Err(error) => refuse(socket, &error),
    }
}

/// Answers with a sentence.
pub fn refuse(socket: &OwnedFd, error: &dyn std::error::Error) {
    write_line(socket, &json!({ "error": events::sentence(error), "code": 1 }));
}

fn write_line(socket: &OwnedFd, value: &Value) {
    let Ok(socket) = socket.try_clone() else {
        return;
    };
    let mut socket = UnixStream::from(socket);
    let mut line = value.to_string();
    line.push('\n');
    // Who asked and went away misses nothing.
    let _ = socket.set_write_timeout(Some(ANSWER_TIMEOUT)).and_then(|()| socket.write_all(line.as_bytes()));
}
