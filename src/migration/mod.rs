//! Live migration between two honeynets: the frames that a connection carries, what is offered and answered, and by what the two know each
//! other. Pure, but for the identity's files; sending and receiving a domain is the supervisor's (`supervisor::migrate`).
//!
//! ```text
//! source                                  peer
//! offer (JSON)              ->
//!                           <-            answer: {"ok": …} or {"error": sentence}
//! pages, clusters           ->            any number, in rounds; later ones take the place of earlier ones
//! shim, rest (JSON)         ->            the domain stands still at the source
//!                           <-            answer: built, and parked
//! go                        ->
//!                           <-            answer: it runs
//! ```
//!
//! A connection that begins with `ask` instead asks what became of an earlier migration.

pub mod identity;
pub mod offer;
pub mod wire;

pub use identity::{Fingerprint, Identity, IdentityError};
pub use offer::{Answer, Decision, HostFile, Offer, OfferError, Rest};
pub use wire::{Head, Kind, WireError};
