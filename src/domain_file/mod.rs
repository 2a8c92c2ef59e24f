//! Domain files: what xl.cfg(5) says of a domain, read into one struct. Pure: paths are not looked at.
//!
//! `syntax` reads the text, `disk` and `vif` their specifications; here the keys get their meaning. Keys of xl that mean
//! nothing to a paravirtual domain of ours, unknown keys and keys that stand twice are warnings. Our own begin with `hn_`.

pub mod disk;
mod domain;
pub mod syntax;
pub mod vif;

pub use domain::{
    DEVICES_MAX, DomainFile, DomainFileError, MEMORY_MAX_MIB, MEMORY_MIN_MIB, OnExit, Parsed, VCPUS_MAX,
    is_name, parse,
};
