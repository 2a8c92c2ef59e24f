//! The system-call trace: what is recorded ([`selection`]), its records ([`record`]), the ring they come from ([`ring`]), calls made of
//! beginnings and ends ([`pairing`]), and how they are shown: as strace prints them ([`strace`]), as sysdig stores them ([`scap`]).

pub mod calls;
pub mod pairing;
pub mod record;
pub mod ring;
pub mod scap;
pub mod selection;
pub mod strace;
