//! Virtual switch, packet inspector, containment and capture.

pub mod bucket;
pub mod capture;
pub mod community_id;
pub mod config;
pub mod containment;
pub mod control;
pub mod datapath;
pub mod flow;
pub mod inspector;
pub mod mapping;
pub mod netns;
pub mod packet;
pub mod relay;
pub mod rules;
mod run;
pub mod switch;
pub mod uplink;

pub use run::{RunError, run};
