//! A machine for every attacker: decoy addresses behind which each source gets a clone of its own.
//!
//! The switch holds a new source's first packets and tells of it; here it is given a clone that stands ready, or a new one. When it has
//! been silent for long, its clone is written down if the intruder has left a trace in it, and goes.

mod left;
mod orphans;
mod places;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use events::{Event, EventId};
use jiff::Timestamp;
use netwatch::switch::Wanted;
use serde_json::{Value, json};

use super::clone::Golden;
use super::domain::Domain;
use super::house::{House, HouseError};
use super::network::Seat;
use super::protocol::PoolRequest;
use super::saved;
use super::snapshot::{self, Diff};
use crate::snapshot::store;
use crate::state::State;
use left::Left;
pub use places::Limits;
use places::{Decision, Places};

/// How often is looked who is silent.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pools of one box.
const POOLS_MAX: usize = 16;

/// Why there is no pool.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The name is taken.
    #[error("there is a pool {0} already")]
    Exists(String),
    /// Too many.
    #[error("there are {POOLS_MAX} pools already")]
    Full,
    /// The snapshot's machine is in no network.
    #[error(
        "domain {0} has no address, or no network interface with a mac, so nobody could reach its clones"
    )]
    NoAddress(String),
}

/// All pools.
#[derive(Default)]
pub struct Pools {
    // Locked for looks and changes only.
    table: Mutex<BTreeMap<String, Arc<Pool>>>,
}

struct Pool {
    name: String,
    golden: Golden,
    // Locked for decisions only, never while a clone is made, asked or taken down.
    places: Mutex<Places<Arc<Domain>>>,
    // Of sources that have no clone of their own; made when the first one comes. Locked while it is made, so that there is one.
    shared: Mutex<Option<Arc<Domain>>>,
    serial: Mutex<u64>,
}

/// Opens a pool: from now on its address answers.
pub fn open(house: &Arc<House>, request: &PoolRequest) -> Result<Value, HouseError> {
    let golden = Golden::open(&request.snapshot)?;
    let file = &golden.saved().manifest().domain;
    let missing = || PoolError::NoAddress(file.name.clone());
    let vif = file.vifs.first().ok_or_else(missing)?;
    let address = vif.ip.or(file.address).ok_or_else(missing)?;
    let mac = crate::domain_file::vif::format_mac(vif.mac.ok_or_else(missing)?);
    let places = Mutex::new(Places::new(request.limits));
    let name = request.name.clone();
    let pool =
        Pool { name: name.clone(), golden, places, shared: Mutex::default(), serial: Mutex::default() };
    let pool = Arc::new(pool);
    {
        let mut table = house.pools.table();
        if table.contains_key(&name) {
            return Err(PoolError::Exists(name).into());
        }
        if table.len() == POOLS_MAX {
            return Err(PoolError::Full.into());
        }
        table.insert(name.clone(), Arc::clone(&pool));
    }
    // Before the first clone of ours has a folder there.
    match orphans::clear(&house.state, &name) {
        0 => {}
        kept => house.announcer.line(&format!(
            "pool {name}: written disks of {kept} clones of an earlier run are kept in {}",
            house.state.root().join("domains").display()
        )),
    }
    if let Err(error) = house.network.add_pool(&name, &mac, address, request.touch) {
        house.pools.table().remove(&name);
        return Err(error.into());
    }
    // Somebody may serve them already.
    if let Some(wanted) = house.network.wanted() {
        serve(house, wanted);
    }
    let (owner, damaged) = (Arc::clone(house), name.clone());
    saved::check_beside(Arc::clone(pool.golden.saved()), move |error| {
        owner.announcer.line(&format!("pool {damaged} is closed: {}", events::sentence(error)));
        close(&owner, &damaged);
    })?;
    house.prepare();
    pool.fill(house);
    Ok(json!({ "pool": name, "address": address }))
}

/// Hears of sources, and looks now and then who is silent, as long as the house stands.
fn serve(house: &Arc<House>, wanted: std::sync::mpsc::Receiver<Wanted>) {
    let hearing = Arc::clone(house);
    let heard = std::thread::Builder::new().name("pools".into()).spawn(move || {
        for wanted in wanted {
            let pool = hearing.pools.table().get(&wanted.pool).cloned();
            if let Some(pool) = pool {
                pool.wanted(&hearing, wanted);
            }
        }
    });
    let looking = Arc::clone(house);
    let looked = std::thread::Builder::new().name("pools' idle".into()).spawn(move || {
        while !looking.is_closing() {
            std::thread::sleep(LOOK_EVERY);
            look(&looking);
        }
    });
    if let Some(error) = heard.err().or(looked.err()) {
        tracing::error!(%error, "pools are not served");
    }
}

