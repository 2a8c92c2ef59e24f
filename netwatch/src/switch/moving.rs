//! A domain that leaves for, or has come from, another host: its connections, and the word to the network where it is now.

use serde_json::{Value, json};
use vifport::FrameMeta;

use super::{Made, PortKind, Switch, arp_reply};
use crate::flow::MovedFlow;

/// Flows of one answer: they fit a line of the control socket.
const PAGE_FLOWS: usize = 128;

impl Switch {
    /// Flows of a domain after this number, and, with the first ones, what it has used of its quota.
    pub fn flows_of(&self, domid: u32, after: u64, now_us: u64) -> Value {
        let (flows, next) = self.flows.page(domid, after, PAGE_FLOWS, now_us);
        let quota = (after == 0).then(|| self.containment.used(domid, now_us));
        json!({ "flows": flows, "quota": quota, "next": next })
    }

    /// Takes up flows of a domain that is plugged in; those whose decoy is somebody else are left out. Answers how many were taken.
    pub fn take_flows(
        &mut self,
        domid: u32,
        flows: &[MovedFlow],
        quota: Option<[u32; 4]>,
        now_us: u64,
    ) -> Result<usize, String> {
        let ports = self.ports.of_domain(domid).to_vec();
        let identities: Vec<_> = ports.iter().filter_map(|id| self.ports.identity(*id)).collect();
        if identities.is_empty() {
            return Err(format!("domain {domid} has no port"));
        }
        let is_own = |flow: &&MovedFlow| identities.iter().any(|own| own.addresses.contains(&flow.decoy()));
        let taken =
            flows.iter().filter(is_own).filter(|flow| self.flows.take_up(flow, domid, now_us)).count();
        if let Some(used) = quota {
            self.containment.take_used(domid, used, now_us);
        }
        Ok(taken)
    }

    /// Frames that tell the network where a domain's addresses are now (RFC 5227, section 2.3): neighbours, and bridges on the way, learn it.
    pub fn announcements(&self, domid: u32) -> Vec<Made> {
        let mut made = Vec::new();
        for port in self.ports.of_domain(domid) {
            let Some(identity) = self.ports.identity(*port) else { continue };
            for address in &identity.addresses {
                let std::net::IpAddr::V4(address) = address else { continue };
                let frame = arp_reply::announcement(identity.mac, *address);
                let uplinks = self.ports.uplinks().iter().copied();
                let reached = uplinks.filter(|to| self.is_network_of(*to, identity.mac));
                made.extend(reached.map(|to| Made { to, frame: frame.clone(), meta: FrameMeta::default() }));
            }
        }
        made
    }

    /// Whether a domain has a port.
    pub fn has_domain(&self, domid: u32) -> bool {
        self.ports
            .iter()
            .any(|(_, port)| matches!(&port.kind, PortKind::Vif(identity) if identity.domid == domid))
    }
}
