//! The inspector: packets in, verdicts out. Pure: the only clock is the packets' time.
//!
//! A packet is tried against rules three times at most: its headers, its payload, and the message of the stream that its
//! payload completes. What was seen before (retransmissions) is not tried again, and a rule fires once on a message.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use events::FlowTuple;

use super::diagnostic::RuleDiagnostic;
use super::evaluate::{Buffers, detections_match, match_end};
use super::flow::{Flow, FlowKey, FlowRecord, FlowTable};
use super::header_test::{flow_matches, header_matches, test_matches};
use super::http::{HttpMessage, http_messages};
use super::prefilter::{Candidates, Group};
use super::rule::{Action, Flowbit, HeaderProtocol, Rule, RuleInfo, Sender, StreamTest};
use super::rule_set::RuleSet;
use super::threshold::Thresholds;
use super::variables::Variables;
use crate::packet::{Direction, Ip, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Packet};

/// Alerts of one packet; more rules than this do not match one packet for a reason.
const ALERTS_MAX: usize = 64;
/// The number that stands for the whole message, not one HTTP message in it.
const WHOLE_MESSAGE: u32 = u32::MAX;

/// One alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRecord {
    /// What the rule says: gid, sid, rev, msg, classtype, priority, references, metadata.
    pub rule: Arc<RuleInfo>,
    /// What the rule asks for.
    pub action: Action,
    /// Who sent the packet.
    pub sender: Sender,
}

/// What is to be done with a packet, and what is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `Pass`, `Log` and `Alert` let it through.
    pub action: Action,
    /// The alerts that thresholds let through.
    pub alerts: Vec<AlertRecord>,
    /// The packet's flow, the client as source; none where the packet is not IP.
    pub flow: Option<Arc<FlowTuple>>,
}

/// Rules and the state of all flows.
#[derive(Debug)]
pub struct Inspector {
    set: RuleSet,
    flows: FlowTable,
    thresholds: Thresholds,
    candidates: Candidates,
    matched: Vec<Match>,
}

/// A rule that matched, and on which HTTP message of the stream's message.
#[derive(Debug, Clone, Copy)]
struct Match {
    rule: u32,
    http: u32,
}

/// The packet and its surroundings.
struct Seen<'a> {
    packet: &'a Packet<'a>,
    ip: &'a Ip,
    ports: (u16, u16),
    sender: Sender,
}

impl Inspector {
    /// Reads rules from files (and what they include). What cannot be read is said; the rest is loaded.
    pub fn load(files: &[PathBuf], variables: &Variables) -> (Inspector, Vec<RuleDiagnostic>) {
        let (set, diagnostics) = RuleSet::load(files, variables);
        (Inspector::new(set), diagnostics)
    }

    /// An inspector with these rules.
    pub fn new(set: RuleSet) -> Inspector {
        Inspector {
            set,
            flows: FlowTable::default(),
            thresholds: Thresholds::default(),
            candidates: Candidates::default(),
            matched: Vec::new(),
        }
    }

    /// Number of rules loaded.
    pub fn rule_count(&self) -> usize {
        self.set.rules.len()
    }

    /// Number of flows at present.
    pub fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// Takes one packet. `direction` is only kept for the flow's record.
    pub fn inspect(&mut self, packet: &Packet<'_>, direction: Direction) -> Verdict {
        let nothing = |flow| Verdict { action: Action::Pass, alerts: Vec::new(), flow };
        let Some(ip) = packet.layers.ip() else { return nothing(None) };
        let Some((key, sender)) = self.flows.track(packet, ip, direction) else { return nothing(None) };
        let seen = Seen { packet, ip, ports: packet.layers.ports().unwrap_or((0, 0)), sender };
        if let Some(flow) = self.flows.get_mut(&key)
            && flow.blocked
        {
            return Verdict {
                action: Action::SilentDrop,
                alerts: Vec::new(),
                flow: Some(flow.tuple.clone()),
            };
        }
        self.matched.clear();
        match packet.layers.tcp() {
            Some(tcp) => {
                let fresh = self.flows.push(&key, sender, tcp, packet.payload());
                self.try_rules(&key, &seen, fresh);
            }
            None => self.try_rules(&key, &seen, (!packet.payload().is_empty()).then_some(0)),
        }
        self.judge(&key, &seen)
    }

    /// Takes the flows that ended until `now_us` (microseconds since the Unix epoch).
    pub fn expire(&mut self, now_us: u64) -> Vec<FlowRecord> {
        self.flows.expire(now_us)
    }

