//! The shared-memory port between a vif's backend and the switch.