fn look(house: &Arc<House>) {
    let pools: Vec<Arc<Pool>> = house.pools.table().values().cloned().collect();
    if pools.is_empty() {
        return;
    }
    let frames = match house.network.stats() {
        Ok(stats) => frames_of(&stats),
        // A new netwatch counts anew; nobody is called silent because of that.
        Err(_) => return,
    };
    for pool in pools {
        pool.look(house, &frames);
    }
}

/// Frames that each domain has got.
fn frames_of(stats: &Value) -> BTreeMap<u32, u64> {
    let ports = stats["ports"].as_array().into_iter().flatten();
    let frames = |port: &Value| {
        let domid = u32::try_from(port["domid"].as_u64()?).ok()?;
        Some((domid, port["count"]["frames_out"].as_u64()?))
    };
    ports.filter_map(frames).collect()
}

/// Closes a pool; its clones go without a trace, for they are damaged.
fn close(house: &House, name: &str) {
    let Some(pool) = house.pools.table().remove(name) else { return };
    let mut places = pool.places();
    let mut clones = places.take_parked_where(|_| true);
    clones.extend(places.take_where(|_| true).into_iter().map(|(_, clone)| clone));
    drop(places);
    clones.extend(pool.shared().take());
    clones.iter().for_each(|clone| pool.remove(house, clone));
    if let Err(error) = house.network.remove_pool(name) {
        tracing::warn!(%error, name, "the switch keeps a pool");
    }
}

/// The house is taken down: what intruders left is kept.
pub fn close_all(house: &House) {
    const WHY: &str = "the honeynet was taken down";
    for pool in std::mem::take(&mut *house.pools.table()).into_values() {
        let parked = pool.places().take_parked_where(|_| true);
        parked.iter().for_each(|clone| pool.remove(house, clone));
        let taken = pool.places().take_where(|_| true);
        taken.iter().for_each(|(source, clone)| pool.release(house, *source, clone, WHY));
        let shared = pool.shared().take();
        if let Some(shared) = shared {
            pool.let_go(house, &shared, "several", pool.event(EventId::PoolReleased).with("why", WHY));
        }
    }
}

impl Pools {
    /// All pools, with who has which clone.
    pub fn rows(&self) -> Value {
        let pools: Vec<Arc<Pool>> = self.table().values().cloned().collect();
        json!(pools.iter().map(|pool| pool.row()).collect::<Vec<_>>())
    }

