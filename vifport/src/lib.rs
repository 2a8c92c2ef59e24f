//! The shared-memory port between a vif's backend and the switch.
//!
//! One sealed memfd holds two single-producer single-consumer rings of frames, one to the switch and one from it; two
//! eventfds wake the sides. A frame carries the offload fields of a virtio-net header (OASIS virtio 1.2, section 5.1.6),
//! so that checksums and segmentation can stay undone between two domains.
//!
//! Each end treats the other as hostile: an index is read once and checked, a frame is copied out before anyone looks
//! at it, and a peer that breaks the rules poisons only its own port. What frames contain is not judged here.

mod frame;
mod layout;
mod memory;
mod port;
mod ring;

pub use frame::{FLAG_DATA_VALID, FLAG_NEEDS_CSUM, FrameMeta, GsoType, MetaError};
pub use layout::{DATA_BYTES, DESCRIPTORS, FRAME_BYTES_MAX, PORT_BYTES};
pub use port::{AttachError, Endpoint, Port, PortFds, Side};
pub use ring::{SendError, Violation};
