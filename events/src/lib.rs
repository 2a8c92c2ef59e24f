//! The vocabulary of the honeynet: one event type, its ids and severities, and the emitter that sends it to logsink.
//!
//! An event is JSON in the shape of Suricata's EVE, carried as the MSG of one RFC 5424 message whose MSGID is the event id.
//! No async runtime and no database here: every process of the house links this crate.

pub mod emitter;
mod event;
pub mod framing;
mod id;
mod sentence;
mod stored;
pub mod syslog;
pub mod wire;

pub use emitter::Emitter;
pub use event::{Event, FlowTuple};
pub use id::{EventId, Severity, details_key};
pub use sentence::sentence;
pub use stored::{ReadError, StoredEvent};
