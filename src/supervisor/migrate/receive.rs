//! A domain comes: it is looked at whether it can be here at all, its memory and layers are put together, it is built and stands; then it is told
//! to run, once. Whatever breaks before that takes it down again.

use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use events::{Event, EventId};
use honeyvmm::cpuid;
use honeyvmm::disk::{CLUSTER_BYTES, Layer};
use honeyvmm::machine::state::shim_id;
use honeyvmm::shim::Layout;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::beginning::{Arrived, Beginning, Origin};
use super::super::copying::Memory;
use super::super::domain::Domain;
use super::super::house::{House, HouseError};
use super::super::launch::LaunchError;
use super::super::network::Seat;
use super::super::resources;
use super::channel::Channel;
use super::moved::Moved;
use super::{MigrateError, files, ledger};
use crate::domain_file::DomainFile;
use crate::migration::offer::is_token;
use crate::migration::wire::{Head, Kind};
use crate::migration::{Answer, Decision, Offer, Rest};

/// How long a source may be silent while it copies, and until it says `go`.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const PAGE_BYTES: u64 = 4096;

/// Serves one connection to its end.
pub fn serve(house: &Arc<House>, mut channel: Channel) {
    let served = first_word(house, &mut channel);
    let Err(error) = served else { return };
    let sentence = events::sentence(&error);
    house.announcer.line(&format!("a migration from honeynet {} failed: {sentence}", channel.peer()));
    // It may be the connection that broke.
    let _ = channel.tell(Kind::Answer, &Answer::Error(sentence));
}

fn first_word(house: &Arc<House>, channel: &mut Channel) -> Result<(), HouseError> {
    let (head, _) = channel.receive()?;
    match head.kind {
        Kind::Offer => take(house, channel),
        Kind::Ask => {
            let token: String = channel.read()?;
            if !is_token(&token) {
                return Err(channel.unexpected(head.kind).into());
            }
            let decision = decide(house, &token, Decision::Refused)?;
            channel.tell(Kind::Answer, &Answer::Ok(json!(decision)))?;
            Ok(())
        }
        kind @ (Kind::Answer | Kind::Pages | Kind::Clusters | Kind::Shim | Kind::Rest | Kind::Go) => {
            Err(channel.unexpected(kind).into())
        }
    }
}

fn take(house: &Arc<House>, channel: &mut Channel) -> Result<(), HouseError> {
    let offer: Offer = channel.read()?;
    let file = fit(house, &offer)?;
    let mut coming = Coming::begin(house, &offer, file)?;
    channel.tell(Kind::Answer, &Answer::Ok(Value::Null))?;
    channel.be_patient(SILENCE_MAX)?;
    let rest = coming.receive(channel)?;
    let (paused, flows) = (rest.paused, rest.flows.clone());
    let built = Built::build(house, coming, &offer, rest)?;
    channel.tell(Kind::Answer, &Answer::Ok(Value::Null))?;
    let (head, _) = channel.receive()?;
    if head.kind != Kind::Go {
        return Err(channel.unexpected(head.kind).into());
    }
    if decide(house, &offer.token, Decision::Came)? == Decision::Refused {
        return Err(MigrateError::GivenUp(offer.domain.name).into());
    }
    // From here on it is ours, whatever becomes of the connection, or of it.
    let domain = built.keep();
    if let Err(error) = run(house, &domain, &flows, paused) {
        let sentence = events::sentence(&error);
        house.announcer.line(&format!("domain {} has come, and: {sentence}", domain.name()));
    }
    channel.tell(Kind::Answer, &Answer::Ok(json!({ "domid": domain.domid })))?;
    let event = Event::new(EventId::DomainMigrated, Timestamp::now());
    house.announcer.event(event.domain(domain.name(), Some(domain.domid)).with("from", channel.peer()));
    Ok(())
}

