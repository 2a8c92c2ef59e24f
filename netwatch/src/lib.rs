//! Virtual switch, packet inspector, containment and capture.

pub mod bucket;
pub mod community_id;
pub mod containment;
pub mod flow;
pub mod packet;
