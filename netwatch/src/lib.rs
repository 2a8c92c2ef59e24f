//! Virtual switch, packet inspector, containment and capture.

pub mod packet;