    /// Ends all flows, for a stop in good order.
    pub fn end_all(&mut self) -> Vec<FlowRecord> {
        self.flows.end_all()
    }

    /// Collects the rules that match. `fresh` is where the new bytes begin in the message (TCP), or 0 with a payload.
    fn try_rules(&mut self, key: &FlowKey, seen: &Seen<'_>, fresh: Option<usize>) {
        let group = self.set.prefilter.group(group_of(seen.ip));
        let Some(flow) = self.flows.get_mut(key) else { return };
        let mut trial = Trial { rules: &self.set.rules, seen, matched: &mut self.matched };
        for rule in &group.header_only {
            trial.header_only(*rule, flow);
        }
        let Some(fresh) = fresh else { return };
        self.candidates.clear(self.set.rules.len());
        for rule in &group.always {
            self.candidates.add(*rule);
        }
        if seen.packet.layers.tcp().is_some() {
            trial.stream(flow, group, fresh, &mut self.candidates);
        } else {
            trial.datagram(flow, group, &mut self.candidates);
        }
    }

    /// Makes a verdict of the rules that matched.
    fn judge(&mut self, key: &FlowKey, seen: &Seen<'_>) -> Verdict {
        let Inspector { set, flows, thresholds, matched, .. } = self;
        let mut verdict = Verdict { action: Action::Pass, alerts: Vec::new(), flow: None };
        let Some(flow) = flows.get_mut(key) else { return verdict };
        verdict.flow = Some(flow.tuple.clone());
        let action = |found: &Match| set.rules.get(found.rule as usize).map(|rule| rule.action);
        if matched.iter().any(|found| action(found) == Some(Action::Pass)) {
            return verdict;
        }
        let ends = (seen.ip.source, seen.ip.destination);
        for found in matched.iter() {
            let Some(rule) = set.rules.get(found.rule as usize) else { continue };
            let now_us = seen.packet.time_us;
            if rule
                .detection_filter
                .is_some_and(|filter| !thresholds.admits(found.rule, &filter, ends, now_us))
            {
                continue;
            }
            verdict.action = verdict.action.max(rule.action);
            let quiet = rule.no_alert
                || matches!(rule.action, Action::Log | Action::SilentDrop)
                || suppressed(set, rule, ends);
            if quiet
                || rule.threshold.is_some_and(|filter| !thresholds.admits(found.rule, &filter, ends, now_us))
            {
                continue;
            }
            if verdict.alerts.len() < ALERTS_MAX {
                flow.alerts = flow.alerts.saturating_add(1);
                verdict.alerts.push(AlertRecord {
                    rule: rule.info.clone(),
                    action: rule.action,
                    sender: seen.sender,
                });
            }
        }
        // After one dropped segment the rest of a connection makes no sense to its receiver.
        flow.blocked = verdict.action > Action::Alert && seen.packet.layers.tcp().is_some();
        verdict
    }
}

fn suppressed(set: &RuleSet, rule: &Rule, (source, destination): (IpAddr, IpAddr)) -> bool {
    let list = set.suppressions.get(&(rule.info.gid, rule.info.sid));
    list.is_some_and(|list| list.iter().any(|suppression| suppression.matches(source, destination)))
}

fn group_of(ip: &Ip) -> HeaderProtocol {
    match ip.protocol {
        PROTOCOL_TCP => HeaderProtocol::Tcp,
        PROTOCOL_UDP => HeaderProtocol::Udp,
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => HeaderProtocol::Icmp,
        _ => HeaderProtocol::Ip,
    }
}

/// Whether the rule matches a message that has new bytes from `fresh` on. One that waited for a flowbit must reach them: it must
/// not fire on what was said before the bit was set. All others would have fired earlier.
fn joined_matches(rule: &Rule, buffers: &Buffers<'_>, fresh: usize) -> bool {
    let waited = rule.flowbits.iter().any(|bit| matches!(bit, Flowbit::IsSet(_) | Flowbit::IsNotSet(_)));
    match_end(&rule.detections, buffers).is_some_and(|end| !waited || end == 0 || end > fresh)
}

/// Rules being tried on one packet.
struct Trial<'a> {
    rules: &'a [Rule],
    seen: &'a Seen<'a>,
    matched: &'a mut Vec<Match>,
}

impl<'a> Trial<'a> {
    fn header_only(&mut self, index: u32, flow: &mut Flow) {
        if let Some(rule) = self.applicable(index, flow) {
            self.matches(rule, index, WHOLE_MESSAGE, flow);
        }
    }

