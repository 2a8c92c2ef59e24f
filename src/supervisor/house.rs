//! All domains, and what can be asked of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use events::{Event, EventId};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::announce::Announcer;
use super::beginning::Beginning;
use super::core;
use super::domain::{Domain, Ending, Life};
pub use super::house_error::HouseError;
use super::launch::{self, LaunchError, Plan};
use super::migrate::{Migration, Moved};
use super::network::{Network, Seat};
use super::pool::{self, Pools};
use super::protocol::Create;
use super::saved::SavedError;
use super::services::Services;
use super::spares::Spares;
use crate::domain_file::{self, DomainFile, OnExit};
use crate::state::State;
use crate::uuid;

/// A domain that lived shorter than this is not restarted, or it would restart for ever.
const RESTART_LIFE_MIN: Duration = Duration::from_secs(1);
/// How long a domain process may take to go after it was asked to, before it is killed.
const GOING_TIMEOUT: Duration = Duration::from_secs(2);
/// Domains of one box; most of them clones.
pub const DOMAINS_MAX: usize = 640;
/// When processes that wait for a domain are started after one was taken.
const PREPARED_AFTER: Duration = Duration::from_millis(100);

/// The house.
pub struct House {
    /// Its state directory.
    pub state: State,
    /// Its voice.
    pub announcer: Arc<Announcer>,
    /// Its network.
    pub network: Arc<Network>,
    /// Its services.
    pub services: Arc<Services>,
    /// Where browsers find the dashboard.
    pub dashboard_url: String,
    /// Honeynets that domains move to and come from.
    pub migration: Migration,
    /// Machines for attackers.
    pub pools: Pools,
    spares: Spares,
    // Locked for looks and changes of the table only, never while a domain is built or asked.
    domains: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    domains: BTreeMap<u32, Arc<Domain>>,
    // Names of domains that are being built.
    building: Vec<String>,
    // Addresses that were given away to them.
    given: Vec<Ipv4Addr>,
    last_domid: u32,
    closing: bool,
}

impl House {
    /// An empty house.
    pub fn new(
        state: State,
        announcer: Arc<Announcer>,
        network: Arc<Network>,
        services: Arc<Services>,
        migration: Migration,
        dashboard_url: String,
    ) -> Arc<House> {
        let (spares, domains) = (Spares::new(state.run()), Mutex::default());
        Arc::new(House {
            state,
            announcer,
            network,
            services,
            dashboard_url,
            migration,
            pools: Pools::default(),
            spares,
            domains,
        })
    }

    /// All domains, by number.
    pub fn domains(&self) -> Vec<Arc<Domain>> {
        self.table().domains.values().cloned().collect()
    }

    /// The domain of this name or number.
    pub fn domain(&self, name: &str) -> Result<Arc<Domain>, HouseError> {
        let table = self.table();
        let by_name = table.domains.values().find(|domain| domain.name() == name);
        let by_number = || name.parse().ok().and_then(|domid: u32| table.domains.get(&domid));
        by_name.or_else(by_number).cloned().ok_or_else(|| HouseError::NoDomain { name: name.to_owned() })
    }

    /// Builds and starts a domain.
    pub fn create(self: &Arc<House>, create: Create) -> Result<Value, HouseError> {
        let parsed = domain_file::parse(&create.file)?;
        Moved::of(&self.state, &parsed.file.name).must_not()?;
        let uuid = parsed.file.uuid.unwrap_or_else(uuid::random);
        let domain = self.build(parsed.file, create.folder, uuid, Beginning::default())?;
        if create.paused {
            self.pause(&domain)?;
        }
        let mut row = domain.row();
        row["warnings"] = json!(parsed.warnings);
        Ok(row)
    }

    /// Builds and starts a domain; one that was saved goes on.
    pub fn build(
        self: &Arc<House>,
        file: DomainFile,
        folder: std::path::PathBuf,
        uuid: [u8; 16],
        beginning: Beginning,
    ) -> Result<Arc<Domain>, HouseError> {
        let name = file.name.clone();
        let domid = self.reserve(&name)?;
        let house = Arc::clone(self);
        // One that is booted takes so long that its process may start with it.
        let goes_on = beginning.origin.goes_on();
        let process = if goes_on { self.spares.domain() } else { self.spares.fresh_domain() };
        let process = process.map_err(|source| {
            self.table().building.retain(|building| *building != name);
            LaunchError::Step { name: name.clone(), step: "start its process", source }
        })?;
        let plan = Plan { domid, process, file, folder, uuid, beginning };
        let launched = launch::launch(
            &self.state,
            &self.network,
            &self.announcer,
            &self.spares,
            plan,
            move |domain, exit| {
                let ending = domain.process_ended(exit);
                house.network.unplug(domain.domid);
                house.ended(&domain, ending);
            },
        );
        let mut table = self.table();
        table.building.retain(|building| *building != name);
        let domain = launched?;
        // It may have ended while we were on the way here; then it is not to be entered any more.
        if domain.pid().is_some() || matches!(domain.life(), Life::Shutdown | Life::Crashed) {
            table.domains.insert(domid, Arc::clone(&domain));
        }
        write_addresses(&self.state, &table);
        drop(table);
        if goes_on {
            self.prepare();
        }
        let started = Event::new(EventId::DomainStarted, Timestamp::now()).domain(name, Some(domid));
        self.announcer.event(started.with("memory_mib", domain.file.memory_mib));
        Ok(domain)
    }

