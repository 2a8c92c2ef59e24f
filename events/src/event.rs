//! One event, and its JSON form (Suricata EVE's field names).

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{EventId, Severity};

/// Addresses and ports of the flow that an event belongs to. Ports are 0 where the protocol has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowTuple {
    /// netwatch's number for the flow; unique within one run of netwatch.
    pub flow_id: u64,
    /// Source address of the packet or of the flow's first packet.
    pub src_ip: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination address.
    pub dest_ip: IpAddr,
    /// Destination port.
    pub dest_port: u16,
    /// `TCP`, `UDP`, `ICMP`, `ICMPv6`, or the IP protocol's number.
    pub proto: String,
    /// Community ID v1, shared with Zeek and Suricata.
    pub community_id: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What happened.
    pub id: EventId,
    /// When, UTC. Written with microseconds.
    pub timestamp: Timestamp,
    /// How bad.
    pub severity: Severity,
    /// Name of the domain that it is about.
    pub domain: Option<String>,
    /// Its number.
    pub domid: Option<u32>,
    /// The flow that it is about.
    pub flow: Option<FlowTuple>,
    /// The intruder's session that it belongs to.
    pub session: Option<String>,
    /// The details: the object named after the event type.
    pub body: Map<String, Value>,
}

impl Event {
    /// An event of this id at this time, with no details yet.
    pub fn new(id: EventId, timestamp: Timestamp) -> Event {
        Event {
            id,
            timestamp,
            severity: id.severity(),
            domain: None,
            domid: None,
            flow: None,
            session: None,
            body: Map::new(),
        }
    }

    /// The same event, about this domain.
    pub fn domain(mut self, name: impl Into<String>, domid: Option<u32>) -> Event {
        self.domain = Some(name.into());
        self.domid = domid;
        self
    }

    /// The same event, about this flow.
    pub fn flow(mut self, flow: FlowTuple) -> Event {
        self.flow = Some(flow);
        self
    }

    /// The same event with another severity.
    pub fn severity(mut self, severity: Severity) -> Event {
        self.severity = severity;
        self
    }

    /// The same event with one more detail.
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Event {
        self.body.insert(key.to_owned(), value.into());
        self
    }

    /// The JSON that goes on the wire; `sensor` and `seq` are the emitter's.
    pub fn to_json(&self, sensor: &str, seq: u64) -> Value {
        let mut out = Map::new();
        out.insert("timestamp".into(), json!(format!("{:.6}", self.timestamp)));
        out.insert("event_type".into(), json!(self.id.event_type()));
        out.insert("event_id".into(), json!(self.id.as_str()));
        out.insert("severity".into(), json!(self.severity));
        out.insert("sensor".into(), json!(sensor));
        out.insert("seq".into(), json!(seq));
        if let Some(domain) = &self.domain {
            out.insert("domain".into(), json!(domain));
        }
        if let Some(domid) = self.domid {
            out.insert("domid".into(), json!(domid));
        }
        if let Some(session) = &self.session {
            out.insert("session".into(), json!(session));
        }
        if let Some(flow) = &self.flow {
            out.insert("flow_id".into(), json!(flow.flow_id));
            out.insert("src_ip".into(), json!(flow.src_ip));
            out.insert("src_port".into(), json!(flow.src_port));
            out.insert("dest_ip".into(), json!(flow.dest_ip));
            out.insert("dest_port".into(), json!(flow.dest_port));
            out.insert("proto".into(), json!(flow.proto));
            if let Some(id) = &flow.community_id {
                out.insert("community_id".into(), json!(id));
            }
        }
        out.insert(self.id.details_key().into(), Value::Object(self.body.clone()));
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_eve_fields_and_an_object_named_after_the_type() {
        let at: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        let event = Event::new(EventId::Alert, at).domain("web", Some(3)).with("signature", "x");
        let json = event.to_json("netwatch", 7);
        assert_eq!(json["timestamp"], "2026-01-02T03:04:05.678901Z");
        assert_eq!(json["event_type"], "alert");
        assert_eq!(json["event_id"], "alert.rule");
        assert_eq!(json["alert"]["signature"], "x");
        assert_eq!(json["seq"], 7);
    }

    #[test]
    fn an_event_of_a_domains_life_keeps_the_domains_name() {
        let event = Event::new(EventId::DomainCrashed, Timestamp::UNIX_EPOCH).domain("web", Some(3));
        let json = event.with("reason", "x").to_json("supervisor", 1);
        assert_eq!((&json["domain"], &json["domain_event"]["reason"]), (&json!("web"), &json!("x")));
    }
}
