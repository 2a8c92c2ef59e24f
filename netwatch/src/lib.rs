//! Virtual switch, packet inspector, containment and capture.
