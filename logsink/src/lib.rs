//! The sink: takes the events of every sensor and the guests' own syslog, keeps them in a chained journal, and makes a store of it that
//! can be asked.
//!
//! `run` is the process. Everybody else uses `Store` (read only, SQLite) and `verify_chain` (the journal, offline). Only this crate
//! writes the database. It does not judge events and does not show them.

mod config;
pub mod guest;
pub mod journal;
mod sensors;
mod sink;
pub mod store;
mod writer;

pub use config::{Config, domains_path, journal_dir, socket_path, store_path};
pub use guest::domains::{DomainMap, DomainRef};
pub use journal::verify::{Report, VerifyError, verify_chain};
pub use sink::{SinkError, run};
pub use store::{Count, Filter, Row, Store, StoreError, Tail};
