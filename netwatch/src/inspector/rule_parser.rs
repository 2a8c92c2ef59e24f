//! One rule of Snort's language (Snort 2.9 manual, chapter 3): header and the list of options. `option_parser` reads each option.

use std::collections::HashMap;
use std::sync::Arc;

use super::diagnostic::{ErrorAt, RuleError};
use super::header_set::{AddressSet, PortSet};
use super::option_parser::RuleBuilder;
use super::rule::{Action, Header, HeaderProtocol, Rule};
use super::variables::Variables;

/// Options of one rule.
const OPTIONS_MAX: usize = 256;
/// Different flowbits names of one rule set.
const FLOWBITS_MAX: usize = 1024;

/// Names of flowbits, numbered as they are met.
#[derive(Debug, Default)]
pub struct FlowbitNames(HashMap<String, u16>);

impl FlowbitNames {
    /// The number of this name; `None` when there are too many.
    pub fn number(&mut self, name: &str) -> Option<u16> {
        if let Some(number) = self.0.get(name) {
            return Some(*number);
        }
        let number = u16::try_from(self.0.len()).ok().filter(|number| usize::from(*number) < FLOWBITS_MAX)?;
        self.0.insert(name.to_owned(), number);
        Some(number)
    }
}

/// One option as it stands: name, value and the offset of each in the logical line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionText<'a> {
    /// Name.
    pub name: &'a str,
    /// Offset of the name.
    pub at: usize,
    /// What is behind the colon, trimmed; empty without one.
    pub value: &'a str,
    /// Offset of the value.
    pub value_at: usize,
}

/// The action that a word names.
pub fn action(word: &str) -> Option<Action> {
    match word {
        "alert" => Some(Action::Alert),
        "log" => Some(Action::Log),
        "pass" => Some(Action::Pass),
        "drop" | "block" => Some(Action::Drop),
        "reject" => Some(Action::Reject),
        "sdrop" | "sblock" => Some(Action::SilentDrop),
        _ => None,
    }
}

/// Reads one rule.
pub fn parse_rule(text: &str, variables: &Variables, flowbits: &mut FlowbitNames) -> Result<Rule, ErrorAt> {
    let (header_text, options) = split_header(text)?;
    let (action, header) = parse_header(header_text, variables)?;
    let mut builder = RuleBuilder::new(flowbits);
    for option in split_options(text, options.clone())? {
        builder.add(option)?;
    }
    let parts = builder.finish(options.start.saturating_sub(1))?;
    Ok(Rule {
        action,
        header,
        info: Arc::new(parts.info),
        own_priority: parts.priority,
        flow: parts.flow,
        tests: parts.tests,
        detections: parts.detections,
        flowbits: parts.flowbits,
        no_alert: parts.no_alert,
        detection_filter: parts.detection_filter,
        threshold: parts.threshold,
    })
}

/// The header's text and where the options between the parentheses are.
fn split_header(text: &str) -> Result<(&str, std::ops::Range<usize>), ErrorAt> {
    let missing = |at, what| ErrorAt::new(at, RuleError::Missing(what));
    let open = text.find('(').ok_or_else(|| missing(text.len(), "the parenthesis with the options"))?;
    let end = text.trim_end().len();
    match text[..end].strip_suffix(')') {
        Some(body) if body.len() > open => Ok((&text[..open], open + 1..body.len())),
        _ => Err(missing(end, "the closing parenthesis")),
    }
}

fn parse_header(text: &str, variables: &Variables) -> Result<(Action, Header), ErrorAt> {
    let words = header_words(text);
    let word = |index: usize, what| {
        words.get(index).copied().ok_or_else(|| ErrorAt::new(text.trim_end().len(), RuleError::Missing(what)))
    };
    let (at, name) = word(0, "the action")?;
    let action = action(name).ok_or_else(|| ErrorAt::new(at, RuleError::UnknownAction(name.to_owned())))?;
    let protocol = parse_protocol(word(1, "the protocol")?)?;
    let (at, source) = word(2, "the source address")?;
    let source = AddressSet::parse(source, at, variables)?;
    let (at, port) = word(3, "the source port")?;
    let source_port = PortSet::parse(port, at, variables)?;
    let (at, arrow) = word(4, "the direction")?;
    let bidirectional = match arrow {
        "->" => false,
        "<>" => true,
        other => return Err(ErrorAt::new(at, RuleError::UnknownDirection(other.to_owned()))),
    };
    let (at, destination) = word(5, "the destination address")?;
    let destination = AddressSet::parse(destination, at, variables)?;
    let (at, port) = word(6, "the destination port")?;
    let destination_port = PortSet::parse(port, at, variables)?;
    if let Some((at, _)) = words.get(7) {
        return Err(ErrorAt::new(*at, RuleError::Missing("the parenthesis before this word")));
    }
    Ok((action, Header { protocol, source, source_port, destination, destination_port, bidirectional }))
}

