//! An event read back from its JSON: what the store, the CLI and the dashboard work on.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{Severity, details_key};

/// An event's JSON that cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not JSON.
    #[error("event is not JSON")]
    Json(#[from] serde_json::Error),
    /// JSON, but not an object.
    #[error("event is not a JSON object")]
    NotAnObject,
    /// A field that every event has.
    #[error("event has no {0}, or one of the wrong kind")]
    Missing(&'static str),
}

/// An event as it was written: like `Event`, but with ids as text, so that events of a later version can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// When, UTC.
    pub timestamp: Timestamp,
    /// What stands before the first dot of the id.
    pub event_type: String,
    /// The id, as in EVENTS.md.
    pub event_id: String,
    /// How bad.
    pub severity: Severity,
    /// Who saw it.
    pub sensor: String,
    /// The sensor's count, from 1 in each of its runs.
    pub seq: u64,
    /// Name of the domain that it is about.
    pub domain: Option<String>,
    /// Its number.
    pub domid: Option<u32>,
    /// The intruder's session.
    pub session: Option<String>,
    /// netwatch's number of the flow.
    pub flow_id: Option<u64>,
    /// Source address of the flow.
    pub src_ip: Option<IpAddr>,
    /// Source port.
    pub src_port: Option<u16>,
    /// Destination address.
    pub dest_ip: Option<IpAddr>,
    /// Destination port.
    pub dest_port: Option<u16>,
    /// Protocol's name.
    pub proto: Option<String>,
    /// Community ID v1.
    pub community_id: Option<String>,
    /// The details: the object named after the event type.
    pub body: Map<String, Value>,
}

impl StoredEvent {
    /// Reads the JSON that `Event::to_json` writes. Fields that are not known are left out.
    pub fn from_json(text: &str) -> Result<StoredEvent, ReadError> {
        StoredEvent::from_value(serde_json::from_str(text)?)
    }

    /// Like `from_json`, of JSON that is parsed already.
    pub fn from_value(value: Value) -> Result<StoredEvent, ReadError> {
        let Value::Object(mut map) = value else { return Err(ReadError::NotAnObject) };
        let event_type: String = take(&mut map, "event_type").ok_or(ReadError::Missing("event_type"))?;
        let body = match map.remove(details_key(&event_type)) {
            Some(Value::Object(body)) => body,
            _ => Map::new(),
        };
        Ok(StoredEvent {
            timestamp: take(&mut map, "timestamp").ok_or(ReadError::Missing("timestamp"))?,
            event_id: take(&mut map, "event_id").ok_or(ReadError::Missing("event_id"))?,
            severity: take(&mut map, "severity").ok_or(ReadError::Missing("severity"))?,
            sensor: take(&mut map, "sensor").ok_or(ReadError::Missing("sensor"))?,
            seq: take(&mut map, "seq").ok_or(ReadError::Missing("seq"))?,
            event_type,
            domain: take(&mut map, "domain"),
            domid: take(&mut map, "domid"),
            session: take(&mut map, "session"),
            flow_id: take(&mut map, "flow_id"),
            src_ip: take(&mut map, "src_ip"),
            src_port: take(&mut map, "src_port"),
            dest_ip: take(&mut map, "dest_ip"),
            dest_port: take(&mut map, "dest_port"),
            proto: take(&mut map, "proto"),
            community_id: take(&mut map, "community_id"),
            body,
        })
    }

    /// A detail that is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.body.get(key)?.as_str()
    }

    /// A detail that is a whole number, not negative.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.body.get(key)?.as_u64()
    }
}

fn take<T: serde::de::DeserializeOwned>(map: &mut Map<String, Value>, key: &str) -> Option<T> {
    serde_json::from_value(map.remove(key)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, EventId, FlowTuple};

    #[test]
    fn what_an_event_writes_is_read_back() {
        let at: Timestamp = "2026-01-02T03:04:05.678901Z".parse().unwrap();
        let flow = FlowTuple {
            flow_id: 9,
            src_ip: "10.0.0.1".parse().unwrap(),
            src_port: 1,
            dest_ip: "::1".parse().unwrap(),
            dest_port: 22,
            proto: "TCP".into(),
            community_id: None,
        };
        let event = Event::new(EventId::Alert, at).domain("web", Some(3)).flow(flow).with("signature", "x");
        let read = StoredEvent::from_json(&event.to_json("netwatch", 7).to_string()).unwrap();
        assert_eq!((read.timestamp, read.event_id.as_str(), read.seq), (at, "alert.rule", 7));
        assert_eq!((read.severity, read.domid, read.dest_port), (Severity::Warning, Some(3), Some(22)));
        assert_eq!((read.text("signature"), read.src_ip), (Some("x"), Some("10.0.0.1".parse().unwrap())));
    }

    #[test]
    fn json_that_is_no_event_is_refused() {
        for text in ["", "[]", "{}", r#"{"event_type":"alert"}"#, r#"{"event_type":3}"#] {
            assert!(StoredEvent::from_json(text).is_err(), "{text}");
        }
    }
}