    /// Has processes wait for saved domains.
    pub fn prepare(self: &Arc<House>) {
        let house = Arc::clone(self);
        let filling = std::thread::Builder::new().name("spares".into()).spawn(move || {
            // A domain that has just begun wants the processor for itself.
            std::thread::sleep(PREPARED_AFTER);
            if let Err(error) = house.spares.fill() {
                tracing::warn!(%error, "no process waits for the next domain");
            }
        });
        if let Err(error) = filling {
            tracing::warn!(%error, "no process waits for the next domain");
        }
    }

    /// An address for a domain that is about to be built, and that nobody else gets until it is there.
    pub fn give_address(&self) -> Result<Ipv4Addr, HouseError> {
        let mut table = self.table();
        let of_domains = table.domains.values().filter_map(|domain| domain.file.address);
        let used: Vec<Ipv4Addr> = of_domains.chain(table.given.iter().copied()).collect();
        let address = self.network.free_address(&used).ok_or(HouseError::NoAddress)?;
        table.given.push(address);
        Ok(address)
    }

    /// It is a domain's now, or nobody's any more.
    pub fn take_back_address(&self, address: Ipv4Addr) {
        self.table().given.retain(|given| *given != address);
    }

    fn reserve(&self, name: &str) -> Result<u32, HouseError> {
        let mut table = self.table();
        let taken = table.building.iter().any(|building| building == name)
            || table.domains.values().any(|domain| domain.name() == name);
        if taken {
            return Err(HouseError::Exists { name: name.to_owned() });
        }
        if table.closing || table.domains.len() + table.building.len() >= DOMAINS_MAX {
            return Err(HouseError::Full);
        }
        table.building.push(name.to_owned());
        table.last_domid += 1;
        Ok(table.last_domid)
    }

    /// Stops the vcpus; answers what the process says of them.
    pub fn pause(&self, domain: &Domain) -> Result<Value, HouseError> {
        let _hold = domain.hold();
        self.must_be(domain, Life::Running, "running")?;
        let registers = self.ask(domain, "pause")?;
        domain.set_life(Life::Paused);
        self.tell(EventId::DomainPaused, domain);
        Ok(registers)
    }

    /// Lets the vcpus run again.
    pub fn unpause(&self, domain: &Domain) -> Result<Value, HouseError> {
        let _hold = domain.hold();
        self.must_be(domain, Life::Paused, "paused")?;
        let answer = self.ask(domain, "unpause")?;
        domain.set_life(Life::Running);
        self.tell(EventId::DomainUnpaused, domain);
        Ok(answer)
    }

    /// One request to the domain's process.
    pub fn ask(&self, domain: &Domain, op: &str) -> Result<Value, HouseError> {
        domain.control.request(op).map_err(|error| HouseError::Control { name: domain.name(), error })
    }

    /// Has the guest use so many vcpus.
    pub fn set_vcpus(&self, domain: &Domain, vcpus: u32) -> Result<Value, HouseError> {
        let request = json!({ "op": "vcpu-set", "vcpus": vcpus });
        let answer = domain.control.send(&request);
        let answer = answer.map_err(|error| HouseError::Control { name: domain.name(), error })?;
        domain.set_vcpus(vcpus);
        Ok(answer)
    }

    /// The rows of `vcpu-list`, for one domain.
    pub fn vcpu_rows(&self, domain: &Domain) -> Result<Vec<Value>, HouseError> {
        let info = self.ask(domain, "info")?;
        let up = info["vcpus_up"].as_array().into_iter().flatten().map(|up| up.as_bool() == Some(true));
        Ok(domain.vcpu_rows(&up.take(domain.file.maxvcpus as usize).collect::<Vec<_>>()))
    }

    /// Takes a domain down at once, preserved ones too.
    pub fn destroy(&self, domain: &Arc<Domain>) -> Result<(), HouseError> {
        domain.want_destroyed();
        if let Some(pid) = domain.pid() {
            // A process that answers goes by itself; one that does not is killed.
            if domain.control.request("destroy").is_err() || !domain.wait_gone(GOING_TIMEOUT) {
                launch::kill(pid);
            }
            if !domain.wait_gone(GOING_TIMEOUT) {
                return Err(HouseError::Stays { name: domain.name() });
            }
            // Who notices the end does the same, perhaps only after our answer.
            self.network.unplug(domain.domid);
        }
        self.forget(domain);
        self.clear_away(domain);
        Ok(())
    }

