//! Frames of pools: from an uplink to the clone of their source, from a clone to its source and nowhere else.
//!
//! A clone hears nothing that was not meant for it: no broadcast (another clone's attacker may have sent it, and an
//! address that is set needs neither DHCP nor announcements), no ARP request (the switch answers them), of ARP replies
//! those that it asked for. IPv6 is not carried. Decoys and pools do not see each other.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use vifport::FrameMeta;

use super::held::{HeldFrame, Touched};
use super::pool::{PoolError, PoolId, PoolSpec, Wanted, is_station, seatable};
use super::ports::Standing;
use super::{Delivery, Made, PoolCount, PortId, PortKind, Switch, arp_reply};
use crate::community_id::Endpoints;
use crate::containment::{Identity, Passage, Refusal, icmp_error_about, is_neighbour_discovery};
use crate::flow::endpoints;
use crate::packet::{Arp, Direction, Ip, Network, Packet};

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

/// What becomes of a frame to a pool.
enum Steered {
    To(PortId),
    /// An ICMP error: it belongs to the flow that it is about and begins none.
    About(PortId),
    Hold(Ipv4Addr),
    Nobody,
}

impl Switch {
    /// Opens a pool: the switch answers for its address from now on.
    pub fn add_pool(&mut self, spec: PoolSpec) -> Result<(), PoolError> {
        if self.ports.station(spec.mac).is_some() {
            return Err(PoolError::MacInUse(spec.name));
        }
        let (mac, address) = (spec.mac, spec.address);
        let id = self.pools.add(spec)?;
        self.ports.add_pool(id, mac, address.into());
        Ok(())
    }

    /// Closes a pool that has no clones any more.
    pub fn remove_pool(&mut self, name: &str) -> Result<(), PoolError> {
        let id = self.pools.id(name)?;
        let clones = self.pools.get(id).map_or(0, |pool| pool.clones);
        if clones > 0 {
            return Err(PoolError::InUse { name: name.to_owned(), clones });
        }
        if let Some(spec) = self.pools.remove(id) {
            self.ports.remove_pool(spec.mac, spec.address.into());
        }
        Ok(())
    }

    /// Plugs a clone in. It gets nothing before a source is seated at it.
    pub fn add_clone(&mut self, identity: Identity, pool: &str, now_us: u64) -> Result<PortId, PoolError> {
        let id = self.pools.id(pool)?;
        let spec = self.pools.get(id).map(|pool| &pool.spec);
        let is_clone = spec
            .is_some_and(|spec| spec.mac == identity.mac && identity.addresses == [IpAddr::V4(spec.address)]);
        if !is_clone {
            return Err(PoolError::NotTheClone(pool.to_owned()));
        }
        let port = self.plug(PortKind::Vif(Arc::new(identity)), Standing::Clone(id), now_us)?;
        if let Some(pool) = self.pools.get_mut(id) {
            pool.clones += 1;
        }
        Ok(port)
    }

    /// Seats a source at a clone that is plugged in, and gives back the frames that were held for it, oldest first;
    /// each goes on with `deliver_held`. What the source had at another clone ends there.
    pub fn seat(
        &mut self,
        domid: u32,
        pool: &str,
        source: IpAddr,
        now_us: u64,
    ) -> Result<Vec<HeldFrame>, PoolError> {
        let id = self.pools.id(pool)?;
        let address = seatable(source)?;
        let port = self.clone_of(domid, id);
        let port = port.ok_or_else(|| PoolError::NoPort { domid, pool: pool.to_owned() })?;
        let Some(seats) = self.pools.get_mut(id).map(|pool| &mut pool.seats) else {
            return Err(PoolError::NoPool(pool.to_owned()));
        };
        if seats.len() >= super::pool::SEATS_MAX && !seats.contains_key(&address) {
            return Err(PoolError::Seats(pool.to_owned()));
        }
        let former = seats.insert(address, port).filter(|former| *former != port);
        if let Some(former) = former {
            self.end_flows_of(id, address, former, now_us);
        }
        Ok(self.pools.held.take(&(id, address), now_us))
    }

