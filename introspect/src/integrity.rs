//! Whether a kernel is still the one that was booted: changed text and tables, hooks and who they lead to, modules and tasks that the
//! kernel's own lists hide, rights that nobody gave.
//!
//! What is constant is compared with the kernel's image; what boot writes is taken from the guest once ([`Integrity::reference`]), when nobody
//! has been in it yet. Data that lives, such as the pointers in open files or in the network's tables, is not compared, nor is the text of modules. Whether something is a rootkit's work or an administrator's is for the reader
//! of the events to say.

pub mod constant;
pub mod credentials;
pub mod finding;
pub mod forms;
pub mod hidden;
pub mod hooks;
pub mod mapping;
pub mod sites;
pub mod tables;
pub mod unlisted;
mod watch;

pub use finding::{Finding, What};
pub use watch::{Checked, Inputs, Integrity};

#[cfg(test)]
mod tests;
