//! Walks of a real guest, compared with what the guest says of itself.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod files;
mod guest;
mod integrity;
mod kernel;
mod opened;
mod rootkit;
mod rootkit_module;
#[path = "../../../tests/util/shell.rs"]
#[allow(dead_code, reason = "its guests never end")]
mod shell;
mod sockets;
mod tasks;
mod tracer;
