//! The command line, in xl's words. Each command asks the supervisor and prints what comes; `--json` prints it as JSON.
//!
//! Exit codes: 0 done, 1 not done, 2 wrong usage, 3 no such domain or case.

mod args;
mod connection;
mod console;
mod domains;
mod failure;
mod roles;

pub use args::Arguments;
pub use failure::Failure;

use args::Command;
use connection::Connection;

use crate::state::State;
use crate::supervisor::protocol::Request;

/// Does what the command line asks.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { command, state, json, file } = arguments;
    let _ = file;
    let state = State::new(state);
    let out = domains::Printer { json };
    let ask = |request: Request| Connection::open(&state)?.request(&request);
    match command {
        Command::Create(create) => domains::create(&state, &out, create),
        Command::List { name } => out.list(&ask(Request::List { name })?),
        Command::Console { name } => console::attach(Connection::open(&state)?, name),
        Command::Pause { name } => out.done(&ask(Request::Pause { name })?),
        Command::Unpause { name } => out.done(&ask(Request::Unpause { name })?),
        Command::Shutdown { name, wait } => {
            domains::ask_to_go(&state, &out, Request::Shutdown { name: name.clone() }, wait.then_some(name))
        }
        Command::Reboot { name } => out.done(&ask(Request::Reboot { name })?),
        Command::Destroy { name } => out.done(&ask(Request::Destroy { name })?),
        Command::Info { name: None } => out.tree(&ask(Request::Info)?),
        Command::Info { name: Some(name) } => out.tree(&ask(Request::DomainInfo { name })?),
        Command::Dmesg { name } => out.lines(&ask(Request::Dmesg { name })?),
        Command::XenstoreLs { name } => out.tree(&ask(Request::XenstoreLs { name })?),
        Command::Net => out.tree(&ask(Request::Net)?),
        Command::Snapshot { name, reason } => out.tree(&ask(Request::Snapshot { name, reason })?),
        Command::Down => domains::down(&state, &out),
        Command::Supervisor => roles::supervisor(state),
        Command::Honeyvmm(child) => roles::honeyvmm(&child),
    }
}