fn parse_protocol((at, word): (usize, &str)) -> Result<HeaderProtocol, ErrorAt> {
    match word {
        "tcp" => Ok(HeaderProtocol::Tcp),
        "udp" => Ok(HeaderProtocol::Udp),
        "icmp" => Ok(HeaderProtocol::Icmp),
        "ip" => Ok(HeaderProtocol::Ip),
        other => Err(ErrorAt::new(at, RuleError::UnknownProtocol(other.to_owned()))),
    }
}

/// Words of the header with their offsets; white space inside of brackets does not divide.
fn header_words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let (mut start, mut brackets) = (None, 0_u32);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => brackets += 1,
            b']' => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        if byte.is_ascii_whitespace() && brackets == 0 {
            words.extend(start.take().map(|start| (start, &text[start..index])));
        } else if start.is_none() {
            start = Some(index);
        }
    }
    words.extend(start.map(|start| (start, &text[start..])));
    words
}

/// Splits `name:value; name;` at semicolons that are neither quoted nor escaped.
fn split_options(text: &str, range: std::ops::Range<usize>) -> Result<Vec<OptionText<'_>>, ErrorAt> {
    let mut options = Vec::new();
    let mut start = range.start;
    let (mut quoted, mut escaped) = (false, false);
    for (index, byte) in text.bytes().enumerate().take(range.end).skip(range.start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b';' if !quoted => {
                options.extend(option_text(text, start..index));
                start = index + 1;
            }
            _ => {}
        }
        if options.len() > OPTIONS_MAX {
            return Err(ErrorAt::new(index, RuleError::ListTooLarge));
        }
    }
    if quoted {
        return Err(ErrorAt::new(start, RuleError::Missing("the closing quote of this option")));
    }
    // A last option without its semicolon is read as Suricata reads it.
    options.extend(option_text(text, start..range.end));
    Ok(options)
}

fn option_text(text: &str, range: std::ops::Range<usize>) -> Option<OptionText<'_>> {
    let raw = &text[range.clone()];
    let name_at = range.start + raw.len() - raw.trim_start().len();
    let trimmed = raw.trim();
    if trimmed.is_empty() {
        return None;
    }
    let (name, value) = trimmed.split_once(':').unwrap_or((trimmed, ""));
    let lead = value.len() - value.trim_start().len();
    let value_at = if value.is_empty() { name_at + name.len() } else { name_at + name.len() + 1 + lead };
    Some(OptionText { name: name.trim_end(), at: name_at, value: value.trim(), value_at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspector::rule::Detection;

    fn parse(text: &str) -> Result<Rule, ErrorAt> {
        parse_rule(text, &Variables::default(), &mut FlowbitNames::default())
    }

    #[test]
    fn a_rule_with_many_options_is_read() {
        let rule = parse(
            r#"alert tcp $EXTERNAL_NET any -> [10.0.0.0/8, 192.168.0.0/16] $HTTP_PORTS (msg:"a; b \"c\""; flow:to_server,established; content:"|3a|x;y"; depth:5; nocase; pcre:"/a;b/i"; sid:7; rev:2; classtype:web-application-attack; reference:cve,2021-1; metadata:a b, c d;)"#,
        )
        .unwrap();
        assert_eq!(rule.info.msg, "a; b \"c\"");
        assert_eq!((rule.info.gid, rule.info.sid, rule.info.rev), (1, 7, 2));
        assert_eq!(rule.detections.len(), 2);
        let Detection::Content(content) = &rule.detections[0] else { panic!("not a content") };
        assert_eq!((content.bytes.as_slice(), content.depth, content.nocase), (&b":x;y"[..], Some(5), true));
        assert_eq!(rule.info.metadata, ["a b", "c d"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, place, message) in [
            ("alert tcp any any -> any any", "", "the parenthesis with the options is missing"),
            ("alert tcp any any -> any any (sid:1;", "", "the closing parenthesis is missing"),
            ("alert tpc any any -> any any (sid:1;)", "tpc", "unknown protocol \"tpc\""),
            ("alert tcp any any => any any (sid:1;)", "=>", "unknown direction \"=>\", expected -> or <>"),
            ("alert tcp any any -> any (sid:1;)", " (", "the destination port is missing"),
            ("alert tcp any 99999 -> any any (sid:1;)", "99999", "not a port or port range: \"99999\""),
            ("alert tcp $NOPE any -> any any (sid:1;)", "$NOPE", "variable $NOPE is not defined"),
            ("alert tcp any any -> any any (frob:1; sid:1;)", "frob", "option \"frob\" is not supported"),
            ("alert tcp any any -> any any (depth:1; sid:1;)", "depth", "depth has no content before it"),
            ("alert tcp any any -> any any (msg:\"x\";)", "(msg", "sid is missing"),
            ("alert tcp any any -> any any (sid:x;)", "x;", "option sid: not a number: \"x\""),
            (
                "alert tcp any any -> any any (msg:\"x; sid:1;)",
                "msg",
                "the closing quote of this option is missing",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.error.to_string(), message, "{text}");
            let expected = if place.is_empty() { text.len() } else { text.find(place).unwrap() };
            assert_eq!(error.offset, expected, "{text}");
        }
    }
}
