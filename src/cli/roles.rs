//! The processes of the house: what the binary becomes when the supervisor starts it.

use std::path::Path;

use nix::sched::CloneFlags;
use nix::sys::signal::SigSet;
use serde::de::DeserializeOwned;

use super::args::Child;
use super::{Failure, up};
use crate::carrier::{self, CarrierProcess};
use crate::honeynet_file::HoneynetFile;
use crate::jail;
use crate::state::State;
use crate::supervisor::{self, DashboardProcess, DomainProcess, LogsinkProcess, ObserverProcess};

/// The supervisor, in the foreground.
pub fn supervisor(state: State, file: &Path) -> Result<(), Failure> {
    jail::close_inherited()?;
    jail::allow_descriptors()?;
    log_to_stderr();
    // Its own session: a terminal's Ctrl-C is for the command that started it. Refused where it leads a group already.
    let _ = rustix::process::setsid();
    let folder = std::path::absolute(file)?.parent().map(Path::to_owned).unwrap_or_default();
    // Domains may be created without a honeynet file: then the network is the default one, without decoys.
    let honeynet = match file.exists() {
        true => up::read(file)?,
        false => HoneynetFile::default(),
    };
    Ok(supervisor::run(state, &honeynet, &folder)?)
}

/// The switch.
pub fn netwatch(child: &Child) -> Result<(), Failure> {
    log_to_stderr();
    Ok(netwatch::run(configuration(child)?)?)
}

/// The sink.
pub fn logsink(child: &Child) -> Result<(), Failure> {
    log_to_stderr();
    let LogsinkProcess { jail, config } = configuration(child)?;
    jail::enter(&jail)?;
    Ok(logsink::run(config)?)
}

/// The web pages.
pub fn dashboard(child: &Child) -> Result<(), Failure> {
    log_to_stderr();
    let DashboardProcess { jail, config } = configuration(child)?;
    // It answers connections and makes none. Its socket goes on listening where it was made; from here nothing else can be reached.
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
    jail::enter(&jail)?;
    Ok(dashboard::run(config)?)
}

/// One domain's process.
pub fn honeyvmm(child: &Child) -> Result<(), Failure> {
    log_to_stderr();
    let DomainProcess { jail, work_fd } = configuration(child)?;
    jail::enter(&jail)?;
    match supervisor::wait_for_work(work_fd)? {
        Some(domain) => Ok(honeyvmm::run(domain)?),
        None => Ok(()),
    }
}

/// Who looks at one domain.
pub fn observer(child: &Child) -> Result<(), Failure> {
    log_to_stderr();
    let ObserverProcess { jail, kernel_fd, work_fd } = configuration(child)?;
    jail::enter(&jail)?;
    let kernel = introspect::observer::prepare(kernel_fd)?;
    match supervisor::wait_for_work(work_fd)? {
        Some(config) => Ok(introspect::observer::run(config, kernel)?),
        None => Ok(()),
    }
}

/// Who carries a migration.
pub fn carrier(child: &Child) -> Result<(), Failure> {
    log_to_stderr();
    let process: CarrierProcess = configuration(child)?;
    jail::enter(&process.jail)?;
    Ok(carrier::run(process)?)
}

fn configuration<T: DeserializeOwned>(child: &Child) -> Result<T, Failure> {
    // The supervisor blocks the signals that it reads from a descriptor, and a mask outlives exec.
    SigSet::empty().thread_set_mask()?;
    // Read at once: serde_json would ask the kernel for one byte at a time.
    let text = std::fs::read(format!("/proc/self/fd/{}", child.config_fd))?;
    Ok(serde_json::from_slice(&text)?)
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
