//! The system-call trace: what is recorded ([`selection`]), its records ([`record`]), the rings they come from ([`ring`], [`rings`]), calls made of
//! beginnings and ends ([`pairing`]), and how they are printed ([`strace`]).

pub mod calls;
pub mod pairing;
pub mod record;
pub mod ring;
pub mod rings;
pub mod selection;
pub mod strace;
