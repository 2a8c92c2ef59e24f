//! Whether a kernel is still the one that was booted: tasks that one list hides, changed text and tables, hooks and who they lead to.
//!
//! Everything here compares; what is a rootkit's work and what an administrator's is for the reader of the events to say. Data that
//! lives, such as the pointers in open files or in the network's tables, is not compared.

pub mod hidden;
pub mod hooks;
pub mod reference;
