//! What the toolstack asks of the datapath, request by request.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use events::{Event, EventId};
use rustix::event::epoll::EventFlags;
use serde_json::{Value, json};
use vifport::{Endpoint, PortFds, Side, Violation};

use super::vifs::{Vif, WhenFull};
use super::{ANNOUNCED_AGAIN, Datapath, Round, now_us};
use crate::containment::Identity;
use crate::control::{MacText, Outer, Request, Seat};
use crate::mapping::Station;
use crate::switch::{PoolError, PoolSpec, PortId, PortKind, timestamp};

impl Datapath {
    pub(super) fn serve_control(&mut self) -> io::Result<Round> {
        let requests = match self.control.receive() {
            Ok(Some(requests)) => requests,
            Ok(None) => return Ok(Round::Over),
            // The other side died without a word.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Round::Over),
            Err(error) => return Err(error),
        };
        for request in requests {
            let answer = match request.and_then(|request| self.serve(request)) {
                Ok(answer) => json!({ "ok": answer }),
                Err(sentence) => json!({ "error": sentence }),
            };
            if let Err(error) = self.control.answer(&answer) {
                tracing::warn!(%error, "answer to the toolstack is lost");
            }
        }
        Ok(Round::More)
    }

    fn serve(&mut self, request: Request) -> Result<Value, String> {
        let sentence = |error: PoolError| error.to_string();
        match request {
            Request::AddPort { domain, domid, mac: MacText(mac), addresses, seat, outer } => {
                self.add_vif(Identity { domain, domid, mac, addresses }, seat, outer)
            }
            Request::RemovePort { domid, mac } => Ok(self.remove_vifs(domid, mac)),
            Request::Stats {} => Ok(self.stats()),
            Request::ReloadRules {} => {
                let (inspector, diagnostics) = self.rules.load();
                let rules = inspector.rule_count();
                self.switch.set_inspector(inspector);
                Ok(json!({ "rules": rules, "diagnostics": diagnostics }))
            }
            Request::AddPool { pool, mac: MacText(mac), address, touch } => {
                let added = self.switch.add_pool(PoolSpec { name: pool, mac, address, touch });
                added.map(|()| json!({})).map_err(sentence)
            }
            Request::RemovePool { pool } => {
                self.switch.remove_pool(&pool).map(|()| json!({})).map_err(sentence)
            }
            Request::Seat { domid, pool, source } => self.seat(domid, &pool, source).map_err(sentence),
            Request::Unseat { pool, source } => {
                let removed = self.switch.unseat(&pool, source, now_us()).map_err(sentence)?;
                Ok(json!({ "removed": u32::from(removed) }))
            }
            Request::FlowsOf { domid, after } => Ok(self.switch.flows_of(domid, after, now_us())),
            Request::TakeFlows { domid, flows, quota } => {
                let taken = self.switch.take_flows(domid, &flows, quota, now_us())?;
                Ok(json!({ "taken": taken }))
            }
            Request::Announce { domid } => self.announce(domid),
            Request::Refuse { pool, source } => {
                self.switch.refuse(&pool, source, now_us()).map(|()| json!({})).map_err(sentence)
            }
        }
    }

    fn add_vif(
        &mut self,
        identity: Identity,
        seat: Option<Seat>,
        outer: Option<Outer>,
    ) -> Result<Value, String> {
        let descriptors = self.control.take_descriptors();
        let [memory, to_switch, from_switch] =
            descriptors.ok_or("add-port comes with three descriptors: memory, to_switch, from_switch")?;
        let endpoint = Endpoint::attach(PortFds { memory, to_switch, from_switch }, Side::Switch)
            .map_err(|error| format!("port of {} cannot be attached: {error}", identity.domain))?;
        let (domain, domid) = (identity.domain.clone(), identity.domid);
        let cannot = |error: PoolError| format!("port of {domain} cannot be added: {error}");
        let now_us = now_us();
        let inner = identity.clone();
        let (id, when_full) = match (&seat, outer) {
            (None, None) => {
                let added = self.switch.add_port(PortKind::Vif(Arc::new(identity)), now_us);
                (added.map_err(PoolError::from), WhenFull::Wait)
            }
            (Some(seat), None) => (self.switch.add_clone(identity, &seat.pool, now_us), WhenFull::Lose),
            (None, Some(Outer { mac: MacText(mac), address })) => {
                let added = self.switch.add_mapped(identity, Station { mac, address }, now_us);
                (added.map_err(PoolError::from), WhenFull::Lose)
            }
            (Some(_), Some(_)) => (Err(PoolError::Mapped(domain.clone())), WhenFull::Lose),
        };
        let id = id.map_err(cannot)?;
        let vif = Vif::new(id, &inner, endpoint, when_full);
        if let Err(error) = self.watch(vif.endpoint.wait_fd(), id, EventFlags::IN) {
            self.switch.remove_port(id, now_us);
            return Err(format!("port of {domain} cannot be waited for: {error}"));
        }
        self.vifs.add(vif);
        match seat.and_then(|seat| seat.source.map(|source| (seat.pool, source))) {
            None => Ok(json!({})),
            Some((pool, source)) => self.seat(domid, &pool, source).map_err(|error| {
                self.remove_vif(id);
                cannot(error)
            }),
        }
    }

    fn announce(&mut self, domid: u32) -> Result<Value, String> {
        if !self.switch.has_domain(domid) {
            return Err(format!("domain {domid} has no port"));
        }
        self.announce_now(domid);
        self.announcing.push((domid, ANNOUNCED_AGAIN));
        Ok(json!({}))
    }

    fn seat(&mut self, domid: u32, pool: &str, source: IpAddr) -> Result<Value, PoolError> {
        let held = self.switch.seat(domid, pool, source, now_us())?;
        self.carry_held(&held);
        Ok(json!({ "held": held.len() }))
    }

    fn remove_vifs(&mut self, domid: u32, mac: Option<MacText>) -> Value {
        let is_meant = |vif: &&Vif| vif.domid == domid && mac.is_none_or(|MacText(mac)| mac == vif.mac);
        let ids: Vec<PortId> = self.vifs.iter().filter(is_meant).map(|vif| vif.id).collect();
        for id in &ids {
            self.remove_vif(*id);
        }
        json!({ "removed": ids.len() })
    }

    fn stats(&self) -> Value {
        let ports = self.switch.counts().into_iter().map(|(id, kind, count)| {
            let lost = self.vifs.get(id).map_or(0, |vif| vif.lost);
            match kind {
                PortKind::Vif(vif) => json!({
                    "kind": "vif", "domain": vif.domain, "domid": vif.domid, "count": count, "frames_lost": lost,
                }),
                PortKind::Gateway => json!({ "kind": "gateway", "count": count }),
                PortKind::Interface(_) => json!({ "kind": "interface", "count": count }),
            }
        });
        let ports: Vec<Value> = ports.collect();
        let (flows, events_dropped) = self.switch.totals();
        let (pools, waiting, held) = self.switch.pool_totals();
        json!({
            "ports": ports, "flows": flows, "events_dropped": events_dropped,
            "pools": pools, "sources_waiting": waiting, "frames": held,
        })
    }
}

/// The other side of a vif's port broke its rules.
pub(super) fn violation_event(vif: &Vif, violation: &Violation, now_us: u64) -> Event {
    Event::new(EventId::DomainViolation, timestamp(now_us))
        .domain(vif.domain.clone(), Some(vif.domid))
        .with("name", vif.domain.clone())
        .with("what", "vif port")
        .with("detail", violation.to_string())
}