    fn datagram(&mut self, flow: &mut Flow, group: &Group, candidates: &mut Candidates) {
        let payload = self.seen.packet.payload();
        group.payload.find(payload, 0, candidates);
        let buffers = Buffers { payload, base: 0, http: None };
        for &index in candidates.sorted() {
            if let Some(rule) = self.applicable(index, flow)
                && detections_match(&rule.detections, &buffers)
            {
                self.matches(rule, index, WHOLE_MESSAGE, flow);
            }
        }
    }

    /// Tries the payload of a segment and the message that it belongs to.
    fn stream(&mut self, flow: &mut Flow, group: &Group, fresh: usize, candidates: &mut Candidates) {
        // The message is taken out of the flow while rules look at it and set the flow's bits.
        let mut message = std::mem::take(&mut flow.stream(self.seen.sender).message);
        for rule in message.candidates() {
            candidates.add(*rule);
        }
        group.payload.find(&message.bytes, fresh, candidates);
        let http = if message.base == 0 { http_messages(&message.bytes) } else { Vec::new() };
        for uri in http.iter().filter(|http| http.end > fresh).filter_map(|http| http.uri.as_deref()) {
            group.uri.find(uri, 0, candidates);
        }
        let packet = self.seen.packet.payload();
        // What the stream gave is the packet's own payload, all of it: the usual case.
        let whole_packet = message.bytes.get(fresh..) == Some(packet);
        let first = self.matched.len();
        for &index in candidates.sorted() {
            let Some(rule) = self.applicable(index, flow) else { continue };
            if rule.needs_http() {
                self.http(rule, index, flow, &message, &http, fresh);
                continue;
            }
            let single = Buffers { payload: packet, base: 0, http: None };
            let hit = whole_packet
                && rule.flow.stream != Some(StreamTest::OnlyStream)
                && detections_match(&rule.detections, &single);
            let joined = Buffers { payload: &message.bytes, base: message.base, http: None };
            let more = !whole_packet || message.bytes.len() > packet.len();
            if hit
                || (more
                    && !rule.needs_packet()
                    && !message.has_fired(index, WHOLE_MESSAGE)
                    && joined_matches(rule, &joined, fresh))
            {
                self.matches(rule, index, WHOLE_MESSAGE, flow);
            }
        }
        drop(http);
        for found in &self.matched[first..] {
            message.fire(found.rule, found.http);
        }
        message.set_candidates(candidates.sorted());
        flow.stream(self.seen.sender).message = message;
    }

    fn http(
        &mut self,
        rule: &'a Rule,
        index: u32,
        flow: &mut Flow,
        message: &super::stream::Message,
        http: &[HttpMessage<'_>],
        fresh: usize,
    ) {
        for (number, one) in (0_u32..).zip(http) {
            let buffers = Buffers { payload: &message.bytes, base: 0, http: Some(one) };
            if one.end > fresh
                && !message.has_fired(index, number)
                && detections_match(&rule.detections, &buffers)
            {
                self.matches(rule, index, number, flow);
                return;
            }
        }
    }

    /// The rule, if everything but its detections matches.
    fn applicable(&self, index: u32, flow: &Flow) -> Option<&'a Rule> {
        let rule = self.rules.get(index as usize)?;
        let seen = self.seen;
        let matches = flow_matches(&rule.flow, flow, seen.sender)
            && header_matches(&rule.header, seen.ip, seen.ports)
            && rule.tests.iter().all(|test| test_matches(test, seen.packet, seen.ip))
            && rule.flowbits.iter().all(|bit| match *bit {
                Flowbit::IsSet(bit) => flow.has_bit(bit),
                Flowbit::IsNotSet(bit) => !flow.has_bit(bit),
                Flowbit::Set(_) | Flowbit::Unset(_) | Flowbit::Toggle(_) => true,
            });
        matches.then_some(rule)
    }

    fn matches(&mut self, rule: &Rule, index: u32, http: u32, flow: &mut Flow) {
        for bit in &rule.flowbits {
            match *bit {
                Flowbit::Set(bit) => flow.set_bit(bit),
                Flowbit::Unset(bit) => flow.clear_bit(bit),
                Flowbit::Toggle(bit) if flow.has_bit(bit) => flow.clear_bit(bit),
                Flowbit::Toggle(bit) => flow.set_bit(bit),
                Flowbit::IsSet(_) | Flowbit::IsNotSet(_) => {}
            }
        }
        self.matched.push(Match { rule: index, http });
    }
}
