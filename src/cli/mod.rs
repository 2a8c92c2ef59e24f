//! The command line, in xl's words. Each command asks the supervisor and prints what comes; `--json` prints it as JSON.
//!
//! Exit codes: 0 done, 1 not done, 2 wrong usage, 3 no such domain or case.

mod args;
mod connection;
mod console;
mod domains;
mod failure;
mod golden;
mod introspection;
mod reports;
mod roles;
mod sessions;
mod snapshots;
mod symbols;
mod trace;
mod up;

pub use args::Arguments;
pub use failure::Failure;

use args::{Command, Fim};
use connection::Connection;
use introspect::observer::Request as Question;

use crate::state::State;
use crate::supervisor::protocol::Request;

/// Does what the command line asks.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { command, state, json, file } = arguments;
    let state = State::new(std::path::absolute(state)?);
    let out = domains::Printer { json };
    let ask = |request: Request| Connection::open(&state)?.request(&request);
    let observe = |name: String, question: Question, table: introspection::Table| {
        introspection::show(&ask(Request::Observe { name, question })?, &out, table)
    };
    match command {
        Command::Create(create) => domains::create(&state, &file, &out, create),
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
        Command::Dmesg { name: Some(name), vmm: false } => {
            observe(name, Question::Dmesg, introspection::dmesg)
        }
        Command::Dmesg { name, .. } => out.lines(&ask(Request::Dmesg { name })?),
        Command::XenstoreLs { name } => out.tree(&ask(Request::XenstoreLs { name })?),
        Command::VcpuSet { name, vcpus } => out.done(&ask(Request::VcpuSet { name, vcpus })?),
        Command::VcpuList { name } => out.vcpus(&ask(Request::VcpuList { name })?),
        Command::Trace(wanted) => trace::trace(Connection::open(&state)?, &out, wanted),
        Command::Ps { name } => observe(name, Question::Ps, introspection::ps),
        Command::Lsof { name, pid } => observe(name, Question::Lsof { pid }, introspection::lsof),
        Command::Netstat { name } => observe(name, Question::Netstat, introspection::netstat),
        Command::Modules { name } => observe(name, Question::Modules, introspection::modules),
        Command::Sessions(wanted) => sessions::list(&state, &out, &wanted),
        Command::Play(wanted) => sessions::play(&state, &wanted),
        Command::Net => out.tree(&ask(Request::Net)?),
        Command::Pools => out.pools(&ask(Request::Pools)?),
        Command::Save { name, folder } => {
            out.tree(&ask(Request::Save { name, folder: std::path::absolute(folder)? })?)
        }
        Command::Migrate { name, host } => out.tree(&ask(Request::Migrate { name, to: host })?),
        Command::Fingerprint => reports::fingerprint(&state, &out),
        Command::OfSnapshots(word) => snapshots::run(&state, &file, &out, word),
        Command::Pull { name, reason } => out.tree(&ask(match name.contains('/') {
            true => Request::SnapshotPull { id: name, reason },
            false => Request::Pull { name, reason },
        })?),
        Command::Snapshot { name, diff, reason } => out.tree(&ask(Request::Snapshot { name, diff, reason })?),
        Command::Fim(Fim::Baseline { name }) => out.tree(&ask(Request::FimBaseline { name })?),
        Command::Fim(Fim::Check { name }) => out.report(&ask(Request::FimCheck { name })?),
        Command::Verify { case, key } => reports::verify(&state, &out, &case, key.as_deref()),
        Command::Evidence => reports::evidence(&state, &out),
        Command::Symbols(wanted) => symbols::symbols(&out, &wanted),
        Command::Events(wanted) => reports::events(&state, &out, wanted),
        Command::Doctor => reports::doctor(&state, &out),
        Command::Up => up::up(&state, &file, &out),
        Command::Down => domains::down(&state, &out),
        Command::Supervisor => roles::supervisor(state, &file),
        Command::Honeyvmm(child) => roles::honeyvmm(&child),
        Command::Observer(child) => roles::observer(&child),
        Command::Netwatch(child) => roles::netwatch(&child),
        Command::Logsink(child) => roles::logsink(&child),
        Command::Dashboard(child) => roles::dashboard(&child),
        Command::Carrier(child) => roles::carrier(&child),
    }
}
