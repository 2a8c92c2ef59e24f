//! What the switch is told: vifs, pools, seats. Kept as it was told, and told again to each new netwatch.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::sync::{MutexGuard, PoisonError};

use netwatch::switch::{Touch, Wanted};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};
use vifport::PortFds;

use super::Network;

/// Pages of connections that go along with a domain, of 128 each: a decoy that has more is being flooded, and it stands still meanwhile.
const FLOW_PAGES_MAX: usize = 64;

/// Why netwatch did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// It does not run just now.
    #[error("netwatch does not answer")]
    Away(#[source] io::Error),
    /// It refused, with this sentence.
    #[error("netwatch: {0}")]
    Refused(String),
}

/// What a vif is in the switch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seat {
    /// A station of its own.
    #[default]
    Own,
    /// A clone of a pool, with the pool's MAC and address.
    Pool {
        /// The pool.
        pool: String,
        /// Whom it serves first; nobody yet without it.
        source: Option<IpAddr>,
    },
    /// A station of its own, whose guest has another MAC and address than the outside.
    Outer {
        /// The MAC outside.
        mac: String,
        /// The address outside.
        address: Ipv4Addr,
    },
}

/// The way to netwatch.
#[derive(Default)]
pub(super) enum Link {
    /// There is none.
    #[default]
    Away,
    /// It has just been started and knows nothing yet.
    Fresh(BufReader<UnixStream>),
    /// It knows what was told.
    Ready(BufReader<UnixStream>),
}

impl Link {
    pub fn new(socket: UnixStream) -> Link {
        Link::Fresh(BufReader::new(socket))
    }
}

/// A vif at the switch.
struct Plug {
    domid: u32,
    request: Value,
    port: [OwnedFd; 3],
}

/// Everything that a new netwatch must know.
#[derive(Default)]
pub(super) struct Told {
    // By name.
    pools: HashMap<String, Value>,
    plugs: Vec<Plug>,
    // The domain that a source of a pool has.
    seats: HashMap<(String, IpAddr), u32>,
}

impl Told {
    fn forget_domain(&mut self, domid: u32) {
        self.plugs.retain(|plug| plug.domid != domid);
        self.seats.retain(|_, other| *other != domid);
    }
}

impl Network {
    /// Plugs a vif into the switch.
    pub fn plug(
        &self,
        domain: &str,
        domid: u32,
        mac: &str,
        address: Option<Ipv4Addr>,
        port: &PortFds,
        seat: Seat,
    ) -> Result<(), SwitchError> {
        let addresses: Vec<IpAddr> = address.map(IpAddr::V4).into_iter().collect();
        let mut kept =
            json!({ "op": "add-port", "domain": domain, "domid": domid, "mac": mac, "addresses": addresses });
        let mut request = kept.clone();
        match &seat {
            Seat::Own => {}
            Seat::Pool { pool, source } => {
                // Later seats may be others, so those are kept apart.
                kept["seat"] = json!({ "pool": pool });
                request["seat"] = json!({ "pool": pool, "source": source });
            }
            Seat::Outer { mac, address } => {
                kept["outer"] = json!({ "mac": mac, "address": address });
                request["outer"] = kept["outer"].clone();
            }
        }
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(SwitchError::Away);
        let port = [copy(&port.memory)?, copy(&port.to_switch)?, copy(&port.from_switch)?];
        let mut told = self.told();
        self.ask(&request, &port)?;
        told.plugs.push(Plug { domid, request: kept, port });
        if let Seat::Pool { pool, source: Some(source) } = seat {
            told.seats.insert((pool, source), domid);
        }
        Ok(())
    }

    /// Unplugs all vifs of a domain; its sources have no seat then.
    pub fn unplug(&self, domid: u32) {
        let mut told = self.told();
        told.forget_domain(domid);
        if let Err(error) = self.ask(&json!({ "op": "remove-port", "domid": domid }), &[]) {
            tracing::debug!(%error, domid, "the vifs were not unplugged");
        }
    }

    /// Opens a pool: the switch answers for its address, and tells of its sources.
    pub fn add_pool(
        &self,
        pool: &str,
        mac: &str,
        address: Ipv4Addr,
        touch: Touch,
    ) -> Result<(), SwitchError> {
        let request =
            json!({ "op": "add-pool", "pool": pool, "mac": mac, "address": address, "touch": touch });
        let mut told = self.told();
        self.ask(&request, &[])?;
        told.pools.insert(pool.to_owned(), request);
        Ok(())
    }

    /// Closes a pool that has no clones any more.
    pub fn remove_pool(&self, pool: &str) -> Result<(), SwitchError> {
        let mut told = self.told();
        self.ask(&json!({ "op": "remove-pool", "pool": pool }), &[])?;
        told.pools.remove(pool);
        Ok(())
    }

    /// Gives a source to a clone that is plugged in; answers how many frames had waited for it.
    pub fn seat(&self, domid: u32, pool: &str, source: IpAddr) -> Result<u64, SwitchError> {
        let mut told = self.told();
        let request = json!({ "op": "seat", "domid": domid, "pool": pool, "source": source });
        let answer = self.ask(&request, &[])?;
        told.seats.insert((pool.to_owned(), source), domid);
        Ok(answer.get("held").and_then(Value::as_u64).unwrap_or(0))
    }

