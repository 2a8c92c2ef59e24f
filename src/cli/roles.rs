//! The processes of the house: what the binary becomes when the supervisor starts it.

use serde::de::DeserializeOwned;

use super::Failure;
use super::args::Child;
use crate::jail;
use crate::state::State;
use crate::supervisor::{self, DomainProcess};

/// The supervisor, in the foreground.
pub fn supervisor(state: State) -> Result<(), Failure> {
    log_to_stderr();
    // Its own session: a terminal's Ctrl-C is for the command that started it. Refused where it leads a group already.
    let _ = rustix::process::setsid();
    Ok(supervisor::run(state)?)
}

/// One domain's process.
pub fn honeyvmm(child: &Child) -> Result<(), Failure> {
    log_to_stderr();
    let DomainProcess { jail, domain } = configuration(child)?;
    jail::enter(&jail)?;
    Err(Failure::new(format!("this build has no virtual machine monitor to run domain {} with", domain.name)))
}

fn configuration<T: DeserializeOwned>(child: &Child) -> Result<T, Failure> {
    let file = std::fs::File::open(format!("/proc/self/fd/{}", child.config_fd))?;
    Ok(serde_json::from_reader(file)?)
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}