    /// Whether one of them answers at this address.
    pub fn has_address(&self, address: Ipv4Addr) -> bool {
        self.table().values().any(|pool| pool.address() == Some(address))
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Pool>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    fn address(&self) -> Option<Ipv4Addr> {
        let file = &self.golden.saved().manifest().domain;
        file.vifs.first().and_then(|vif| vif.ip).or(file.address)
    }

    fn row(&self) -> Value {
        // Not waited for while it is made.
        let shared =
            self.shared.try_lock().ok().and_then(|shared| shared.as_ref().map(|shared| shared.name()));
        let places = self.places();
        let clones: Vec<Value> = places
            .taken()
            .map(|(source, taken)| {
                json!({
                    "source": source,
                    "clone": taken.clone.name(),
                    "age_s": taken.since.elapsed().as_secs_f64(),
                    "idle_s": taken.active.elapsed().as_secs_f64(),
                })
            })
            .collect();
        let manifest = self.golden.saved().manifest();
        let limits = places.limits();
        json!({
            "pool": self.name,
            "address": self.address(),
            "snapshot": manifest.uuid,
            "taken": clones.len(),
            "parked": places.parked(),
            "clones_max": limits.clones,
            "idle_max_s": limits.idle.as_secs(),
            "clones": clones,
            "shared": shared,
        })
    }

    /// A source waits for a clone.
    fn wanted(self: &Arc<Pool>, house: &Arc<House>, wanted: Wanted) {
        let begun = Instant::now();
        let decision = self.places().decide(wanted.source, begun);
        match decision {
            Decision::Coming => {}
            // The switch was begun anew, or told of it before it was seated.
            Decision::Again(clone) => self.seat(house, clone.domid, wanted.source),
            Decision::Share(limit) => {
                let (pool, house) = (Arc::clone(self), Arc::clone(house));
                beside("share", move || pool.share(&house, &wanted, limit));
            }
            Decision::Give { ready: Some(clone), instead_of: None } => {
                self.give(house, &wanted, Some(clone), begun);
                self.fill(house);
            }
            Decision::Give { ready, instead_of } => {
                let (pool, house) = (Arc::clone(self), Arc::clone(house));
                beside("clone", move || {
                    pool.give(&house, &wanted, ready, begun);
                    if let Some((source, clone)) = instead_of {
                        pool.release(&house, source, &clone, "another source came");
                    }
                    pool.fill(&house);
                });
            }
        }
    }

    fn give(&self, house: &Arc<House>, wanted: &Wanted, ready: Option<Arc<Domain>>, begun: Instant) {
        let was_ready = ready.is_some();
        match self.give_clone(house, wanted.source, ready) {
            Ok(clone) => {
                self.places().give(wanted.source, Arc::clone(&clone), Instant::now());
                let event = self.event_of(EventId::PoolAssigned, wanted.source);
                let event = event.domain(clone.name(), Some(clone.domid)).with("parked", was_ready);
                let event = event.with("protocol", wanted.protocol.clone()).with("port", wanted.port);
                let waited_ms = begun.elapsed().as_secs_f64() * 1e3;
                house.announcer.event(event.with("waited_ms", waited_ms));
            }
            Err(error) => {
                self.places().give_up(wanted.source);
                tracing::warn!(error = events::sentence(&error), pool = self.name, "a source gets no clone");
                self.share(house, wanted, "no clone could be made");
            }
        }
    }

    fn give_clone(
        &self,
        house: &Arc<House>,
        source: IpAddr,
        ready: Option<Arc<Domain>>,
    ) -> Result<Arc<Domain>, HouseError> {
        if let Some(clone) = ready {
            // One that has ended while it stood is no reason to turn somebody away.
            if house.unpause(&clone).is_ok() {
                house.network.seat(clone.domid, &self.name, source)?;
                return Ok(clone);
            }
            self.remove(house, &clone);
        }
        let seat = Seat::Pool { pool: self.name.clone(), source: Some(source) };
        self.golden.begin(house, &self.next_name(&house.state), false, seat)
    }

    fn seat(&self, house: &House, domid: u32, source: IpAddr) {
        if let Err(error) = house.network.seat(domid, &self.name, source) {
            tracing::warn!(%error, pool = self.name, %source, "a source has no seat");
        }
    }

    /// The decoy of all that have none of their own.
    fn share(&self, house: &Arc<House>, wanted: &Wanted, limit: &str) {
        let mut shared = self.shared();
        let lives = shared.as_ref().is_some_and(|shared| shared.pid().is_some());
        if !lives {
            let seat = Seat::Pool { pool: self.name.clone(), source: None };
            match self.golden.begin(house, &format!("{}-shared", self.name), false, seat) {
                Ok(clone) => *shared = Some(clone),
                Err(error) => {
                    tracing::warn!(error = events::sentence(&error), pool = self.name, "no shared decoy");
                    *shared = None;
                }
            }
        }
        let event = match &*shared {
            Some(clone) => {
                self.seat(house, clone.domid, wanted.source);
                self.event_of(EventId::PoolShared, wanted.source).domain(clone.name(), Some(clone.domid))
            }
            None => {
                let _ = house.network.refuse(&self.name, wanted.source);
                self.event_of(EventId::PoolRefused, wanted.source)
            }
        };
        house.announcer.event(event.with("limit", limit));
    }

    fn look(self: &Arc<Pool>, house: &Arc<House>, frames: &BTreeMap<u32, u64>) {
        let now = Instant::now();
        let (idle, ended) = {
            let mut places = self.places();
            let seen: Vec<(IpAddr, u64)> = places
                .taken()
                .filter_map(|(source, taken)| Some((*source, *frames.get(&taken.clone.domid)?)))
                .collect();
            seen.into_iter().for_each(|(source, frames)| places.saw(source, frames, now));
            let ended = places.take_where(|taken| taken.clone.pid().is_none());
            (places.expire(now), ended)
        };
        for (source, clone) in ended {
            self.release(house, source, &clone, "it ended by itself");
        }
        for (source, clone) in idle {
            self.release(house, source, &clone, "its attacker was silent");
        }
        let parked = self.places().take_parked_where(|clone| clone.pid().is_none());
        parked.iter().for_each(|clone| self.remove(house, clone));
        self.fill(house);
    }

    /// A clone goes: written down, if there is anything in it that its parent has not.
    fn release(&self, house: &House, source: IpAddr, clone: &Arc<Domain>, why: &str) {
        // What he sends from now on is for the next one.
        let _ = house.network.unseat(&self.name, source);
        let event = self.event_of(EventId::PoolReleased, source);
        self.let_go(house, clone, &source.to_string(), event.with("why", why));
    }

    fn let_go(&self, house: &House, clone: &Arc<Domain>, who: &str, mut event: Event) {
        let left = Left::of(&house.state.sessions(), clone.domid, clone.began());
        event = event.domain(clone.name(), Some(clone.domid)).with("left", left.words());
        if left.is_nothing() {
            self.remove(house, clone);
            // What came and went without a trace is in the flow events.
            for capture in netwatch::capture::files_of(&house.state.pcap(), &clone.file.name) {
                let _ = std::fs::remove_file(capture);
            }
        } else {
            event = self.keep(house, clone, format!("{who} left {}", left.words().join(", ")), event);
        }
        house.announcer.event(event);
    }

    /// Writes down what is in a clone, and takes it down; where it cannot be written its disks stay.
    fn keep(&self, house: &House, clone: &Arc<Domain>, reason: String, event: Event) -> Event {
        let taken = match clone.pid() {
            Some(_) => snapshot::take(house, clone, Diff::IfPossible, Some(reason))
                .map_err(|error| events::sentence(&error)),
            None => Err("its memory went with its process".to_owned()),
        };
        match taken {
            Ok(taken) => {
                self.remove(house, clone);
                event.with("snapshot", taken["id"].clone())
            }
            Err(why) => {
                self.take_down(house, clone);
                let folder = house.state.domain(&clone.file.name);
                event.with("not_kept", why).with("disks", folder.display().to_string())
            }
        }
    }

    /// Takes a clone down, with all that it had.
    fn remove(&self, house: &House, clone: &Arc<Domain>) {
        if self.take_down(house, clone)
            && let Err(error) = std::fs::remove_dir_all(house.state.domain(&clone.file.name))
        {
            tracing::warn!(%error, clone = clone.file.name, "a clone's folder stays");
        }
    }

    /// Whether it has gone.
    fn take_down(&self, house: &House, clone: &Arc<Domain>) -> bool {
        let gone = house.destroy(clone);
        if let Err(error) = &gone {
            tracing::error!(error = events::sentence(error), "a clone does not go");
        }
        gone.is_ok()
    }

    /// Parks as many clones as there are to be, beside all else.
    fn fill(self: &Arc<Pool>, house: &Arc<House>) {
        let (pool, house) = (Arc::clone(self), Arc::clone(house));
        beside("park", move || {
            while !house.is_closing() && pool.places().wants_parked() {
                let seat = Seat::Pool { pool: pool.name.clone(), source: None };
                let made = pool.golden.begin(&house, &pool.next_name(&house.state), true, seat);
                let failed = made.is_err();
                let made = made.inspect_err(|error| {
                    tracing::warn!(error = events::sentence(error), pool = pool.name, "no clone is parked");
                });
                pool.places().park(made.ok());
                if failed {
                    return;
                }
            }
        });
    }

    /// A name that no clone has had, of this supervisor or of an earlier one: what is left of those goes by it.
    fn next_name(&self, state: &State) -> String {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            *serial += 1;
            let name = format!("{}-{serial}", self.name);
            if !state.domain(&name).exists() && !store::folder_of(state, &name).exists() {
                return name;
            }
        }
    }

    fn event(&self, id: EventId) -> Event {
        Event::new(id, Timestamp::now()).with("pool", self.name.clone())
    }

    fn event_of(&self, id: EventId, source: IpAddr) -> Event {
        self.event(id).with("source", source.to_string())
    }

    fn places(&self) -> MutexGuard<'_, Places<Arc<Domain>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Option<Arc<Domain>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does it on a thread of its own.
fn beside(name: &str, work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(work) {
        tracing::warn!(%error, name, "a pool has no thread");
    }
}
