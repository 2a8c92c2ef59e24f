//! A trace as a capture of sysdig's: what `sysdig -r`, Falco and Stratoshark open.
//!
//! The format is falcosecurity/libs' at commit e5c53d648 (March 2022), the one that Debian 12's sysdig is built with: files of version 1.2
//! (`userspace/libscap/scap_savefile.h`) with the event table of `driver/event_table.c`. Later readers know all of it: an event type, once
//! given, keeps its meaning, and each event says how many parameters it has. What was not seen is zero or empty: page faults, memory
//! sizes, control groups, login uids, devices of files. Names of users are not read, but for root's.
//!
//! Nothing here reads or writes a file: records in, bytes out.

mod address;
mod block;
mod capture;
mod flags;
mod generic;
mod parameters;
mod preface;
mod process;
mod table;
mod value;

pub use block::whole_blocks;
pub use capture::Capture;
pub use preface::Machine;

use crate::walk::sockets::Socket;
use crate::walk::task::Task;

/// What the trace does not tell and the guest's memory does.
pub trait Facts {
    /// The task at this address.
    fn task(&self, task: u64) -> Option<Task>;
    /// The socket that the task at this address has under this descriptor.
    fn socket(&self, task: u64, fd: u32) -> Option<Socket>;
}

#[cfg(test)]
mod tests;
