//! The house's services: started, told of, and started again when they end unasked.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitStatus;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use events::{Event, EventId};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::announce::Announcer;
use super::process::Program;

/// The first pause before a service is started again; it doubles each time up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// A service that lived so long starts again with the first pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// How long a service may take to end when asked.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How one service is started.
pub trait Service: Send + Sync + 'static {
    /// Its role on the command line.
    fn role(&self) -> &'static str;
    /// A new process of it.
    fn program(&self) -> io::Result<Program>;
    /// Called when the process runs.
    fn started(&self) {}
}

/// All services.
pub struct Services {
    announcer: Arc<Announcer>,
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    pids: BTreeMap<&'static str, u32>,
    restarts: BTreeMap<&'static str, u64>,
    stopping: Vec<&'static str>,
}

impl Services {
    /// None yet.
    pub fn new(announcer: Arc<Announcer>) -> Arc<Services> {
        Arc::new(Services { announcer, table: Mutex::default(), changed: Condvar::new() })
    }

    /// Starts a service and keeps it running until `stop`.
    pub fn keep(self: &Arc<Services>, service: Arc<dyn Service>) -> io::Result<()> {
        self.start(service, PAUSE_FIRST)
    }

    fn start(self: &Arc<Services>, service: Arc<dyn Service>, pause: Duration) -> io::Result<()> {
        let role = service.role();
        let begun = Instant::now();
        let (services, ended) = (Arc::clone(self), Arc::clone(&service));
        let pid = service.program()?.start(move |exit| services.ended(ended, exit, begun, pause))?;
        self.table().pids.insert(role, pid);
        self.announcer.event(
            Event::new(EventId::ServiceStarted, Timestamp::now()).with("service", role).with("pid", pid),
        );
        service.started();
        Ok(())
    }

    // Runs on the thread that waited for the process, which has nothing else to do any more.
    fn ended(
        self: Arc<Services>,
        service: Arc<dyn Service>,
        exit: ExitStatus,
        begun: Instant,
        pause: Duration,
    ) {
        let role = service.role();
        let stopping = {
            let mut table = self.table();
            table.pids.remove(role);
            *table.restarts.entry(role).or_default() += 1;
            table.stopping.contains(&role)
        };
        self.changed.notify_all();
        if stopping {
            return;
        }
        let event = Event::new(EventId::ServiceFailed, Timestamp::now()).with("service", role);
        self.announcer.event(event.with("reason", exit.to_string()));
        let mut pause = if begun.elapsed() > HEALTHY_AFTER { PAUSE_FIRST } else { pause };
        loop {
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_LAST);
            if self.table().stopping.contains(&role) {
                return;
            }
            match self.start(Arc::clone(&service), pause) {
                Ok(()) => return,
                Err(error) => self.announcer.line(&format!("{role} does not start: {error}")),
            }
        }
    }

    /// Says that a service is to end, so that its end is no failure.
    pub fn ending(&self, role: &'static str) {
        self.table().stopping.push(role);
    }

    /// Ends a service: SIGTERM, then SIGKILL.
    pub fn stop(&self, role: &'static str) {
        self.ending(role);
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
            let Some(pid) = self.table().pids.get(role).copied() else { return };
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                // It may have gone by itself.
                let _ = rustix::process::kill_process(pid, signal);
            }
            let gone = self
                .changed
                .wait_timeout_while(self.table(), STOP_TIMEOUT, |table| table.pids.contains_key(role));
            drop(gone);
        }
    }

    /// Services, their pids and restarts.
    pub fn rows(&self) -> Value {
        let table = self.table();
        let row = |(role, pid): (&&str, &u32)| json!({ "service": role, "pid": pid, "restarts": table.restarts.get(*role).copied().unwrap_or(0) });
        json!(table.pids.iter().map(row).collect::<Vec<_>>())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