    /// A clone was a look at a snapshot: what it wrote goes with it. Another domain's disk stays, for its next start.
    fn clear_away(&self, domain: &Domain) {
        if !matches!(domain.seat, Seat::Outer { .. }) {
            return;
        }
        match std::fs::remove_dir_all(self.state.domain(&domain.file.name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, name = domain.file.name, "the folder of a clone stays");
            }
            _ => {}
        }
    }

    /// Takes a domain down whose memory or disks are not as they were saved.
    pub fn take_down_damaged(&self, domain: &Arc<Domain>, error: &SavedError) {
        let name = domain.name();
        self.announcer.line(&format!("domain {name} is taken down again: {}", events::sentence(error)));
        if let Err(error) = self.destroy(domain) {
            tracing::warn!(%error, name, "a domain with damaged memory stays");
        }
    }

    /// Whether it builds no domains any more.
    pub fn is_closing(&self) -> bool {
        self.table().closing
    }

    /// Takes all domains down and builds none any more.
    pub fn close(&self) {
        self.table().closing = true;
        self.spares.close();
        pool::close_all(self);
        for domain in self.domains() {
            if let Err(error) = self.destroy(&domain) {
                tracing::error!(%error, "a domain does not go");
            }
        }
    }

    fn ended(self: &Arc<House>, domain: &Arc<Domain>, ending: Ending) {
        domain.observer.close();
        let (id, detail) = match &ending {
            Ending::NeverStarted => return,
            Ending::Destroyed => (EventId::DomainStopped, json!("destroyed")),
            Ending::Poweroff => (EventId::DomainStopped, json!("poweroff")),
            Ending::Reboot => (EventId::DomainStopped, json!("reboot")),
            Ending::Crash { detail } => (EventId::DomainCrashed, detail.clone()),
        };
        let event = Event::new(id, Timestamp::now()).domain(domain.name(), Some(domain.domid));
        self.announcer.event(event.with("reason", detail));
        let restart = |house: &Arc<House>| house.restart(domain);
        match domain.action(&ending) {
            OnExit::Destroy => self.forget(domain),
            OnExit::Preserve => self.preserve(domain, &ending),
            OnExit::Restart => {
                self.forget(domain);
                restart(self);
            }
            OnExit::RenameRestart => {
                domain.rename(format!("{}-{}", domain.name(), domain.domid));
                // Its memory is kept; a disk that is written belongs to one domain, and that is the next one.
                domain.give_disks_up();
                self.preserve(domain, &ending);
                restart(self);
            }
            OnExit::CoredumpDestroy => {
                core::at_the_end(domain, &self.state, &self.announcer);
                self.forget(domain);
            }
            OnExit::CoredumpRestart => {
                core::at_the_end(domain, &self.state, &self.announcer);
                self.forget(domain);
                restart(self);
            }
        }
    }

    fn preserve(&self, domain: &Domain, ending: &Ending) {
        domain.set_life(match ending {
            Ending::Crash { .. } => Life::Crashed,
            _ => Life::Shutdown,
        });
    }

    fn forget(&self, domain: &Domain) {
        domain.give_disks_up();
        let mut table = self.table();
        table.domains.remove(&domain.domid);
        write_addresses(&self.state, &table);
    }

    fn restart(self: &Arc<House>, domain: &Arc<Domain>) {
        if domain.built.elapsed() < RESTART_LIFE_MIN {
            self.announcer.line(&format!("domain {} ended too soon to be restarted", domain.file.name));
            return;
        }
        let (file, folder) = (domain.file.clone(), domain.folder.clone());
        if let Err(error) = self.build(file, folder, domain.uuid, Beginning::default()) {
            self.announcer.line(&format!("domain {} is not restarted: {error}", domain.file.name));
        }
    }

    fn must_be(&self, domain: &Domain, wanted: Life, word: &'static str) -> Result<(), HouseError> {
        let life = domain.life();
        if life == wanted {
            return Ok(());
        }
        let is = match life {
            Life::Starting => "starting",
            Life::Running => "running",
            Life::Paused => "paused",
            Life::Shutdown => "shut down",
            Life::Crashed => "crashed",
            Life::Dying => "dying",
        };
        Err(HouseError::State { name: domain.name(), is, wanted: word })
    }

    fn tell(&self, id: EventId, domain: &Domain) {
        self.announcer.event(Event::new(id, Timestamp::now()).domain(domain.name(), Some(domain.domid)));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which domain has which address, for logsink: a new file under the old one's name. Called with the table locked, so that the
/// last writer wrote the last state.
fn write_addresses(state: &State, table: &Table) {
    let addresses: serde_json::Map<String, Value> = table
        .domains
        .values()
        .filter_map(|domain| {
            let address = domain.file.address?;
            Some((address.to_string(), json!({ "name": domain.name(), "domid": domain.domid })))
        })
        .collect();
    let (path, fresh) = (state.run().join("domains.json"), state.run().join("domains.json.new"));
    let written = std::fs::write(&fresh, Value::Object(addresses).to_string())
        .and_then(|()| std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o644)))
        .and_then(|()| std::fs::rename(&fresh, &path));
    if let Err(error) = written {
        tracing::warn!(%error, "the map of addresses cannot be written");
    }
}