    /// Takes a source's seat away; its next packet makes it wanted again. False where it had none.
    pub fn unseat(&mut self, pool: &str, source: IpAddr, now_us: u64) -> Result<bool, PoolError> {
        let id = self.pools.id(pool)?;
        let address = seatable(source)?;
        let former = self.pools.get_mut(id).and_then(|pool| pool.seats.remove(&address));
        if let Some(former) = former {
            self.end_flows_of(id, address, former, now_us);
        }
        Ok(former.is_some())
    }

    /// Drops what is held of a source; it is not wanted again for ten seconds.
    pub fn refuse(&mut self, pool: &str, source: IpAddr, now_us: u64) -> Result<(), PoolError> {
        let id = self.pools.id(pool)?;
        self.pools.held.refuse((id, seatable(source)?), now_us);
        Ok(())
    }

    /// The sources that wait for a clone and that nobody was told of.
    pub fn take_wanted(&mut self) -> Vec<Wanted> {
        self.pools.take_wanted()
    }

    /// Nobody could be told of this source: its next frame makes it wanted again.
    pub fn not_told(&mut self, wanted: &Wanted) {
        if let (Ok(pool), Ok(source)) = (self.pools.id(&wanted.pool), seatable(wanted.source)) {
            self.pools.held.not_told(&(pool, source));
        }
    }

    /// Pools, sources that wait, and what was held.
    pub fn pool_totals(&self) -> (Vec<PoolCount>, usize, super::HeldCount) {
        self.pools.totals()
    }

    /// Judges a frame that was held, as if it came through its uplink now; it keeps the time at which it came.
    pub fn deliver_held(&mut self, held: &HeldFrame, delivery: &mut Delivery) {
        delivery.clear();
        let packet = Packet::decode(&held.frame, held.time_us);
        let Some(super::ports::Station::Pool(pool)) = self.ports.station(packet.layers.destination_mac)
        else {
            return;
        };
        if let Steered::To(to) = self.steer(pool, &packet) {
            self.carry_to(held.from, to, &packet, delivery);
        }
        self.count_out(&held.frame, delivery);
    }

    /// A frame from an uplink to a pool's MAC.
    pub(super) fn carry_to_pool(
        &mut self,
        from: PortId,
        id: PoolId,
        packet: &Packet<'_>,
        meta: &FrameMeta,
        delivery: &mut Delivery,
    ) {
        if let Some(Network::Arp(arp)) = &packet.layers.network {
            match arp.operation {
                ARP_REQUEST => self.answer_arp(from, arp, delivery),
                ARP_REPLY => self.deliver_arp(id, arp.sender_address, packet, delivery),
                // Reverse and inverse ARP are not what a clone asks for.
                _ => {}
            }
            return;
        }
        match self.steer(id, packet) {
            Steered::To(to) => self.carry_to(from, to, packet, delivery),
            Steered::About(to) => {
                self.write_capture(to, packet, 0);
                delivery.ports.push(to);
            }
            Steered::Hold(source) => {
                let ip = packet.layers.ip();
                let touched = Touched {
                    protocol: ip.map_or(0, |ip| ip.protocol),
                    port: packet.layers.ports().map_or(0, |(_, destination)| destination),
                };
                let frame =
                    HeldFrame { from, frame: packet.frame.to_vec(), meta: *meta, time_us: packet.time_us };
                self.pools.held.hold((id, source), touched, frame);
            }
            Steered::Nobody => {}
        }
    }

    /// Answers who asks for a pool's address, whether a clone is there or not. Not to a source that no clone may answer.
    pub(super) fn answer_arp(&mut self, from: PortId, arp: &Arp, delivery: &mut Delivery) {
        let Some(pool) = self.pools.at(arp.target_address).and_then(|id| self.pools.get(id)) else { return };
        let is_other = arp.sender_address != pool.spec.address && arp.sender_mac[0] & 1 == 0;
        if arp.operation != ARP_REQUEST || !is_other || !self.is_network_of(from, pool.spec.mac) {
            return;
        }
        let frame = arp_reply::to(arp, pool.spec.mac, pool.spec.address);
        delivery.made.push(Made { to: from, frame, meta: FrameMeta::default() });
    }

