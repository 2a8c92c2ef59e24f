//! Address and port lists of a rule header: `any`, single members, negation, groups, variables (Snort 2.9 manual, 3.2).

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::diagnostic::{ErrorAt, RuleError};
use super::variables::Variables;

/// Groups within groups and variables within variables, together.
const NESTING_MAX: usize = 16;
/// Members of one list after all variables are expanded.
const MEMBERS_MAX: usize = 4096;

/// A list over `T`. A group matches when none of its negated members do and, if it has others, one of those does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderSet<T> {
    /// Everything.
    Any,
    /// One network or port range.
    One(T),
    /// All but this.
    Not(Box<HeaderSet<T>>),
    /// A list in brackets.
    Group(Vec<HeaderSet<T>>),
}

/// Addresses.
pub type AddressSet = HeaderSet<IpNet>;
/// Ports.
pub type PortSet = HeaderSet<RangeInclusive<u16>>;

impl<T> HeaderSet<T> {
    fn matches(&self, contains: &impl Fn(&T) -> bool) -> bool {
        match self {
            HeaderSet::Any => true,
            HeaderSet::One(member) => contains(member),
            HeaderSet::Not(inner) => !inner.matches(contains),
            HeaderSet::Group(members) => {
                let mut has_positive = false;
                let mut hit = false;
                for member in members {
                    match member {
                        HeaderSet::Not(inner) if inner.matches(contains) => return false,
                        HeaderSet::Not(_) => {}
                        other => {
                            has_positive = true;
                            hit = hit || other.matches(contains);
                        }
                    }
                }
                hit || !has_positive
            }
        }
    }
}

impl AddressSet {
    /// Whether the address is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.matches(&|net| net.contains(&address))
    }

    /// Reads the address part of a header; `at` is its offset in the logical line.
    pub fn parse(text: &str, at: usize, variables: &Variables) -> Result<AddressSet, ErrorAt> {
        Parser { lookup: &|name| variables.address(name), leaf: &parse_network, members: 0 }
            .parse(text, at, 0)
    }
}

impl PortSet {
    /// Whether the port is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.matches(&|range| range.contains(&port))
    }

    /// Reads the port part of a header; `at` is its offset in the logical line.
    pub fn parse(text: &str, at: usize, variables: &Variables) -> Result<PortSet, ErrorAt> {
        Parser { lookup: &|name| variables.port(name), leaf: &parse_port_range, members: 0 }
            .parse(text, at, 0)
    }
}

fn parse_network(text: &str) -> Result<IpNet, RuleError> {
    let bad = || RuleError::BadAddress(text.to_owned());
    match text.parse::<IpNet>() {
        Ok(net) => Ok(net.trunc()),
        Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| bad()),
    }
}

fn parse_port_range(text: &str) -> Result<RangeInclusive<u16>, RuleError> {
    let bad = || RuleError::BadPort(text.to_owned());
    let number =
        |text: &str, open: u16| if text.is_empty() { Ok(open) } else { text.parse().map_err(|_| bad()) };
    let Some((low, high)) = text.split_once(':') else {
        return text.parse().map(|port| port..=port).map_err(|_| bad());
    };
    let (low, high) = (number(low.trim(), 0)?, number(high.trim(), u16::MAX)?);
    if low > high || text == ":" { Err(bad()) } else { Ok(low..=high) }
}

struct Parser<'a, T> {
    lookup: &'a dyn Fn(&str) -> Option<&'a str>,
    leaf: &'a dyn Fn(&str) -> Result<T, RuleError>,
    members: usize,
}

impl<T> Parser<'_, T> {
    fn parse(&mut self, text: &str, at: usize, depth: usize) -> Result<HeaderSet<T>, ErrorAt> {
        let lead = text.len() - text.trim_start().len();
        let (text, at) = (text.trim(), at + lead);
        self.members += 1;
        if depth > NESTING_MAX || self.members > MEMBERS_MAX {
            return Err(ErrorAt::new(at, RuleError::ListTooLarge));
        }
        if let Some(rest) = text.strip_prefix('!') {
            return Ok(HeaderSet::Not(Box::new(self.parse(rest, at + 1, depth + 1)?)));
        }
        if let Some(name) = text.strip_prefix('$') {
            let name = name.trim_start_matches('(').trim_end_matches(')');
            let undefined = || ErrorAt::new(at, RuleError::UndefinedVariable(name.to_owned()));
            let value = (self.lookup)(name).ok_or_else(undefined)?;
            // Errors inside of a variable's value point at its use: the definition may be in another file.
            return self.parse(value, at, depth + 1).map_err(|error| ErrorAt::new(at, error.error));
        }
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return self.parse_group(inner, at + 1, depth);
        }
        if text.eq_ignore_ascii_case("any") {
            return Ok(HeaderSet::Any);
        }
        (self.leaf)(text).map(HeaderSet::One).map_err(|error| ErrorAt::new(at, error))
    }

    fn parse_group(&mut self, inner: &str, at: usize, depth: usize) -> Result<HeaderSet<T>, ErrorAt> {
        let mut members = Vec::new();
        let (mut start, mut brackets) = (0, 0_i32);
        for (index, byte) in inner.bytes().chain([b',']).enumerate() {
            match byte {
                b'[' => brackets += 1,
                b']' => brackets -= 1,
                b',' if brackets == 0 || index == inner.len() => {
                    members.push(self.parse(&inner[start..index], at + start, depth + 1)?);
                    start = index + 1;
                }
                _ => {}
            }
        }
        Ok(HeaderSet::Group(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Result<PortSet, ErrorAt> {
        let mut variables = Variables::default();
        variables.set("WEB", "[80,8000:8010]");
        variables.set("LOOP", "$LOOP");
        PortSet::parse(text, 0, &variables)
    }

    #[test]
    fn port_lists_match_as_written() {
        for (text, port, inside) in [
            ("any", 1, true),
            ("80", 80, true),
            ("80", 81, false),
            ("!80", 80, false),
            (":1024", 0, true),
            ("1024:", 1023, false),
            ("[1:10,!5]", 5, false),
            ("[1:10,!5]", 6, true),
            ("![1:10,20]", 20, false),
            ("[!22,!80]", 443, true),
            ("$WEB", 8005, true),
            ("[$WEB,!80]", 80, false),
            ("[1:100,![20:30,40]]", 25, false),
        ] {
            assert_eq!(ports(text).unwrap().contains(port), inside, "{text} {port}");
        }
    }

    #[test]
    fn bad_lists_are_refused_with_their_place() {
        for (text, offset) in
            [("http", 0), ("[80,x]", 4), ("10:5", 0), ("$NONE", 0), ("$LOOP", 0), ("[80,]", 4), ("70000", 0)]
        {
            assert_eq!(ports(text).unwrap_err().offset, offset, "{text}");
        }
    }

    #[test]
    fn address_lists_match_as_written() {
        let variables = Variables::default();
        for (text, address, inside) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("!10.0.0.0/8", "10.1.2.3", false),
            ("[10.0.0.0/8,!10.1.0.0/16]", "10.1.2.3", false),
            ("[10.0.0.0/8,!10.1.0.0/16]", "10.2.2.3", true),
            ("fe80::/10", "fe80::1", true),
            ("10.0.0.1/8", "10.9.9.9", true),
            ("$HOME_NET", "8.8.8.8", true),
        ] {
            let set = AddressSet::parse(text, 0, &variables).unwrap();
            assert_eq!(set.contains(address.parse().unwrap()), inside, "{text} {address}");
        }
    }
}
