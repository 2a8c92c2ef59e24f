//! The prefilter: one multi-pattern search finds the rules that can match at all. Each rule is entered with one content, its
//! longest or the one that it names with `fast_pattern`; rules without one are always candidates of their protocol.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, BuildError};

use super::content::Content;
use super::rule::{Buffer, Detection, HeaderProtocol, Rule};

/// Packet's protocol as far as rules are grouped by it.
const GROUPS: [HeaderProtocol; 4] =
    [HeaderProtocol::Tcp, HeaderProtocol::Udp, HeaderProtocol::Icmp, HeaderProtocol::Ip];

/// A set of patterns and, for each, the rules that were entered with it.
#[derive(Debug, Default)]
pub struct PatternSet {
    search: Option<AhoCorasick>,
    rules: Vec<Vec<u32>>,
    longest: usize,
}

impl PatternSet {
    fn new(patterns: HashMap<Vec<u8>, Vec<u32>>) -> Result<PatternSet, BuildError> {
        if patterns.is_empty() {
            return Ok(PatternSet::default());
        }
        let mut entries: Vec<(Vec<u8>, Vec<u32>)> = patterns.into_iter().collect();
        entries.sort_unstable();
        let longest = entries.iter().map(|(pattern, _)| pattern.len()).max().unwrap_or(0);
        let search = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .build(entries.iter().map(|(pattern, _)| pattern))?;
        Ok(PatternSet {
            search: Some(search),
            rules: entries.into_iter().map(|(_, rules)| rules).collect(),
            longest,
        })
    }

    /// Adds the rules whose pattern occurs in `data` so that it ends behind `new_from`.
    pub fn find(&self, data: &[u8], new_from: usize, found: &mut Candidates) {
        let Some(search) = &self.search else { return };
        let from = new_from.saturating_sub(self.longest.saturating_sub(1));
        for hit in search.find_overlapping_iter(data.get(from..).unwrap_or_default()) {
            for rule in &self.rules[hit.pattern().as_usize()] {
                found.add(*rule);
            }
        }
    }
}

/// The rules of one protocol.
#[derive(Debug, Default)]
pub struct Group {
    /// Entered with a content of the payload.
    pub payload: PatternSet,
    /// Entered with a content of the normalised URI.
    pub uri: PatternSet,
    /// Look at the payload but have no content to enter with.
    pub always: Vec<u32>,
    /// Do not look at the payload.
    pub header_only: Vec<u32>,
}

/// All groups.
#[derive(Debug, Default)]
pub struct Prefilter([Group; 4]);

impl Prefilter {
    /// Builds the groups. The error is aho-corasick's: too many patterns.
    pub fn new(rules: &[Rule]) -> Result<Prefilter, BuildError> {
        let [tcp, udp, icmp, other] = GROUPS.map(|protocol| group(rules, protocol));
        Ok(Prefilter([tcp?, udp?, icmp?, other?]))
    }

    /// The group of packets of this protocol; `Ip` for all that is not TCP, UDP or ICMP.
    pub fn group(&self, protocol: HeaderProtocol) -> &Group {
        &self.0[GROUPS.iter().position(|group| *group == protocol).unwrap_or(GROUPS.len() - 1)]
    }
}

fn group(rules: &[Rule], protocol: HeaderProtocol) -> Result<Group, BuildError> {
    let (mut payload, mut uri) = (HashMap::<_, Vec<u32>>::new(), HashMap::<_, Vec<u32>>::new());
    let mut group = Group::default();
    for (index, rule) in (0_u32..).zip(rules) {
        if rule.header.protocol != protocol && rule.header.protocol != HeaderProtocol::Ip {
            continue;
        }
        if !rule.needs_payload() {
            group.header_only.push(index);
            continue;
        }
        match entry(rule) {
            None => group.always.push(index),
            Some(content) => {
                let patterns = if content.buffer == Buffer::HttpUri { &mut uri } else { &mut payload };
                patterns.entry(content.bytes.to_ascii_lowercase()).or_default().push(index);
            }
        }
    }
    group.payload = PatternSet::new(payload)?;
    group.uri = PatternSet::new(uri)?;
    Ok(group)
}

/// The content that the rule is entered with. All HTTP buffers but the normalised URI are parts of the payload as sent.
fn entry(rule: &Rule) -> Option<&Content> {
    let contents = rule.detections.iter().filter_map(|detection| match detection {
        Detection::Content(content) if !content.negated => Some(content),
        _ => None,
    });
    contents.max_by_key(|content| (content.fast_pattern, content.bytes.len()))
}

/// Rules found, each once.
#[derive(Debug, Default)]
pub struct Candidates {
    rules: Vec<u32>,
    seen: Vec<u64>,
}

impl Candidates {
    /// Forgets all; room for this many rules.
    pub fn clear(&mut self, rules: usize) {
        self.seen.resize(rules.div_ceil(64), 0);
        for rule in self.rules.drain(..) {
            if let Some(word) = self.seen.get_mut(rule as usize / 64) {
                *word = 0;
            }
        }
    }

    /// Adds a rule.
    pub fn add(&mut self, rule: u32) {
        let Some(word) = self.seen.get_mut(rule as usize / 64) else { return };
        let bit = 1 << (rule % 64);
        if *word & bit == 0 {
            *word |= bit;
            self.rules.push(rule);
        }
    }

    /// The rules in their order.
    pub fn sorted(&mut self) -> &[u32] {
        self.rules.sort_unstable();
        &self.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspector::rule_parser::{FlowbitNames, parse_rule};
    use crate::inspector::variables::Variables;

    fn found(data: &[u8], new_from: usize) -> Vec<u32> {
        let rules: Vec<Rule> = [
            r#"alert tcp any any -> any any (content:"Attack"; content:"x"; sid:1;)"#,
            r#"alert ip any any -> any any (content:"tac"; sid:2;)"#,
            r#"alert udp any any -> any any (content:"Attack"; sid:3;)"#,
            r#"alert tcp any any -> any any (content:"longest content"; content:"tta"; fast_pattern; sid:4;)"#,
            r#"alert tcp any any -> any any (content:!"nothing"; sid:5;)"#,
            r#"alert tcp any any -> any any (flags:S; sid:6;)"#,
        ]
        .iter()
        .map(|text| parse_rule(text, &Variables::default(), &mut FlowbitNames::default()).unwrap())
        .collect();
        let prefilter = Prefilter::new(&rules).unwrap();
        let group = prefilter.group(HeaderProtocol::Tcp);
        assert_eq!((group.always.as_slice(), group.header_only.as_slice()), (&[4][..], &[5][..]));
        let mut candidates = Candidates::default();
        candidates.clear(rules.len());
        group.payload.find(data, new_from, &mut candidates);
        candidates.sorted().to_vec()
    }

    #[test]
    fn only_rules_whose_pattern_occurs_are_candidates() {
        assert_eq!(found(b"an ATTACK", 0), [0, 1, 3]);
        assert_eq!(found(b"nothing", 0), Vec::<u32>::new());
    }

    #[test]
    fn patterns_across_the_border_of_new_data_are_found() {
        assert_eq!(found(b"an attack", 8), [0, 1, 3]);
        assert_eq!(found(b"an attack and much later text", 20), Vec::<u32>::new());
    }
}
