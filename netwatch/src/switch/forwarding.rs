//! The way of one frame: from a vif or an uplink through flows, containment, inspector and bucket to where it goes.

use vifport::FrameMeta;

use super::ports::{Standing, Station};
use super::{Delivery, Made, PortId, PortKind, Switch, reset};
use crate::community_id::Endpoints;
use crate::containment::{Identity, Passage, Refusal};
use crate::flow::{FirstPacket, Flow, endpoints};
use crate::inspector::Action;
use crate::packet::{Direction, Mac, Network, Packet};

impl Switch {
    pub(super) fn carry_from_vif(
        &mut self,
        from: PortId,
        standing: Standing,
        identity: &Identity,
        packet: &Packet<'_>,
        delivery: &mut Delivery,
    ) -> Result<(), Refusal> {
        let layers = &packet.layers;
        let ends = endpoints(layers);
        if let (Standing::Clone(_), Some(ends)) = (standing, &ends)
            && self.is_flow_of_other(ends, identity.domid)
        {
            self.write_capture(from, packet, 0);
            return Err(self.told_refusal(identity, packet, Refusal::OtherSource));
        }
        let passage = self.judge_from_vif(from, identity, packet)?;
        let goes_out = match standing {
            Standing::Own | Standing::Mapped(_) => true,
            Standing::Clone(pool) => self
                .check_clone(from, pool, passage, packet)
                .map_err(|refusal| self.told_refusal(identity, packet, refusal))?,
        };
        if !goes_out {
            return Ok(());
        }
        if passage == Passage::Begin
            && let Some(ends) = ends
        {
            self.begin_flow(packet, ends, Direction::FromDecoy, identity.domid);
        }
        match standing {
            Standing::Own | Standing::Mapped(_) => {
                self.destinations_of_vif(from, identity.mac, layers.destination_mac, &mut delivery.ports);
            }
            Standing::Clone(_) => {
                self.uplinks_of_vif(identity.mac, layers.destination_mac, &mut delivery.ports);
            }
        }
        self.inspect(packet, Direction::FromDecoy, from, identity, delivery)?;
        self.take_rate(from, packet, &delivery.ports)
            .map_err(|refusal| self.told_refusal(identity, packet, refusal))?;
        for to in delivery.ports.clone() {
            self.write_capture(to, packet, 0);
        }
        Ok(())
    }

    /// Counts and captures what a vif sent, and asks containment.
    fn judge_from_vif(
        &mut self,
        from: PortId,
        identity: &Identity,
        packet: &Packet<'_>,
    ) -> Result<Passage, Refusal> {
        let (layers, now_us) = (&packet.layers, packet.time_us);
        let ends = endpoints(layers);
        let is_known =
            ends.is_some_and(|ends| self.flows.seen(layers, &ends, packet.frame.len(), now_us).is_some());
        let flow = ends.filter(|_| is_known).and_then(|ends| self.flows.find(&ends));
        self.write_capture(from, packet, flow.map_or(0, Flow::bytes));
        let flow = ends.filter(|_| is_known).and_then(|ends| self.flows.find(&ends));
        let passage = self.containment.judge(identity, packet.frame, layers, flow, &self.flows, now_us);
        passage.map_err(|refusal| self.told_refusal(identity, packet, refusal))
    }

    pub(super) fn carry_from_uplink(
        &mut self,
        from: PortId,
        packet: &Packet<'_>,
        meta: &FrameMeta,
        delivery: &mut Delivery,
    ) {
        let layers = &packet.layers;
        let (source, destination) = (layers.source_mac, layers.destination_mac);
        // A frame with a decoy's MAC from outside is a loop or a lie.
        if packet.frame.len() < 14 || source[0] & 1 != 0 || self.ports.station(source).is_some() {
            return;
        }
        self.macs.learn(source, from, packet.time_us);
        if destination[0] & 1 != 0 {
            return self.carry_to_listeners(from, packet, delivery);
        }
        if !self.is_network_of(from, destination) {
            return;
        }
        match self.ports.station(destination) {
            Some(Station::Vif(to)) => {
                if let Some(identity) = self.ports.identity(to) {
                    self.carry_to_vif(from, to, &identity, packet, delivery);
                }
            }
            Some(Station::Pool(pool)) => self.carry_to_pool(from, pool, packet, meta, delivery),
            None => {}
        }
    }

    /// A broadcast from outside: to each decoy, and to no clone.
    fn carry_to_listeners(&mut self, from: PortId, packet: &Packet<'_>, delivery: &mut Delivery) {
        for at in 0..self.ports.listeners().len() {
            let Some(to) = self.ports.listeners().get(at).copied() else { break };
            let mac = self.ports.identity(to).map(|identity| identity.mac);
            if mac.is_some_and(|mac| self.is_network_of(from, mac)) {
                self.write_capture(to, packet, 0);
                delivery.ports.push(to);
            }
        }
        if let Some(Network::Arp(arp)) = &packet.layers.network {
            self.answer_arp(from, arp, delivery);
        }
    }

