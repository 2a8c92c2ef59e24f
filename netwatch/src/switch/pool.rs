//! Pools: one MAC and one address for many clones of one machine, each of which serves a source of its own.
//!
//! IPv4 only: a clone's guest has no other address that an uplink could know. Who gets which clone is not decided here.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::asks::Asks;
use super::held::{Held, HeldCount};
use super::{PortError, PortId};
use crate::packet::{
    Layers, Mac, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Tcp, Transport,
};

/// Pools of one switch.
pub const POOLS_MAX: usize = 64;
/// Sources that are seated at a time, of one pool. A shared decoy may have any number of them.
pub const SEATS_MAX: usize = 65_536;
/// ICMP types that ask for something (RFC 792): echo, timestamp, information, address mask. All others are answers.
const ICMP_QUESTIONS: [u8; 4] = [8, 13, 15, 17];

/// A pool's place in the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolId(pub(super) usize);

/// Which packet makes a source wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Touch {
    /// The first that a host could answer: not a reset, not an answer of ICMP.
    #[default]
    Any,
    /// A TCP SYN; a ping or a datagram of a scanner makes no clone.
    Syn,
}

/// A pool to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// Its name.
    pub name: String,
    /// The MAC that all its clones have.
    pub mac: Mac,
    /// The address that all its clones have.
    pub address: Ipv4Addr,
    /// Which packet makes a source wanted.
    pub touch: Touch,
}

/// Why a pool or a seat was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// No such pool.
    #[error("there is no pool {0}")]
    NoPool(String),
    /// The name is taken.
    #[error("there is a pool {0} already")]
    Exists(String),
    /// All places are taken.
    #[error("switch has {POOLS_MAX} pools already")]
    Full,
    /// Somebody has its MAC.
    #[error("a port or another pool has the mac of pool {0}")]
    MacInUse(String),
    /// Its clones must go first.
    #[error("pool {name} has {clones} clones plugged in")]
    InUse {
        /// The pool.
        name: String,
        /// How many.
        clones: usize,
    },
    /// A source that a pool cannot have.
    #[error("a pool's source is one station's IPv4 address, not {0}")]
    Source(IpAddr),
    /// The pool has too many.
    #[error("pool {0} has {SEATS_MAX} seats already")]
    Seats(String),
    /// The domain has no port in the pool.
    #[error("domain {domid} has no port in pool {pool}")]
    NoPort {
        /// The domain.
        domid: u32,
        /// The pool.
        pool: String,
    },
    /// The clone has another MAC or address than its pool.
    #[error("a clone of pool {0} has its mac and its address, no others")]
    NotTheClone(String),
    /// A clone of a pool has the pool's MAC and address outside.
    #[error("domain {0} is to be a clone of a pool and to have addresses of its own")]
    Mapped(String),
    /// The switch has no room for the port.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// A source without a clone, as the toolstack is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The pool that it spoke to.
    pub pool: String,
    /// Its address.
    pub source: IpAddr,
    /// `tcp`, `udp`, `icmp`, or a protocol number.
    pub protocol: String,
    /// The port that it touched first; 0 where the protocol has none.
    pub port: u16,
}

/// What a pool has to do just now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolCount {
    /// Its name.
    pub pool: String,
    /// Ports of clones.
    pub clones: usize,
    /// Sources that have one.
    pub seats: usize,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub spec: PoolSpec,
    pub seats: HashMap<Ipv4Addr, PortId>,
    pub clones: usize,
}

impl Pool {
    /// True where this packet of a source that nobody knows is a first touch.
    pub fn is_touch(&self, layers: &Layers) -> bool {
        let flags = layers.tcp().map(|tcp| tcp.flags);
        match self.spec.touch {
            Touch::Any => match &layers.transport {
                Some(Transport::Icmp(icmp)) => ICMP_QUESTIONS.contains(&icmp.kind),
                Some(Transport::Tcp(tcp)) => tcp.flags & Tcp::RST == 0,
                Some(Transport::Udp(_)) => true,
                // ICMPv6 over IPv4 is nonsense; of what is not decoded, a fragment has no beginning to be answered.
                Some(Transport::Icmpv6(_)) => false,
                None => layers.ip().is_some_and(|ip| !ip.is_fragment()),
            },
            Touch::Syn => flags.is_some_and(|flags| flags & (Tcp::SYN | Tcp::ACK | Tcp::RST) == Tcp::SYN),
        }
    }
}

