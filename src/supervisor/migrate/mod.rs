//! Live migration: a domain leaves ([`send`]), a domain comes ([`receive`]). What the two sides say to each other is `crate::migration`'s.

mod channel;
mod files;
mod ledger;
mod moved;
mod receive;
mod send;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::house::House;
use crate::carrier::{Known, Side};
use crate::honeynet_file;
use crate::migration::{Identity, IdentityError, OfferError, WireError};
use crate::state::State;
use channel::Channel;
pub use moved::Moved;
pub use send::migrate;

/// Connections that are served at a time; more are hung up on.
const CONNECTIONS_MAX: usize = 4;
/// How long a peer may take to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a domain does not move.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The listening address is somebody's.
    #[error("migrations cannot come in at {listen} (migration.listen)")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No key of its own.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nobody of that name.
    #[error("there is no [[migration.peer]] named {0} in the honeynet file")]
    NoPeer(String),
    /// It cannot be reached.
    #[error("honeynet {peer} cannot be reached at {address}")]
    Connect {
        /// Who.
        peer: String,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process that carries a connection.
    #[error("no process carries the connection")]
    Carrier(#[source] io::Error),
    /// The carrier's own sentence.
    #[error("honeynet {peer}: {sentence}")]
    Handshake {
        /// Who.
        peer: String,
        /// Why.
        sentence: String,
    },
    /// Somebody else answers there.
    #[error("at the address of honeynet {wanted} answers {found}")]
    OtherPeer {
        /// Who was wanted.
        wanted: String,
        /// Who it is.
        found: String,
    },
    /// It says no.
    #[error("honeynet {peer} refuses: {sentence}")]
    Refused {
        /// Who.
        peer: String,
        /// Why.
        sentence: String,
    },
    /// The connection is of no use any more.
    #[error("the connection with honeynet {peer} broke")]
    Broken {
        /// With whom.
        peer: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What comes is no frame.
    #[error("honeynet {peer} speaks something else")]
    Wire {
        /// Who.
        peer: String,
        /// What is wrong.
        #[source]
        source: WireError,
    },
    /// It is not what was to come.
    #[error("honeynet {peer} sends {what} where it may not")]
    Unexpected {
        /// Who.
        peer: String,
        /// What came.
        what: String,
    },
    /// No JSON of the right form.
    #[error("what honeynet {peer} says cannot be read")]
    Json {
        /// Who.
        peer: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The offer is none.
    #[error(transparent)]
    Offer(#[from] OfferError),
    /// A pool's.
    #[error("domain {0} is a clone of a pool, and stays where its pool is")]
    Pool(String),
    /// Written without a layer.
    #[error("disk {vdev} of domain {name} has no copy-on-write layer (hn_layer = 1), so it cannot move")]
    NoLayer {
        /// The domain.
        name: String,
        /// The disk.
        vdev: String,
    },
    /// Kernel, initramfs or image cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not here.
    #[error("{path} is not there, nor in the state directory, as it is at the source")]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// Another shim, processor or KVM.
    #[error("this host has another {0}")]
    Host(&'static str),
    /// Name, uuid or address are somebody's.
    #[error("its {what} {value} is taken, or cannot be used")]
    Taken {
        /// What of it.
        what: &'static str,
        /// Which.
        value: String,
    },
    /// What came does not fit it.
    #[error("what came of domain {name} does not fit it")]
    Unfit {
        /// The domain.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of ours.
    #[error("the migration of domain {name} cannot be noted")]
    Note {
        /// The domain.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has been decided otherwise.
    #[error("the migration of domain {0} was given up by the other side")]
    GivenUp(String),
    /// Whether it runs there is not known.
    #[error(
        "whether domain {name} runs at honeynet {peer} is not known, so it stands here: once you know that it does not, \
         `honeynet unpause {name}`, else `honeynet destroy {name}`"
    )]
    Undecided {
        /// The domain.
        name: String,
        /// Where.
        peer: String,
    },
    /// It runs elsewhere.
    #[error("domain {name} has moved to honeynet {to}; remove {note} if it is to begin here again")]
    Moved {
        /// The domain.
        name: String,
        /// Where to.
        to: String,
        /// The file that says so.
        note: PathBuf,
    },
}

/// This honeynet among its peers.
pub struct Migration {
    identity: Identity,
    peers: Vec<honeynet_file::Peer>,
    listener: Option<TcpListener>,
    served: Arc<AtomicUsize>,
}

impl Migration {
    /// Takes the address. The identity is made where it is missing, if there is anybody to show it to.
    pub fn prepare(state: &State, file: &honeynet_file::Migration) -> Result<Migration, MigrateError> {
        let bind =
            |listen| TcpListener::bind(listen).map_err(|source| MigrateError::Listen { listen, source });
        let listener = file.listen.map(bind).transpose()?;
        let identity = Identity::load_or_make(state)?;
        Ok(Migration { identity, peers: file.peers.clone(), listener, served: Arc::default() })
    }

    /// A connection with this peer.
    fn connect(&self, name: &str) -> Result<Channel, MigrateError> {
        let peer = self.peers.iter().find(|peer| peer.name == name);
        let peer = peer.ok_or_else(|| MigrateError::NoPeer(name.to_owned()))?;
        let tcp = TcpStream::connect_timeout(&peer.address, CONNECT_TIMEOUT);
        let tcp = tcp.map_err(|source| MigrateError::Connect {
            peer: name.to_owned(),
            address: peer.address,
            source,
        })?;
        let channel = Channel::open(tcp, Side::Client, name, &self.identity, self.known())?;
        if channel.peer() != name {
            return Err(MigrateError::OtherPeer {
                wanted: name.to_owned(),
                found: channel.peer().to_owned(),
            });
        }
        Ok(channel)
    }

    fn known(&self) -> Vec<Known> {
        let known =
            |peer: &honeynet_file::Peer| Known { name: peer.name.clone(), fingerprint: peer.fingerprint };
        self.peers.iter().map(known).collect()
    }
}

/// Takes away what was on its way here when the last supervisor ended.
pub fn remove_unfinished(state: &State) -> io::Result<()> {
    match std::fs::remove_dir_all(state.incoming()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Serves those who come in, from a thread of its own.
pub fn listen(house: &Arc<House>) -> io::Result<()> {
    let Some(listener) = &house.migration.listener else { return Ok(()) };
    let (listener, house) = (listener.try_clone()?, Arc::clone(house));
    let listening = std::thread::Builder::new().name("migration".into()).spawn(move || {
        loop {
            match listener.accept() {
                Ok((tcp, address)) => serve(&house, tcp, address),
                Err(error) => {
                    tracing::warn!(%error, "a migration cannot come in");
                    // Out of descriptors, most likely; the next attempt is not to be a busy loop.
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    });
    listening.map(drop)
}

fn serve(house: &Arc<House>, tcp: TcpStream, address: SocketAddr) {
    let served = &house.migration.served;
    // Only the thread that accepts comes here, so the number does not grow in between.
    if served.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
        tracing::warn!(%address, "{CONNECTIONS_MAX} migrations are served: one more is hung up on");
        return;
    }
    served.fetch_add(1, Ordering::Relaxed);
    let place = Place(Arc::clone(served));
    let house = Arc::clone(house);
    let serving = std::thread::Builder::new().name("incoming".into()).spawn(move || {
        let _place = place;
        let migration = &house.migration;
        let channel = Channel::open(tcp, Side::Server, "", &migration.identity, migration.known());
        match channel {
            Ok(channel) => receive::serve(&house, channel),
            Err(error) => {
                house
                    .announcer
                    .line(&format!("a migration from {address} is refused: {}", events::sentence(&error)));
            }
        }
    });
    if let Err(error) = serving {
        tracing::warn!(%error, "a migration cannot be served");
    }
}

/// One of the connections that are served; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
