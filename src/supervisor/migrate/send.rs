//! A domain leaves: it is offered, copied while it runs, stopped, and let go when it runs elsewhere. Whatever breaks before that leaves it running.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use events::{Event, EventId};
use honeyvmm::cpuid;
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags};
use serde_json::{Value, json};

use super::super::copying::{self, Scope, Standing, Still, Target, Turn};
use super::super::domain::Domain;
use super::super::house::{House, HouseError};
use super::super::launch::LaunchError;
use super::super::network::Seat;
use super::super::resources;
use super::channel::Channel;
use super::moved::Moved;
use super::{MigrateError, files};
use crate::migration::offer::{Outer, VERSION};
use crate::migration::wire::{BULK_BYTES_MAX, Head, Kind};
use crate::migration::{Decision, HostFile, Offer, Rest};
use crate::{domain_file::DomainFile, uuid};

/// How long the other side may look for, and compare, kernel and images.
const OFFER_PATIENCE: Duration = Duration::from_secs(120);
/// How long it may take to build it, and to have it run: the domain stands meanwhile.
const STANDING_PATIENCE: Duration = Duration::from_secs(10);
/// How long it is asked what became of a domain, and how often.
const ASKED_FOR: Duration = Duration::from_secs(60);
const ASKED_EVERY: Duration = Duration::from_millis(500);

/// How it ended.
enum Outcome {
    /// It runs there.
    Gone,
    /// It stays here.
    Stays(MigrateError),
    /// Nobody knows.
    Unknown,
}

/// Moves a domain to a peer; given up, while that can be, when `asker` hangs up. Answers how long it stood still.
pub fn migrate(
    house: &Arc<House>,
    domain: &Arc<Domain>,
    peer: &str,
    asker: &UnixStream,
) -> Result<Value, HouseError> {
    move_to(house, domain, peer, asker).inspect_err(|error| {
        let event = Event::new(EventId::MigrationFailed, Timestamp::now());
        let event = event.domain(domain.name(), Some(domain.domid)).with("to", peer);
        house.announcer.event(event.with("reason", events::sentence(error)));
    })
}

fn move_to(
    house: &Arc<House>,
    domain: &Arc<Domain>,
    peer: &str,
    asker: &UnixStream,
) -> Result<Value, HouseError> {
    let begun = Instant::now();
    let offer = offer(house, domain)?;
    let mut channel = house.migration.connect(peer)?;
    channel.tell(Kind::Offer, &offer)?;
    channel.be_patient(OFFER_PATIENCE)?;
    channel.answer()?;
    channel.be_patient(STANDING_PATIENCE)?;
    let mut turn = domain.copies.turn();
    let mut sender = Sender { channel, asker, sent_bytes: 0 };
    let copied = copy(house, domain, &mut turn, &mut sender, &offer.token);
    if turn.last.is_none()
        && copied.is_err()
        && let Err(error) = copying::forget(domain)
    {
        tracing::warn!(%error, "what a domain writes is logged on");
    }
    // Held until it is gone, so that nobody lets it go on here.
    let still = hand_over(house, domain, copied?, sender.channel, &offer.token)?;
    let downtime = still.elapsed();
    let row = json!({
        "name": offer.domain.name,
        "to": peer,
        "downtime_ms": downtime.as_secs_f64() * 1e3,
        "bytes": sender.sent_bytes,
        "seconds": begun.elapsed().as_secs_f64(),
    });
    let event = Event::new(EventId::DomainMigrated, Timestamp::now());
    let event = event.domain(domain.name(), Some(domain.domid)).with("to", peer);
    house.announcer.event(event.with("downtime_ms", row["downtime_ms"].clone()));
    // It has moved, whatever becomes of what it leaves.
    if let Err(error) = house.destroy(domain) {
        tracing::error!(error = events::sentence(&error), "a domain that has moved does not go");
    }
    Ok(row)
}

fn offer(house: &House, domain: &Domain) -> Result<Offer, HouseError> {
    let name = domain.name();
    let outer = match &domain.seat {
        Seat::Own => None,
        Seat::Outer { mac, address } => Some(Outer { mac: mac.clone(), address: *address }),
        Seat::Pool { .. } => return Err(MigrateError::Pool(name).into()),
    };
    let written = domain.disks().iter().filter(|disk| !disk.spec.read_only);
    if let Some(bare) = written.clone().find(|disk| disk.layer.is_none()) {
        return Err(MigrateError::NoLayer { name, vdev: bare.spec.vdev.clone() }.into());
    }
    let file = &domain.file;
    let describe = |path: &std::path::Path| files::describe(&house.state, &domain.folder.join(path));
    let backend = resources::kvm().and_then(|kvm| resources::backend(&kvm)).map_err(LaunchError::from)?;
    Ok(Offer {
        version: VERSION,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        token: hex::encode(uuid::random()),
        domain: DomainFile { name, uuid: Some(domain.uuid), ..file.clone() },
        uuid: domain.uuid,
        outer,
        backend,
        shim: honeyvmm::machine::state::shim_id(backend),
        features: cpuid::features().to_vec(),
        kernel: describe(file.kernel.as_deref().unwrap_or("".as_ref()))?,
        ramdisk: file.ramdisk.as_deref().map(describe).transpose()?,
        images: file
            .disks
            .iter()
            .map(|disk| describe(&disk.target))
            .collect::<Result<Vec<HostFile>, MigrateError>>()?,
    })
}

