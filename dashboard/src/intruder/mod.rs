//! Sessions of intruders: the list, one session, its casts and its samples, as the observers wrote them. (`session` has ours.)
//!
//! An observer reads what a guest says, so its files are as foreign as a guest: names are made from checked parts, only regular files are
//! opened, no link is followed, and each has a limit.

mod alerts;
mod file;
mod list;
mod name;
mod object;
mod question;
mod routes;

pub use list::Catalogue;
pub use name::SessionId;
pub use object::ObjectError;
pub use routes::{CASTS_MAX, list, one, page, sample, tty};
