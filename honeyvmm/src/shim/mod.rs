//! The shim: what runs inside the guest for us, its image and the memory it lives in. Its source is in `shim/`.

mod area;
mod descriptors;
mod layout;
pub mod trace;
mod views;

pub use area::{
    Area, CALL_BROKEN, CALL_EXCEPTION, CALL_FLUSH, CALL_HYPERCALL, CALL_TRACE, COUNT_NAMES, Entries, Field,
    Register, TrapInfo,
};
pub use descriptors::{TR_ACCESS_BUSY, sanitized_descriptor};
pub use layout::{
    Backend, GRANT_FRAMES, Layout, M2P_VA, SHIM_GPA, SHIM_VA, Symbols, TRAMPOLINE_EXIT, VCPUS_MAX, image,
    symbols, window,
};
pub use views::{install_slots, populate};