    /// Takes a source's seat away; its next packet makes it wanted again.
    pub fn unseat(&self, pool: &str, source: IpAddr) -> Result<(), SwitchError> {
        let mut told = self.told();
        // Also where netwatch is away: the next one is not to be told.
        told.seats.remove(&(pool.to_owned(), source));
        self.ask(&json!({ "op": "unseat", "pool": pool, "source": source }), &[]).map(|_| ())
    }

    /// Drops what is held of a source; it is not wanted again for ten seconds.
    pub fn refuse(&self, pool: &str, source: IpAddr) -> Result<(), SwitchError> {
        self.ask(&json!({ "op": "refuse", "pool": pool, "source": source }), &[]).map(|_| ())
    }

    /// Where to hear of sources that wait for a clone; `None` where somebody listens already. It outlives a netwatch,
    /// so a source may be told of that has a seat by now.
    pub fn wanted(&self) -> Option<Receiver<Wanted>> {
        self.wanted.take()
    }

    /// The connections of a domain that leaves, as pages for [`Network::take_flows`].
    pub fn flows_of(&self, domid: u32) -> Result<Vec<Value>, SwitchError> {
        let (mut pages, mut after) = (Vec::new(), json!(0));
        while !after.is_null() && pages.len() < FLOW_PAGES_MAX {
            let mut page = self.ask(&json!({ "op": "flows-of", "domid": domid, "after": after }), &[])?;
            after = page["next"].take();
            pages.push(page);
        }
        Ok(pages)
    }

    /// Gives the connections of a domain that has come to the switch; what of them cannot be is left out there.
    pub fn take_flows(&self, domid: u32, pages: &[Value]) -> Result<(), SwitchError> {
        for page in pages {
            let request = json!({
                "op": "take-flows", "domid": domid, "flows": page["flows"], "quota": page["quota"],
            });
            self.ask(&request, &[])?;
        }
        Ok(())
    }

    /// Tells the network where a domain is now.
    pub fn announce(&self, domid: u32) -> Result<(), SwitchError> {
        self.ask(&json!({ "op": "announce", "domid": domid }), &[]).map(|_| ())
    }

    /// The switch's counters.
    pub fn stats(&self) -> Result<Value, SwitchError> {
        self.ask(&json!({ "op": "stats" }), &[])
    }

    /// Tells a new netwatch everything; from then on it is asked again.
    pub(super) fn tell_again(&self) {
        let told = self.told();
        let mut link = self.link();
        let Link::Fresh(mut socket) = std::mem::take(&mut *link) else { return };
        for (request, port) in told.requests() {
            match exchange(&mut socket, &request, port).map_err(SwitchError::Away).and_then(understand) {
                Ok(_) => {}
                Err(SwitchError::Refused(sentence)) => {
                    tracing::error!(sentence, %request, "the new netwatch refuses what the old one had");
                }
                // The service that keeps it sees it end, and starts another.
                Err(SwitchError::Away(error)) => {
                    tracing::error!(%error, "the new netwatch does not answer");
                    return;
                }
            }
        }
        *link = Link::Ready(socket);
    }

    pub(super) fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, request: &Value, descriptors: &[OwnedFd]) -> Result<Value, SwitchError> {
        let mut link = self.link();
        let Link::Ready(socket) = &mut *link else {
            return Err(SwitchError::Away(io::ErrorKind::NotConnected.into()));
        };
        let asked = exchange(socket, request, descriptors);
        // After a failure answers and questions may be out of step; the next netwatch brings a new socket.
        let answer = asked.inspect_err(|_| *link = Link::Away).map_err(SwitchError::Away)?;
        understand(answer)
    }
}

impl Told {
    /// All of it as requests, in an order in which each finds what it needs.
    fn requests(&self) -> Vec<(Value, &[OwnedFd])> {
        let pools = self.pools.values().map(|request| (request.clone(), [].as_slice()));
        let plugs = self.plugs.iter().map(|plug| (plug.request.clone(), plug.port.as_slice()));
        let seats = self.seats.iter().map(|((pool, source), domid)| {
            let request = json!({ "op": "seat", "domid": domid, "pool": pool, "source": source });
            (request, [].as_slice())
        });
        pools.chain(plugs).chain(seats).collect()
    }
}

fn understand(answer: Value) -> Result<Value, SwitchError> {
    match (answer.get("ok"), answer.get("error").and_then(Value::as_str)) {
        (Some(ok), _) => Ok(ok.clone()),
        (None, Some(error)) => Err(SwitchError::Refused(error.to_owned())),
        (None, None) => Err(SwitchError::Refused(format!("its answer is {answer}"))),
    }
}

fn exchange(
    socket: &mut BufReader<UnixStream>,
    request: &Value,
    descriptors: &[OwnedFd],
) -> io::Result<Value> {
    let line = format!("{request}\n");
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("more descriptors than a vif has"));
    }
    let slices = [IoSlice::new(line.as_bytes())];
    let sent = rustix::net::sendmsg(socket.get_ref(), &slices, &mut ancillary, SendFlags::NOSIGNAL)?;
    socket.get_mut().write_all(&line.as_bytes()[sent..])?;
    let mut answer = String::new();
    if socket.read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}
