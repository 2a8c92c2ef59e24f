//! The dashboard: pages for the analyst and a JSON API, over what others write.
//!
//! It reads the store and the cases, and asks the supervisor on a socket where only a few words are understood. It writes nothing but
//! its own events, keeps nothing over a restart, and trusts neither the browser nor what an intruder put into an event.

mod actions;
mod answer;
mod app;
mod assets;
mod auth;
mod cases;
mod config;
mod download;
mod feed;
mod guard;
mod intruder;
mod jobs;
mod live;
mod login;
mod overview;
mod pages;
mod question;
mod sampler;
mod server;
mod session;
mod snapshots;
mod store;
mod supervisor;
mod throttle;
mod tls;

pub use config::{Config, TlsPem};
pub use question::{Question, QuestionError};
pub use server::{DashboardError, run};
pub use session::token_in_cookies;
