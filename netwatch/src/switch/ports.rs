//! The ports of a switch, found by place, MAC, address and domain. Nothing that is done for a frame looks through all
//! of them: hundreds of clones may be plugged in and idle.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::pool::PoolId;
use super::{PORTS_MAX, PortCount, PortError, PortId, PortKind};
use crate::bucket::Bucket;
use crate::capture::Capture;
use crate::containment::Identity;
use crate::mapping::Mapping;
use crate::packet::Mac;

/// What a port is to the switch, beside its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// A station of its own, with a MAC that nobody else has; or an uplink.
    Own,
    /// One of the clones behind a pool's MAC and address.
    Clone(PoolId),
    /// A station of its own whose guest has another MAC and address than the outside knows.
    Mapped(Mapping),
}

impl Standing {
    /// True where nobody else has the port's MAC.
    fn is_station(self) -> bool {
        match self {
            Standing::Own | Standing::Mapped(_) => true,
            Standing::Clone(_) => false,
        }
    }
}

pub(super) struct SwitchPort {
    pub kind: PortKind,
    pub standing: Standing,
    pub count: PortCount,
    pub bucket: Option<Bucket>,
    pub capture: Option<Capture>,
}

/// Who has a MAC inside the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Station {
    Vif(PortId),
    Pool(PoolId),
}

#[derive(Debug)]
struct DomainPorts {
    name: String,
    ports: Vec<PortId>,
}

/// All ports.
#[derive(Default)]
pub(super) struct Ports {
    places: Vec<Option<SwitchPort>>,
    stations: HashMap<Mac, Station>,
    // How many ports and pools have the address.
    addresses: HashMap<IpAddr, usize>,
    domains: HashMap<u32, DomainPorts>,
    // Vifs that are stations of their own: who hears a broadcast.
    listeners: Vec<PortId>,
    uplinks: Vec<PortId>,
    // Ports whose capture has frames that are not flushed.
    captured: Vec<PortId>,
}

impl Ports {
    /// Gives a port a place and its names. Refused without a change where a name is taken or all places are.
    pub fn add(&mut self, port: SwitchPort) -> Result<PortId, PortError> {
        if let PortKind::Vif(identity) = &port.kind
            && port.standing.is_station()
            && self.stations.contains_key(&identity.mac)
        {
            return Err(PortError::MacInUse);
        }
        let place = match self.places.iter().position(Option::is_none) {
            Some(place) => place,
            None if self.places.len() < PORTS_MAX => {
                self.places.push(None);
                self.places.len() - 1
            }
            None => return Err(PortError::Full),
        };
        let id = PortId(place);
        match &port.kind {
            PortKind::Vif(identity) => self.name_vif(id, identity, port.standing),
            PortKind::Gateway | PortKind::Interface(_) => self.uplinks.push(id),
        }
        if let Some(place) = self.places.get_mut(place) {
            *place = Some(port);
        }
        Ok(id)
    }

    /// Takes a port out, with its names.
    pub fn remove(&mut self, id: PortId) -> Option<SwitchPort> {
        let port = self.places.get_mut(id.0)?.take()?;
        self.uplinks.retain(|other| *other != id);
        self.listeners.retain(|other| *other != id);
        self.captured.retain(|other| *other != id);
        if let PortKind::Vif(identity) = &port.kind {
            if port.standing.is_station() {
                self.stations.remove(&identity.mac);
                identity.addresses.iter().for_each(|address| self.disown(*address));
            }
            if let Some(domain) = self.domains.get_mut(&identity.domid) {
                domain.ports.retain(|other| *other != id);
                if domain.ports.is_empty() {
                    self.domains.remove(&identity.domid);
                }
            }
        }
        Some(port)
    }

    /// Gives a pool its MAC and address; false where somebody has the MAC.
    pub fn add_pool(&mut self, pool: PoolId, mac: Mac, address: IpAddr) -> bool {
        if self.stations.contains_key(&mac) {
            return false;
        }
        self.stations.insert(mac, Station::Pool(pool));
        self.own(address);
        true
    }

    /// Takes them back.
    pub fn remove_pool(&mut self, mac: Mac, address: IpAddr) {
        self.stations.remove(&mac);
        self.disown(address);
    }

    pub fn get(&self, id: PortId) -> Option<&SwitchPort> {
        self.places.get(id.0)?.as_ref()
    }

    pub fn get_mut(&mut self, id: PortId) -> Option<&mut SwitchPort> {
        self.places.get_mut(id.0)?.as_mut()
    }

    /// The identity of a vif.
    pub fn identity(&self, id: PortId) -> Option<Arc<Identity>> {
        match &self.get(id)?.kind {
            PortKind::Vif(identity) => Some(Arc::clone(identity)),
            PortKind::Gateway | PortKind::Interface(_) => None,
        }
    }

    /// Who has this MAC.
    pub fn station(&self, mac: Mac) -> Option<Station> {
        self.stations.get(&mac).copied()
    }

    /// True for an address of a decoy or a pool.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// Vifs that hear broadcasts.
    pub fn listeners(&self) -> &[PortId] {
        &self.listeners
    }

    /// Gateway and real interfaces.
    pub fn uplinks(&self) -> &[PortId] {
        &self.uplinks
    }

    /// The domain's name, while it has a port.
    pub fn domain_name(&self, domid: u32) -> Option<&str> {
        self.domains.get(&domid).map(|domain| domain.name.as_str())
    }

    /// The domain's ports.
    pub fn of_domain(&self, domid: u32) -> &[PortId] {
        self.domains.get(&domid).map_or(&[], |domain| domain.ports.as_slice())
    }

    /// Remembers that a port's capture is to be flushed.
    pub fn mark_captured(&mut self, id: PortId) {
        // A burst goes to few ports, and mostly many frames to the same one after another.
        if !self.captured.contains(&id) {
            self.captured.push(id);
        }
    }

    /// The ports whose captures are to be flushed; forgotten with this.
    pub fn take_captured(&mut self) -> Vec<PortId> {
        std::mem::take(&mut self.captured)
    }

    /// All ports, by place.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &SwitchPort)> {
        self.places.iter().enumerate().filter_map(|(at, port)| port.as_ref().map(|port| (PortId(at), port)))
    }

    fn name_vif(&mut self, id: PortId, identity: &Identity, standing: Standing) {
        if standing.is_station() {
            self.stations.insert(identity.mac, Station::Vif(id));
            identity.addresses.iter().for_each(|address| self.own(*address));
            self.listeners.push(id);
        }
        let fresh = || DomainPorts { name: identity.domain.clone(), ports: Vec::new() };
        self.domains.entry(identity.domid).or_insert_with(fresh).ports.push(id);
    }

    fn own(&mut self, address: IpAddr) {
        *self.addresses.entry(address).or_default() += 1;
    }

    fn disown(&mut self, address: IpAddr) {
        if let Some(owners) = self.addresses.get_mut(&address) {
            *owners -= 1;
            if *owners == 0 {
                self.addresses.remove(&address);
            }
        }
    }
}