/// Has it go on, and the network find it.
fn run(house: &House, domain: &Domain, flows: &[Value], paused: bool) -> Result<(), HouseError> {
    // A connection that the switch does not know is judged as one that begins.
    if let Err(error) = house.network.take_flows(domain.domid, flows) {
        tracing::warn!(%error, "the switch does not take a domain's connections");
    }
    if !paused {
        house.unpause(domain)?;
    }
    if let Err(error) = house.network.announce(domain.domid) {
        tracing::warn!(%error, "the network is not told of a domain that came");
    }
    Moved::of(&house.state, &domain.name()).remove()?;
    Ok(())
}

fn decide(house: &House, token: &str, decision: Decision) -> Result<Decision, MigrateError> {
    let decided = ledger::decide(&house.state, token, decision);
    decided.map_err(|source| MigrateError::Note { name: token.to_owned(), source })
}

/// Whether it can be here; answers its file with the paths of this host.
fn fit(house: &House, offer: &Offer) -> Result<DomainFile, HouseError> {
    offer.check().map_err(MigrateError::from)?;
    let backend = resources::kvm().and_then(|kvm| resources::backend(&kvm)).map_err(LaunchError::from)?;
    if offer.backend != backend {
        return Err(MigrateError::Host("kind of KVM").into());
    }
    if offer.shim != shim_id(backend) {
        return Err(MigrateError::Host("build of honeynet").into());
    }
    if !cpuid::has(&cpuid::features(), &offer.features) {
        return Err(MigrateError::Host("processor, which lacks features that the domain may use").into());
    }
    let taken = |what, value: String| Err(MigrateError::Taken { what, value }.into());
    let domains = house.domains();
    if domains.iter().any(|domain| domain.name() == offer.domain.name) {
        return taken("name", offer.domain.name.clone());
    }
    if domains.iter().any(|domain| domain.uuid == offer.uuid) {
        return taken("uuid", crate::uuid::text(offer.uuid));
    }
    let outer = offer.outer.as_ref().map(|outer| vec![outer.address]);
    let addresses = outer.unwrap_or_else(|| offer.domain.addresses().collect());
    if let Some(address) = addresses.into_iter().find(|address| !free(house, &domains, *address)) {
        return taken("address", address.to_string());
    }
    resources::available(offer.domain.memory_mib).map_err(LaunchError::from)?;
    Ok(with_paths_of_here(house, offer)?)
}

fn free(house: &House, domains: &[Arc<Domain>], address: Ipv4Addr) -> bool {
    house.network.is_host(address)
        && !house.pools.has_address(address)
        && !domains.iter().any(|domain| domain.addresses().contains(&address))
}

fn with_paths_of_here(house: &House, offer: &Offer) -> Result<DomainFile, MigrateError> {
    let mut file = DomainFile { uuid: Some(offer.uuid), ..offer.domain.clone() };
    file.kernel = Some(files::find(&house.state, &offer.kernel)?);
    file.ramdisk = offer.ramdisk.as_ref().map(|ramdisk| files::find(&house.state, ramdisk)).transpose()?;
    for (disk, image) in file.disks.iter_mut().zip(&offer.images) {
        disk.target = files::find(&house.state, image)?;
    }
    Ok(file)
}

/// A domain whose memory and layers are put together. Dropped, it leaves nothing.
struct Coming {
    file: DomainFile,
    folder: PathBuf,
    ram: File,
    shim: Memory,
    // In the order of the disks that the guest may write.
    layers: Vec<Layer>,
}

impl Coming {
    fn begin(house: &House, offer: &Offer, file: DomainFile) -> Result<Coming, HouseError> {
        let folder = house.state.incoming().join(&offer.token);
        let made = house.state.make(&folder);
        made.map_err(|source| MigrateError::Note { name: file.name.clone(), source })?;
        let layout = Layout { ram_bytes: file.memory_mib << 20, vcpus: file.maxvcpus };
        let ram = resources::ram(file.memory_mib).map_err(LaunchError::from)?;
        let shim = Memory::empty(layout.shim_bytes());
        let mut coming = Coming { file, folder, ram, shim, layers: Vec::new() };
        for disk in coming.file.disks.iter().filter(|disk| !disk.read_only) {
            let layer = resources::arriving_layer(&disk.target, &coming.folder, &disk.vdev);
            coming.layers.push(layer.map_err(LaunchError::from)?);
        }
        Ok(coming)
    }

