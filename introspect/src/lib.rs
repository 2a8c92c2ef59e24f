//! What a guest does and what it holds, seen from outside: no agent, no module, no breakpoint in it.
//!
//! Symbols come from the kernel image that we boot ([`symbols`]), never from the guest. Guest memory is read by copies and every walk has a
//! step limit ([`view`], [`walk`]). What the shim records of system calls is read from its rings ([`trace`]). This crate never
//! writes to the guest.

pub mod integrity;
pub mod observer;
pub mod session;
pub mod symbols;
pub mod trace;
pub mod view;
pub mod walk;
