//! Virtual switch, packet inspector, containment and capture.

pub mod bucket;
pub mod capture;
pub mod community_id;
pub mod containment;
pub mod flow;
pub mod inspector;
pub mod netns;
pub mod packet;
pub mod uplink;