    /// What a clone sent and containment let pass: may it go where it wants to? Answers false for what is let in and
    /// goes nowhere, since the switch itself answers for it.
    pub(super) fn check_clone(
        &mut self,
        from: PortId,
        id: PoolId,
        passage: Passage,
        packet: &Packet<'_>,
    ) -> Result<bool, Refusal> {
        let layers = &packet.layers;
        match &layers.network {
            Some(Network::Arp(arp)) => return Ok(self.note_arp(from, id, arp, packet.time_us)),
            Some(Network::Ip(ip)) if !is_neighbour_discovery(layers) => {
                self.check_clone_ip(from, id, passage, packet, ip)?;
            }
            // A guest's IPv6 stack looks for neighbours by itself; there are none.
            Some(Network::Ip(_)) | None => return Ok(false),
        }
        // Another clone, a decoy or itself.
        if self.ports.station(layers.destination_mac).is_some() {
            return Err(Refusal::OtherSource);
        }
        Ok(true)
    }

    /// True where the flow of these ends is another clone's: all clones of a pool have one address and, as children of
    /// one snapshot, the same ports in use.
    pub(super) fn is_flow_of_other(&self, ends: &Endpoints, domid: u32) -> bool {
        self.flows.find(ends).is_some_and(|flow| flow.domid != domid)
    }

    fn check_clone_ip(
        &self,
        from: PortId,
        id: PoolId,
        passage: Passage,
        packet: &Packet<'_>,
        ip: &Ip,
    ) -> Result<(), Refusal> {
        let IpAddr::V4(destination) = ip.destination else { return Err(Refusal::OtherSource) };
        if !is_station(destination) || packet.layers.destination_mac[0] & 1 != 0 {
            return Err(Refusal::OtherSource);
        }
        if let Some(about) = icmp_error_about(packet.frame, &packet.layers) {
            let domid = self.ports.identity(from).map(|identity| identity.domid);
            let is_own = self.flows.find(&about).is_none_or(|flow| Some(flow.domid) == domid);
            return if is_own { Ok(()) } else { Err(Refusal::OtherSource) };
        }
        let seat = self.pools.get(id).and_then(|pool| pool.seats.get(&destination));
        match (passage, seat) {
            (Passage::Known | Passage::Unflowed, _) => Ok(()),
            (Passage::Begin, Some(seat)) if *seat == from => Ok(()),
            // The gateway is a source where a published port is used from this host, and still takes syslog.
            (Passage::Begin, Some(_)) if self.containment.allows(&packet.layers) => Ok(()),
            (Passage::Begin, Some(_)) => Err(Refusal::OtherSource),
            (Passage::Begin, None) if self.ports.owns(ip.destination) => Err(Refusal::OtherSource),
            // As far as the profile goes; the answer finds its way back by the flow.
            (Passage::Begin, None) => Ok(()),
        }
    }

    /// A clone's ARP: a question goes out and is remembered. Answers and announcements do not, the switch gives them.
    fn note_arp(&mut self, from: PortId, id: PoolId, arp: &Arp, now_us: u64) -> bool {
        let own = self.pools.get(id).map(|pool| pool.spec.address);
        let is_question = arp.operation == ARP_REQUEST
            && Some(arp.sender_address) == own
            && Some(arp.target_address) != own;
        if is_question {
            self.pools.asks.ask(from, arp.target_address, now_us);
        }
        is_question
    }

    fn deliver_arp(&mut self, id: PoolId, about: Ipv4Addr, packet: &Packet<'_>, delivery: &mut Delivery) {
        let askers = self.pools.asks.askers(about, packet.time_us);
        let is_of_pool =
            |port: &PortId| self.ports.get(*port).is_some_and(|port| port.standing == Standing::Clone(id));
        delivery.ports.extend(askers.filter(is_of_pool));
        for at in 0..delivery.ports.len() {
            let Some(to) = delivery.ports.get(at).copied() else { break };
            self.write_capture(to, packet, 0);
        }
    }

