//! What the switch tells the analyst: refused packets (rate limited), alerts, ended flows.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use events::{Event, EventId, Severity};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::containment::{Identity, Refusal};
use crate::flow::{Flow, FlowKey, FlowTable, endpoints, icmp_kind, tuple};
use crate::inspector::{Action, AlertRecord};
use crate::packet::{Network, Packet};

/// Refused flows whose last event is remembered. When it is full, refusals are counted and not told until some expire.
const REFUSALS_MAX: usize = 4096;
/// The same flow refused for the same reason makes one event in this time.
const QUIET_US: u64 = 60 * 1_000_000;

#[derive(Debug, Default)]
pub(super) struct Notices {
    told: HashMap<u64, Told>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Told {
    at_us: u64,
    flow_id: u64,
    since: u64,
}

impl Notices {
    /// The event for a refused packet, or nothing where it was told a short time ago.
    pub fn refusal(
        &mut self,
        flows: &mut FlowTable,
        identity: &Identity,
        packet: &Packet<'_>,
        refusal: Refusal,
        profile: &str,
    ) -> Option<Event> {
        let ends = endpoints(&packet.layers);
        // A scan from one source port is as many flows as it has targets; a spoofed flood has its reason in common.
        let key = match ends.filter(|_| !matches!(refusal, Refusal::SourceMac | Refusal::SourceAddress)) {
            Some(ends) => self.hasher.hash_one((identity.domid, refusal, Some(FlowKey::new(&ends)))),
            None => self.hasher.hash_one((identity.domid, refusal, None::<FlowKey>)),
        };
        let now_us = packet.time_us;
        let is_full = self.told.len() >= REFUSALS_MAX;
        let mut suppressed = 0;
        let mut flow_id = None;
        if let Some(told) = self.told.get_mut(&key) {
            if told.at_us.saturating_add(QUIET_US) > now_us {
                told.since += 1;
                return None;
            }
            suppressed = told.since;
            flow_id = Some(told.flow_id);
        } else if is_full {
            return None;
        }
        let known = ends.and_then(|ends| flows.find(&ends)).map(|flow| flow.flow_id);
        let flow_id = known.or(flow_id).unwrap_or_else(|| flows.take_id());
        self.told.insert(key, Told { at_us: now_us, flow_id, since: 0 });
        let mut event = Event::new(EventId::ContainmentVerdict, timestamp(now_us))
            .domain(identity.domain.clone(), Some(identity.domid))
            .with("verdict", "refused")
            .with("reason", refusal.as_str())
            .with("profile", profile)
            .with("suppressed", suppressed);
        // Hosts announce themselves to groups all the time; refusing that is routine.
        if ends.is_some_and(|ends| is_group(ends.destination)) {
            event = event.severity(Severity::Info);
        }
        match (&packet.layers.network, ends) {
            (_, Some(ends)) => event.flow = Some(tuple(&ends, icmp_kind(&packet.layers), flow_id)),
            (Some(Network::Arp(arp)), None) => {
                event = event.with("arp_sender", arp.sender_address.to_string());
            }
            _ => event = event.with("ether_type", format!("{:#06x}", packet.layers.ether_type)),
        }
        Some(event)
    }

    pub fn expire(&mut self, now_us: u64) {
        self.told.retain(|_, told| told.at_us.saturating_add(2 * QUIET_US) > now_us);
    }
}

fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

/// EVE's `alert` object.
pub(super) fn alert_body(alert: &AlertRecord) -> Map<String, Value> {
    let rule = &alert.rule;
    let references: Vec<String> =
        rule.references.iter().map(|reference| format!("{}:{}", reference.system, reference.id)).collect();
    let body = json!({
        "action": if matches!(alert.action, Action::SilentDrop | Action::Drop | Action::Reject) { "blocked" } else { "allowed" },
        "gid": rule.gid,
        "signature_id": rule.sid,
        "rev": rule.rev,
        "signature": rule.msg,
        "category": rule.classtype,
        "severity": rule.priority,
        "references": references,
        "metadata": rule.metadata,
    });
    match body {
        Value::Object(body) => body,
        _ => Map::new(),
    }
}

/// EVE's `flow` object.
pub(super) fn flow_end(flow: &Flow, domain: Option<String>, now_us: u64) -> Event {
    let mut event = Event::new(EventId::FlowEnd, timestamp(now_us))
        .flow(flow.tuple())
        .with("pkts_toserver", flow.forth.packets)
        .with("pkts_toclient", flow.back.packets)
        .with("bytes_toserver", flow.forth.bytes)
        .with("bytes_toclient", flow.back.bytes)
        .with("start", format!("{:.6}", timestamp(flow.start_us)))
        .with("end", format!("{:.6}", timestamp(flow.last_us)))
        .with("age", flow.last_us.saturating_sub(flow.start_us) / 1_000_000)
        .with("reason", flow.end_reason());
    event.domain = domain;
    event.domid = Some(flow.domid);
    event
}

/// A time in microseconds since the epoch, as events have it.
pub fn timestamp(time_us: u64) -> Timestamp {
    let time_us = i64::try_from(time_us).unwrap_or(0);
    Timestamp::from_microsecond(time_us).unwrap_or(Timestamp::UNIX_EPOCH)
}
