//! The toolstack: domain files, the honeynet file, the supervisor of the house's processes, and the command line.
//!
//! A library beside the binary so that its parsers can be tested and fuzzed.

pub mod carrier;
pub mod certificate;
pub mod cli;
pub mod doctor;
pub mod domain_file;
pub mod honeynet_file;
pub mod jail;
pub mod migration;
pub mod password;
pub mod secret;
pub mod snapshot;
pub mod sparse;
pub mod state;
pub mod supervisor;
pub mod uuid;