    fn steer(&self, id: PoolId, packet: &Packet<'_>) -> Steered {
        let layers = &packet.layers;
        let (Some(pool), Some(ip), None) = (self.pools.get(id), layers.ip(), layers.vlan) else {
            return Steered::Nobody;
        };
        let IpAddr::V4(source) = ip.source else { return Steered::Nobody };
        if ip.destination != IpAddr::V4(pool.spec.address) {
            return Steered::Nobody;
        }
        if let Some(about) = icmp_error_about(packet.frame, layers) {
            return self.steer_about(id, &about);
        }
        let own_flow = endpoints(layers).and_then(|ends| self.flows.find(&ends));
        let own_flow = own_flow.filter(|flow| flow.begun == Direction::FromDecoy);
        if let Some(port) = own_flow.and_then(|flow| self.clone_of(flow.domid, id)) {
            return Steered::To(port);
        }
        if let Some(port) = pool.seats.get(&source) {
            return Steered::To(*port);
        }
        // A decoy's address from outside is a lie, and behind the fence no clone could answer.
        let is_possible =
            is_station(source) && !self.ports.owns(ip.source) && !self.containment.is_fenced(ip.source);
        let is_wanted = self.pools.held.is_waiting(&(id, source))
            || (layers.malformed.is_none() && pool.is_touch(layers));
        if is_possible && is_wanted { Steered::Hold(source) } else { Steered::Nobody }
    }

    /// A router's word on a packet that a clone sent: for the clone whose flow it was.
    fn steer_about(&self, id: PoolId, about: &Endpoints) -> Steered {
        let Some(pool) = self.pools.get(id) else { return Steered::Nobody };
        if about.source != IpAddr::V4(pool.spec.address) {
            return Steered::Nobody;
        }
        let of_flow = self.flows.find(about).and_then(|flow| self.clone_of(flow.domid, id));
        let of_seat = || match about.destination {
            IpAddr::V4(destination) => pool.seats.get(&destination).copied(),
            IpAddr::V6(_) => None,
        };
        of_flow.or_else(of_seat).map_or(Steered::Nobody, Steered::About)
    }

    fn carry_to(&mut self, from: PortId, to: PortId, packet: &Packet<'_>, delivery: &mut Delivery) {
        if let Some(identity) = self.ports.identity(to) {
            self.carry_to_vif(from, to, &identity, packet, delivery);
        }
    }

    /// The port of a domain in a pool.
    fn clone_of(&self, domid: u32, id: PoolId) -> Option<PortId> {
        let is_in_pool =
            |port: &&PortId| self.ports.get(**port).is_some_and(|port| port.standing == Standing::Clone(id));
        self.ports.of_domain(domid).iter().find(is_in_pool).copied()
    }

    /// Ends the flows between a source and the clone that it has no more.
    fn end_flows_of(&mut self, id: PoolId, source: Ipv4Addr, former: PortId, now_us: u64) {
        let Some(domid) = self.ports.identity(former).map(|identity| identity.domid) else { return };
        let Some(pool) = self.pools.get(id) else { return };
        let ends = [IpAddr::V4(pool.spec.address), IpAddr::V4(source)];
        let ended = self.flows.end_where(|flow| {
            let of_flow = [flow.ends.source, flow.ends.destination];
            flow.domid == domid && ends.iter().all(|end| of_flow.contains(end))
        });
        self.report_ended(&ended, now_us);
    }

    /// What of a pool goes with a clone's port.
    pub(super) fn forget_clone(&mut self, port: PortId, id: PoolId) {
        self.pools.asks.forget(port);
        if let Some(pool) = self.pools.get_mut(id) {
            pool.clones -= 1;
            pool.seats.retain(|_, seat| *seat != port);
        }
    }
}