    /// Takes all that comes, up to the rest.
    fn receive(&mut self, channel: &mut Channel) -> Result<Rest, MigrateError> {
        loop {
            let (head, bytes) = channel.receive()?;
            let put = match head.kind {
                Kind::Pages => self.pages(head, bytes),
                Kind::Clusters => self.clusters(head, bytes),
                Kind::Shim => self.shim.push(head.at, bytes.to_vec()),
                Kind::Rest => return channel.read(),
                kind @ (Kind::Offer | Kind::Answer | Kind::Go | Kind::Ask) => {
                    return Err(channel.unexpected(kind));
                }
            };
            put.map_err(|source| MigrateError::Unfit { name: self.file.name.clone(), source })?;
        }
    }

    fn pages(&self, head: Head, bytes: &[u8]) -> io::Result<()> {
        // The memfd cannot grow, but it is not to be tried.
        let at = head.at * PAGE_BYTES;
        if at + bytes.len() as u64 > self.file.memory_mib << 20 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.ram.write_all_at(bytes, at)
    }

    fn clusters(&mut self, head: Head, bytes: &[u8]) -> io::Result<()> {
        debug_assert!((bytes.len() as u64).is_multiple_of(CLUSTER_BYTES));
        let layer = self.layers.get_mut(usize::from(head.disk)).ok_or(io::ErrorKind::InvalidData)?;
        layer.put(head.at, bytes).map_err(io::Error::other)
    }

    /// What a domain is built from.
    fn arrived(&mut self, mut rest: Rest) -> io::Result<Arrived> {
        rest.state.clock.moved(Duration::from_nanos(rest.stood_ns));
        let mut state = tempfile::tempfile_in(&self.folder)?;
        state.write_all(&serde_json::to_vec(&rest.state)?)?;
        // They are opened anew, by their names in the domain's folder.
        self.layers.clear();
        let shim = std::mem::take(&mut self.shim);
        Ok(Arrived { state, ram: self.ram.try_clone()?, shim, layers: self.folder.clone() })
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, path = %self.folder.display(), "a folder of a migration stays");
        }
    }
}

/// A domain that came, and stands until it is told to run. Dropped before, it is taken down, and leaves nothing.
struct Built {
    house: Arc<House>,
    domain: Option<Arc<Domain>>,
    own: PathBuf,
    own_was_there: bool,
}

impl Built {
    fn build(house: &Arc<House>, mut coming: Coming, offer: &Offer, rest: Rest) -> Result<Built, HouseError> {
        let name = coming.file.name.clone();
        let arrived = coming.arrived(rest);
        let arrived = arrived.map_err(|source| MigrateError::Unfit { name: name.clone(), source })?;
        let seat = match &offer.outer {
            None => Seat::Own,
            Some(outer) => Seat::Outer { mac: outer.mac.clone(), address: outer.address },
        };
        let origin = Origin::Arrived(Arc::new(arrived));
        let beginning = Beginning { origin, parked: true, seat, ..Beginning::default() };
        let own = house.state.domain(&name);
        let own_was_there = own.exists();
        let domain = house.build(coming.file.clone(), PathBuf::from("/"), offer.uuid, beginning)?;
        Ok(Built { house: Arc::clone(house), domain: Some(domain), own, own_was_there })
    }

    /// It stays.
    fn keep(mut self) -> Arc<Domain> {
        // There is one as long as this is there.
        self.domain.take().expect("it was built, and nobody has taken it")
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        let Some(domain) = self.domain.take() else { return };
        if let Err(error) = self.house.destroy(&domain) {
            tracing::error!(%error, "a domain whose migration failed stays");
            return;
        }
        let taken_back = match self.own_was_there {
            true => resources::take_layers_back(&domain.file, &self.own),
            false => std::fs::remove_dir_all(&self.own),
        };
        // A clone's has gone already.
        if let Err(error) = taken_back
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.own.display(), "what came of a domain stays");
        }
    }
}
