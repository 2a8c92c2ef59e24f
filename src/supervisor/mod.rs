//! The supervisor: the one privileged process that builds domains, starts the house's services and minds them all.
//!
//! Threads, not tasks: one for each child (it waits), each console, each control socket and each client. It reads no guest
//! memory and parses nothing that a guest wrote but the short lines of the control socket.

mod announce;
mod beginning;
mod cgroup;
mod client;
mod clone;
mod console;
mod control;
mod copying;
mod core;
mod dashboard;
mod domain;
mod evidence;
mod house;
mod house_error;
mod launch;
mod logsink;
mod migrate;
mod network;
mod nursery;
mod observer;
mod on_alert;
mod plugs;
mod pool;
mod process;
pub mod protocol;
mod ram;
mod resources;
mod run;
mod saved;
mod services;
mod snapshot;
mod snapshots;
mod spares;

pub use dashboard::DashboardProcess;
pub use launch::DomainProcess;
pub use logsink::LogsinkProcess;
pub use migrate::MigrateError;
pub use network::remove_left_over;
pub use nursery::wait_for_work;
pub use observer::ObserverProcess;
pub use resources::available_bytes;
pub use run::{SupervisorError, run};