    /// False where the uplink is the network of another station alone.
    pub(super) fn is_network_of(&self, uplink: PortId, mac: Mac) -> bool {
        match self.ports.get(uplink).map(|port| &port.kind) {
            Some(PortKind::Interface(Some(only))) => *only == mac,
            _ => true,
        }
    }

    pub(super) fn carry_to_vif(
        &mut self,
        from: PortId,
        to: PortId,
        identity: &Identity,
        packet: &Packet<'_>,
        delivery: &mut Delivery,
    ) {
        if let Some(ends) = endpoints(&packet.layers) {
            let seen = self.flows.seen(&packet.layers, &ends, packet.frame.len(), packet.time_us);
            let bytes = seen.map(Flow::bytes);
            if bytes.is_none() {
                self.begin_flow(packet, ends, Direction::ToDecoy, identity.domid);
            }
            self.write_capture(to, packet, bytes.unwrap_or(0));
        } else {
            self.write_capture(to, packet, 0);
        }
        delivery.ports.push(to);
        if self.inspect(packet, Direction::ToDecoy, from, identity, delivery).is_err() {
            delivery.ports.clear();
        }
    }

    fn begin_flow(&mut self, packet: &Packet<'_>, ends: Endpoints, begun: Direction, domid: u32) {
        let first = FirstPacket { layers: &packet.layers, ends, bytes: packet.frame.len(), begun, domid };
        let ended = self.flows.begin(first, packet.time_us);
        self.report_ended(&ended, packet.time_us);
    }

    /// Asks the rules. `from` is where a reset goes when a rule says reject.
    fn inspect(
        &mut self,
        packet: &Packet<'_>,
        direction: Direction,
        from: PortId,
        identity: &Identity,
        delivery: &mut Delivery,
    ) -> Result<(), Refusal> {
        let verdict = self.inspector.inspect(packet, direction);
        for alert in &verdict.alerts {
            self.report_alert(identity, packet, alert);
        }
        match verdict.action {
            Action::Pass | Action::Log | Action::Alert => Ok(()),
            Action::SilentDrop => Err(Refusal::Rule),
            Action::Drop => {
                self.report_refusal(identity, packet, Refusal::Rule);
                Err(Refusal::Rule)
            }
            Action::Reject => {
                self.report_refusal(identity, packet, Refusal::Rule);
                if let Some((back, forth)) = reset::resets(packet) {
                    let made = |to, frame| Made { to, frame, meta: FrameMeta::default() };
                    delivery.made.push(made(from, back));
                    delivery.made.extend(delivery.ports.first().map(|to| made(*to, forth)));
                }
                Err(Refusal::Rule)
            }
        }
    }

    /// Where a frame of a vif goes by its destination MAC: another vif, the uplink that knows it, or all. Not to a pool.
    fn destinations_of_vif(&self, from: PortId, own: Mac, destination: Mac, ports: &mut Vec<PortId>) {
        match self.ports.station(destination) {
            Some(Station::Vif(vif)) => return ports.extend((vif != from).then_some(vif)),
            Some(Station::Pool(_)) => return,
            None => {}
        }
        if destination[0] & 1 != 0 {
            ports.extend(self.ports.listeners().iter().filter(|vif| **vif != from));
        }
        self.uplinks_of_vif(own, destination, ports);
    }

    /// The uplink behind which a MAC was seen, or all.
    fn uplinks_of_vif(&self, own: Mac, destination: Mac, ports: &mut Vec<PortId>) {
        let is_multicast = destination[0] & 1 != 0;
        let learned = self.macs.port_of(destination).filter(|_| !is_multicast);
        let uplinks = self.ports.uplinks().iter().copied();
        ports.extend(
            uplinks.filter(|id| self.is_network_of(*id, own) && learned.is_none_or(|port| port == *id)),
        );
    }

    /// What stays in the box is not limited; what leaves by a real interface is.
    fn take_rate(&mut self, from: PortId, packet: &Packet<'_>, to: &[PortId]) -> Result<(), Refusal> {
        let leaves = to.iter().any(|id| {
            let kind = self.ports.get(*id).map(|port| &port.kind);
            matches!(kind, Some(PortKind::Interface(_)))
        });
        let bucket = self.ports.get_mut(from).and_then(|port| port.bucket.as_mut());
        let Some(bucket) = bucket.filter(|_| leaves) else { return Ok(()) };
        // An offload frame becomes about as many packets as it has full Ethernet payloads.
        let packets = packet.frame.len().div_ceil(1500) as u64;
        if bucket.take(packet.frame.len() as u64, packets, packet.time_us) {
            Ok(())
        } else {
            Err(Refusal::Rate)
        }
    }
}
