//! Flows that go along with a domain to another switch (live migration): as values, with times as ages, since hosts' clocks differ.
//!
//! What the inspector keeps of a connection does not go along: it takes it up in the middle, as one that began before it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Count, Flow, FlowKey, FlowTable};
use crate::community_id::Endpoints;
use crate::packet::Direction;

/// A flow on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MovedFlow {
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    protocol: u8,
    icmp: Option<(u16, u16)>,
    begun_by_decoy: bool,
    /// Packets and bytes.
    forth: (u64, u64),
    back: (u64, u64),
    /// Microseconds since the first packet, and since the last.
    age_us: u64,
    idle_us: u64,
    fins: [bool; 2],
    reset: bool,
}

impl MovedFlow {
    fn of(flow: &Flow, now_us: u64) -> MovedFlow {
        let count = |count: Count| (count.packets, count.bytes);
        MovedFlow {
            source: flow.ends.source,
            source_port: flow.ends.source_port,
            destination: flow.ends.destination,
            destination_port: flow.ends.destination_port,
            protocol: flow.ends.protocol,
            icmp: flow.icmp_kind,
            begun_by_decoy: flow.begun == Direction::FromDecoy,
            forth: count(flow.forth),
            back: count(flow.back),
            age_us: now_us.saturating_sub(flow.start_us),
            idle_us: now_us.saturating_sub(flow.last_us),
            fins: flow.fin_seen,
            reset: flow.reset_seen,
        }
    }

    /// The decoy's end.
    pub fn decoy(&self) -> IpAddr {
        if self.begun_by_decoy { self.source } else { self.destination }
    }
}

impl FlowTable {
    /// The next flows of a domain after the one with this number, at most so many; with the last one's number if there are more.
    pub fn page(&self, domid: u32, after: u64, most: usize, now_us: u64) -> (Vec<MovedFlow>, Option<u64>) {
        let is_meant =
            |flow: &&Flow| flow.domid == domid && flow.flow_id > after && flow.expires_us() >= now_us;
        let mut found: Vec<&Flow> = self.flows.values().filter(is_meant).collect();
        found.sort_unstable_by_key(|flow| flow.flow_id);
        let more = found.get(most).is_some();
        found.truncate(most);
        let last = found.last().filter(|_| more).map(|flow| flow.flow_id);
        (found.into_iter().map(|flow| MovedFlow::of(flow, now_us)).collect(), last)
    }

    /// Takes a flow up under a number of this table; false where there is one with these ends, or no room for one more.
    pub fn take_up(&mut self, moved: &MovedFlow, domid: u32, now_us: u64) -> bool {
        let ends = Endpoints {
            source: moved.source,
            destination: moved.destination,
            protocol: moved.protocol,
            source_port: moved.source_port,
            destination_port: moved.destination_port,
        };
        let key = FlowKey::new(&ends);
        if self.flows.contains_key(&key) || self.flows.len() >= self.flows_max {
            return false;
        }
        let count = |(packets, bytes)| Count { packets, bytes };
        let flow = Flow {
            flow_id: self.take_id(),
            ends,
            icmp_kind: moved.icmp,
            begun: if moved.begun_by_decoy { Direction::FromDecoy } else { Direction::ToDecoy },
            domid,
            forth: count(moved.forth),
            back: count(moved.back),
            start_us: now_us.saturating_sub(moved.age_us),
            last_us: now_us.saturating_sub(moved.idle_us),
            fin_seen: moved.fins,
            reset_seen: moved.reset,
            recently_used: true,
        };
        self.order.push_back(key);
        self.flows.insert(key, flow);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{DECOY, OUTSIDE, begin, reply};
    use super::*;
    use crate::flow::endpoints;

    #[test]
    fn a_flow_is_the_same_in_another_table_and_whoever_began_it_has_begun_it() {
        let (mut there, mut here) = (FlowTable::default(), FlowTable::default());
        begin(&mut there, 4000, 5_000_000);
        let back = reply(4000);
        let ends = endpoints(&back).unwrap();
        there.seen(&back, &ends, 60, 6_000_000).unwrap();
        let (flows, next) = there.page(1, 0, 10, 7_000_000);
        assert_eq!((flows.len(), next), (1, None));
        let text = serde_json::to_string(&flows[0]).unwrap();
        let moved: MovedFlow = serde_json::from_str(&text).unwrap();
        assert_eq!(moved.decoy(), IpAddr::from(DECOY));
        assert!(here.take_up(&moved, 9, 100_000_000));
        let flow = here.find(&ends).unwrap();
        assert_eq!(
            (flow.domid, flow.begun, flow.ends.source),
            (9, Direction::ToDecoy, IpAddr::from(OUTSIDE))
        );
        assert_eq!((flow.back.bytes, flow.start_us, flow.last_us), (60, 98_000_000, 99_000_000));
        assert!(!here.take_up(&moved, 9, 100_000_000), "it is there already");
    }

    #[test]
    fn pages_are_whole_and_without_others_flows() {
        let mut table = FlowTable::default();
        for port in 0..25 {
            begin(&mut table, 4000 + port, 0);
        }
        let (mut after, mut seen) = (0, 0);
        loop {
            let (flows, next) = table.page(1, after, 10, 1);
            seen += flows.len();
            let Some(next) = next else { break };
            after = next;
        }
        assert_eq!(seen, 25);
        assert_eq!(table.page(2, 0, 10, 1), (Vec::new(), None));
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let mut there = FlowTable::default();
        begin(&mut there, 4000, 0);
        let (flows, _) = there.page(1, 0, 1, 1);
        let mut here = FlowTable::with_limit(0);
        assert!(!here.take_up(&flows[0], 1, 1) && here.is_empty());
    }
}