/// All pools, who waits for a clone, and which clone asked for whom.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: Vec<Option<Pool>>,
    by_name: HashMap<String, PoolId>,
    by_address: HashMap<Ipv4Addr, PoolId>,
    pub held: Held,
    pub asks: Asks,
}

impl Pools {
    pub fn add(&mut self, spec: PoolSpec) -> Result<PoolId, PoolError> {
        if self.by_name.contains_key(&spec.name) || self.by_address.contains_key(&spec.address) {
            return Err(PoolError::Exists(spec.name));
        }
        let place = match self.pools.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.pools.len() < POOLS_MAX => {
                self.pools.push(None);
                self.pools.len() - 1
            }
            None => return Err(PoolError::Full),
        };
        self.by_name.insert(spec.name.clone(), PoolId(place));
        self.by_address.insert(spec.address, PoolId(place));
        if let Some(place) = self.pools.get_mut(place) {
            *place = Some(Pool { spec, seats: HashMap::new(), clones: 0 });
        }
        Ok(PoolId(place))
    }

    pub fn remove(&mut self, id: PoolId) -> Option<PoolSpec> {
        let pool = self.pools.get_mut(id.0)?.take()?;
        self.by_name.remove(&pool.spec.name);
        self.by_address.remove(&pool.spec.address);
        self.held.forget(id);
        Some(pool.spec)
    }

    pub fn id(&self, name: &str) -> Result<PoolId, PoolError> {
        self.by_name.get(name).copied().ok_or_else(|| PoolError::NoPool(name.to_owned()))
    }

    /// The pool that has this address.
    pub fn at(&self, address: Ipv4Addr) -> Option<PoolId> {
        self.by_address.get(&address).copied()
    }

    pub fn get(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(id.0)?.as_ref()
    }

    pub fn get_mut(&mut self, id: PoolId) -> Option<&mut Pool> {
        self.pools.get_mut(id.0)?.as_mut()
    }

    /// The sources that nobody was told of yet.
    pub fn take_wanted(&mut self) -> Vec<Wanted> {
        let untold = self.held.take_untold();
        let wanted = |((pool, source), touched): (super::held::Source, super::held::Touched)| {
            let pool = self.get(pool)?.spec.name.clone();
            let protocol = match touched.protocol {
                PROTOCOL_TCP => "tcp".to_owned(),
                PROTOCOL_UDP => "udp".to_owned(),
                PROTOCOL_ICMP => "icmp".to_owned(),
                PROTOCOL_ICMPV6 => "icmpv6".to_owned(),
                other => other.to_string(),
            };
            Some(Wanted { pool, source: source.into(), protocol, port: touched.port })
        };
        untold.into_iter().filter_map(wanted).collect()
    }

    /// Counters of each pool, sources that wait, and what was held.
    pub fn totals(&self) -> (Vec<PoolCount>, usize, HeldCount) {
        let count = |pool: &Pool| PoolCount {
            pool: pool.spec.name.clone(),
            clones: pool.clones,
            seats: pool.seats.len(),
        };
        let (waiting, held) = self.held.totals();
        (self.pools.iter().flatten().map(count).collect(), waiting, held)
    }
}

/// The source of a seat: an address that one station can have.
pub(super) fn seatable(source: IpAddr) -> Result<Ipv4Addr, PoolError> {
    match source {
        IpAddr::V4(address) if is_station(address) => Ok(address),
        _ => Err(PoolError::Source(source)),
    }
}

/// False for what is nobody's source address (RFC 1122, 3.2.1.3).
pub(super) fn is_station(address: Ipv4Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast())
}