/// Sends all of it; it stands still then, and the other side has built it.
fn copy<'a>(
    house: &House,
    domain: &'a Domain,
    turn: &mut Turn,
    sender: &mut Sender<'_>,
    token: &str,
) -> Result<Still<'a>, HouseError> {
    copying::send_frozen(domain, sender)?;
    let standing = copying::copy(domain, turn, Scope::Everything, sender, || ())?;
    let told = tell_rest(house, domain, &standing, sender);
    // While the other side builds it, the note is written that this one is not to begin it again.
    let moved = Moved::of(&house.state, &domain.name());
    let noted = told.and_then(|()| moved.write(&house.state, sender.channel.peer(), token));
    match noted.and_then(|()| sender.channel.answer().map(drop)) {
        Ok(()) => Ok(standing.still()),
        Err(error) => {
            moved.remove()?;
            Err(error.into())
        }
    }
}

fn tell_rest(
    house: &House,
    domain: &Domain,
    standing: &Standing<'_>,
    sender: &mut Sender<'_>,
) -> Result<(), MigrateError> {
    let peer = sender.channel.peer().to_owned();
    for (at, run) in standing.rest.shim.runs() {
        for (index, part) in (0..).zip(run.chunks(BULK_BYTES_MAX as usize)) {
            let at = at + index * u64::from(BULK_BYTES_MAX);
            let head = Head { kind: Kind::Shim, disk: 0, bytes: part.len() as u32, at };
            sender.channel.send(head, part).map_err(|source| sender.channel.broken(source))?;
        }
    }
    // A switch that does not answer knows of no connections.
    let flows = house.network.flows_of(domain.domid).unwrap_or_default();
    let state = serde_json::from_value(standing.rest.state.clone())
        .map_err(|source| MigrateError::Json { peer, source })?;
    let stood_ns = u64::try_from(standing.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let rest = Rest { state, stood_ns, paused: standing.was_paused(), flows };
    sender.channel.tell(Kind::Rest, &rest)
}

/// The one moment at which it changes sides.
fn hand_over<'a>(
    house: &House,
    domain: &Domain,
    still: Still<'a>,
    channel: Channel,
    token: &str,
) -> Result<Still<'a>, HouseError> {
    let peer = channel.peer().to_owned();
    let error = match go(house, channel, token) {
        Outcome::Gone => return Ok(still),
        Outcome::Stays(error) => {
            still.go_on()?;
            Moved::of(&house.state, &domain.name()).remove()?;
            error
        }
        Outcome::Unknown => {
            still.leave_paused();
            MigrateError::Undecided { name: domain.name(), peer }
        }
    };
    Err(error.into())
}

fn go(house: &House, mut channel: Channel, token: &str) -> Outcome {
    let peer = channel.peer().to_owned();
    let sent = channel.send(Head::plain(Kind::Go, 0), &[]).map_err(|source| channel.broken(source));
    // From here on only what is decided there counts, whatever else is said.
    let why = match sent.and_then(|()| channel.answer()) {
        Ok(_) => return Outcome::Gone,
        Err(error) => error,
    };
    tracing::warn!(error = events::sentence(&why), "a migration is asked about");
    drop(channel);
    let begun = Instant::now();
    while begun.elapsed() < ASKED_FOR && !house.is_closing() {
        match ask(house, &peer, token) {
            Ok(Decision::Came) => return Outcome::Gone,
            Ok(Decision::Refused) => return Outcome::Stays(why),
            Err(error) => tracing::debug!(%error, "nobody says what became of a migration"),
        }
        std::thread::sleep(ASKED_EVERY);
    }
    Outcome::Unknown
}

/// What became of it; being asked decides, if nothing has.
fn ask(house: &House, peer: &str, token: &str) -> Result<Decision, MigrateError> {
    let mut channel = house.migration.connect(peer)?;
    channel.tell(Kind::Ask, &token)?;
    let answer = channel.answer()?;
    serde_json::from_value(answer).map_err(|source| MigrateError::Json { peer: peer.to_owned(), source })
}

/// The copy goes there.
struct Sender<'a> {
    channel: Channel,
    asker: &'a UnixStream,
    sent_bytes: u64,
}

impl Sender<'_> {
    fn send(&mut self, kind: Kind, disk: u8, at: u64, bytes: &[u8]) -> io::Result<()> {
        if hung_up(self.asker) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "whoever asked for it has gone"));
        }
        let head = Head { kind, disk, bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX), at };
        self.sent_bytes += bytes.len() as u64;
        self.channel.send(head, bytes)
    }
}

impl Target for Sender<'_> {
    fn pages(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.send(Kind::Pages, 0, first, bytes)
    }

    fn clusters(&mut self, disk: usize, first: u64, bytes: &[u8]) -> io::Result<()> {
        let disk = u8::try_from(disk).map_err(io::Error::other)?;
        self.send(Kind::Clusters, disk, first, bytes)
    }
}

fn hung_up(socket: &UnixStream) -> bool {
    let mut ready = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut ready, Some(&now)).is_ok_and(|count| count > 0)
}
