//! `honeynet console`: the terminal becomes the domain's until Ctrl-], and is itself again on every way out.

use std::io::{self, IsTerminal, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags};
use rustix::termios::{OptionalActions, Termios};

use super::{Connection, Failure};
use crate::supervisor::protocol::Request;

/// Ctrl-].
const LEAVE: u8 = 0x1d;

/// Attaches the terminal to the console of this domain. With a standard input that is no terminal, what comes from there is
/// typed, and output goes on until the console ends.
pub fn attach(mut connection: Connection, name: String) -> Result<(), Failure> {
    connection.request(&Request::Console { name })?;
    let (early, socket) = connection.into_raw();
    let (stdin, mut stdout) = (io::stdin(), io::stdout());
    // A signal that ends us must not leave the terminal raw.
    let mut ends = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        ends.add(signal);
    }
    ends.thread_block()?;
    let signals = SignalFd::new(&ends)?;
    let _raw = RawTerminal::enter()?;
    stdout.write_all(&early)?;
    stdout.flush()?;
    let mut typing = true;
    loop {
        let wanted = if typing { PollFlags::IN } else { PollFlags::empty() };
        let mut ready = [
            PollFd::from_borrowed_fd(stdin.as_fd(), wanted),
            PollFd::new(&socket, PollFlags::IN),
            PollFd::new(&signals, PollFlags::IN),
        ];
        // Standard input at its end reports HUP for ever; it is left out then.
        let polled = if typing { &mut ready[..] } else { &mut ready[1..] };
        match rustix::event::poll(polled, None) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(io::Error::from(errno).into()),
            Ok(_) => {}
        }
        if !ready[2].revents().is_empty() {
            return Ok(());
        }
        let (typed, printed) = (typing && !ready[0].revents().is_empty(), !ready[1].revents().is_empty());
        let mut bytes = [0; 4096];
        if typed {
            let count = rustix::io::read(stdin.as_fd(), &mut bytes).map_err(io::Error::from)?;
            let typed = &bytes[..count];
            let left = typed.iter().position(|byte| *byte == LEAVE);
            (&socket).write_all(&typed[..left.unwrap_or(count)])?;
            if left.is_some() {
                let _ = socket.shutdown(Shutdown::Both);
                return Ok(());
            }
            typing = count > 0;
        }
        if printed {
            let count = rustix::io::read(&socket, &mut bytes).unwrap_or(0);
            if count == 0 {
                return Ok(());
            }
            stdout.write_all(&bytes[..count])?;
            stdout.flush()?;
        }
    }
}

/// The terminal's settings as they were; set again when dropped.
struct RawTerminal {
    before: Option<Termios>,
}

impl RawTerminal {
    fn enter() -> io::Result<RawTerminal> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(RawTerminal { before: None });
        }
        let before = rustix::termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Flush, &raw)?;
        Ok(RawTerminal { before: Some(before) })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}
