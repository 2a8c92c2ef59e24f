//! The memory of a domain that crashed: raw, beside its console log, where the domain file asks for it (`coredump-restart`, `coredump-destroy`).
//!
//! RAM of a booted domain is there when its process has gone. That of one that went on from a snapshot is in its process alone, so the process stays a
//! while after the crash was told, and is told to go when its memory was read.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::announce::Announcer;
use super::control::{ExitReason, Notice};
use super::domain::Domain;
use crate::domain_file::{DomainFile, OnExit};
use crate::state::State;

/// The largest RAM is written within this on a slow disk; who does not come for it by then does not come.
const LINGER: Duration = Duration::from_secs(30);

/// How long the process of such a domain is to stay after a crash.
pub fn linger_ms(file: &DomainFile, restored: bool) -> u64 {
    if restored && is_wanted(file) { LINGER.as_millis() as u64 } else { 0 }
}

fn is_wanted(file: &DomainFile) -> bool {
    matches!(file.on_crash, OnExit::CoredumpDestroy | OnExit::CoredumpRestart)
}

fn path(state: &State, domain: &Domain) -> PathBuf {
    state.domain(&domain.file.name).join(format!("core-{}.raw", domain.domid))
}

/// When the process says that its domain crashed: what it alone has is read before it goes. Returns at once; the reading is done beside.
pub fn before_it_goes(notice: &Notice, domain: &Arc<Domain>, state: &State, announcer: &Arc<Announcer>) {
    let is_crash = matches!(notice, Notice::Exit { reason: ExitReason::Crash, .. });
    if !is_crash || !domain.ram.is_in_process() || !is_wanted(&domain.file) {
        return;
    }
    let (crashed, state, told) = (Arc::clone(domain), state.clone(), Arc::clone(announcer));
    let reading = std::thread::Builder::new().name("core".into()).spawn(move || {
        write(&crashed, &state, &told);
        // Its end is a crash all the same: that was told before.
        if let Err(error) = crashed.control.request("destroy") {
            tracing::debug!(%error, "a domain that crashed has gone by itself");
        }
    });
    if let Err(error) = reading {
        announcer.line(&format!("memory of domain {} is not written down: {error}", domain.file.name));
    }
}

/// When the process has gone.
pub fn at_the_end(domain: &Domain, state: &State, announcer: &Announcer) {
    if !domain.ram.is_in_process() {
        write(domain, state, announcer);
    }
}

fn write(domain: &Domain, state: &State, announcer: &Announcer) {
    let path = path(state, domain);
    let written = || -> io::Result<()> {
        let file =
            OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(&path)?;
        domain.ram.copy_to(&file)
    };
    announcer.line(&match written() {
        Ok(()) => format!("memory of domain {} is in {}", domain.file.name, path.display()),
        Err(error) => format!("memory of domain {} is not written down: {error}", domain.file.name),
    });
}
