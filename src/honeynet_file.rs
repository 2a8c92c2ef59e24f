//! `honeynet.toml`: decoys, network, published ports, containment, dashboard. Checked whole before anything starts. Pure.

mod migration;
mod pool;
mod snapshot;

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::Deserialize;

use crate::domain_file::{self, vif};
pub use migration::{Migration, Peer};
pub use pool::Pool;
pub use snapshot::{Cause, Period, SnapshotRule};

/// A honeynet file is a page or two; more than this is something else.
pub const FILE_BYTES_MAX: usize = 256 * 1024;
/// Decoys of one box.
pub const DECOYS_MAX: usize = 64;
/// Host names of the dashboard.
pub const NAMES_MAX: usize = 16;
/// Published ports of one decoy.
pub const PUBLISHED_MAX: usize = 64;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HoneynetFile {
    /// State directory; the command line's `--state` goes first.
    pub state: Option<PathBuf>,
    /// Detection content; relative to the file.
    pub rules: Option<PathBuf>,
    /// Recipes of decoys; relative to the file.
    pub recipes: Option<PathBuf>,
    /// `[network]`.
    pub network: Network,
    /// `[dashboard]`.
    pub dashboard: Dashboard,
    /// `[migration]`.
    pub migration: Migration,
    /// `[[decoy]]`, one a machine.
    #[serde(rename = "decoy")]
    pub decoys: Vec<Decoy>,
    /// `[[snapshot]]`, one a rule by which snapshots are taken.
    #[serde(rename = "snapshot")]
    pub snapshots: Vec<SnapshotRule>,
}

/// The network that the decoys live in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// Name of the network namespace.
    pub namespace: String,
    /// Addresses of decoys are of this subnet.
    pub subnet: Ipv4Net,
    /// The switch's own address in it.
    pub gateway: Ipv4Addr,
    /// A real network that is joined, if any.
    pub uplink: Uplink,
    /// Name of a containment profile.
    pub containment: String,
}

impl Default for Network {
    fn default() -> Network {
        Network {
            namespace: "honeynet".into(),
            subnet: Ipv4Net::new_assert(Ipv4Addr::new(10, 77, 0, 0), 24),
            gateway: Ipv4Addr::new(10, 77, 0, 1),
            uplink: Uplink::None,
            containment: "replies-only".into(),
        }
    }
}

/// Which real network the decoys are put on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Uplink {
    /// None: only published ports lead in.
    None,
    /// The interface is moved into the honeynet's namespace.
    Interface(String),
    /// A veth pair joins this bridge.
    Bridge(String),
    /// A macvlan on this interface.
    Macvlan(String),
}

impl TryFrom<String> for Uplink {
    type Error = HoneynetFileError;

    fn try_from(text: String) -> Result<Uplink, HoneynetFileError> {
        let name = |name: &str| is_interface(name).then(|| name.to_owned());
        let uplink = match text.split_once(':') {
            None if text == "none" => Some(Uplink::None),
            Some(("interface", rest)) => name(rest).map(Uplink::Interface),
            Some(("bridge", rest)) => name(rest).map(Uplink::Bridge),
            Some(("macvlan", rest)) => name(rest).map(Uplink::Macvlan),
            _ => None,
        };
        uplink.ok_or(HoneynetFileError::Uplink { uplink: text })
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uplink::None => f.write_str("none"),
            Uplink::Interface(name) => write!(f, "interface:{name}"),
            Uplink::Bridge(name) => write!(f, "bridge:{name}"),
            Uplink::Macvlan(name) => write!(f, "macvlan:{name}"),
        }
    }
}

/// The dashboard.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dashboard {
    /// Where it listens. Beyond loopback it speaks TLS only.
    pub listen: SocketAddr,
    /// Host names that browsers may use; addresses and `localhost` need not be named.
    pub names: Vec<String>,
}

impl Default for Dashboard {
    fn default() -> Dashboard {
        Dashboard { listen: SocketAddr::from(([127, 0, 0, 1], 64297)), names: Vec::new() }
    }
}

/// One decoy: from a recipe or from a domain file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoy {
    /// The domain's name.
    pub name: String,
    /// The recipe that makes kernel and disk.
    pub recipe: Option<String>,
    /// A domain file, relative to the honeynet file.
    pub domain: Option<PathBuf>,
    /// Address of the first vif.
    pub address: Ipv4Addr,
    /// MAC address of the first vif; made from the name where it is not given.
    pub mac: Option<String>,
    /// RAM in MiB.
    #[serde(default = "memory_default_mib")]
    pub memory: u64,
    /// Vcpus of the domain.
    #[serde(default = "vcpus_default")]
    pub vcpus: u32,
    /// `HOST:PORT->PORT`: TCP ports of the decoy that listen on the host.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Each source gets a machine of its own.
    pub pool: Option<Pool>,
}

impl Decoy {
    /// The MAC address of its first vif: as given, or made from its name, so that it stays the same.
    pub fn mac_bytes(&self) -> [u8; 6] {
        let given = self.mac.as_deref().and_then(vif::parse_mac);
        given.unwrap_or_else(|| {
            let hash = blake3::hash(self.name.as_bytes());
            let [a, b, c, ..] = *hash.as_bytes();
            [0x00, 0x16, 0x3e, a & 0x7f, b, c]
        })
    }
}

fn vcpus_default() -> u32 {
    1
}

fn memory_default_mib() -> u64 {
    256
}

/// A published port: connections to `listen` are relayed to `port` of the decoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Publish {
    /// Where the host listens.
    pub listen: SocketAddr,
    /// TCP port of the decoy.
    pub port: u16,
}

impl FromStr for Publish {
    type Err = HoneynetFileError;

    fn from_str(text: &str) -> Result<Publish, HoneynetFileError> {
        let wrong = || HoneynetFileError::Publish { publish: text.to_owned() };
        let (listen, port) = text.split_once("->").ok_or_else(wrong)?;
        let listen: SocketAddr = listen.trim().parse().map_err(|_| wrong())?;
        let port: u16 = port.trim().parse().map_err(|_| wrong())?;
        if port == 0 || listen.port() == 0 {
            return Err(wrong());
        }
        Ok(Publish { listen, port })
    }
}

impl TryFrom<String> for Publish {
    type Error = HoneynetFileError;

    fn try_from(text: String) -> Result<Publish, HoneynetFileError> {
        text.parse()
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}->{}", self.listen, self.port)
    }
}

/// Why a honeynet file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoneynetFileError {
    /// Too long.
    #[error("the file has {bytes} bytes, a honeynet file has at most {FILE_BYTES_MAX}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("line {line}, column {column}: {problem}")]
    Toml {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the TOML reader says, on one line.
        problem: String,
    },
    /// An uplink that is none.
    #[error("network.uplink = {uplink:?} is none of none, interface:NAME, bridge:NAME, macvlan:NAME")]
    Uplink {
        /// As written.
        uplink: String,
    },
    /// A published port that is none.
    #[error("publish = {publish:?} is not HOST:PORT->PORT, as in 127.0.0.1:2222->22")]
    Publish {
        /// As written.
        publish: String,
    },
    /// A time that is none.
    #[error("{period:?} is not a time from 10s to 168h")]
    Period {
        /// As written.
        period: String,
    },
    /// A value that cannot be.
    #[error("{key} = {value:?} is not {wanted}")]
    Value {
        /// Which key.
        key: String,
        /// As written.
        value: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// Two decoys, or a decoy and something else, claim one thing.
    #[error("{key} = {value:?} is also that of {other}")]
    Twice {
        /// Which key.
        key: String,
        /// The thing.
        value: String,
        /// Who has it.
        other: String,
    },
    /// A decoy that says neither or both of `recipe` and `domain`.
    #[error("decoy {name:?} must have either recipe or domain")]
    Source {
        /// The decoy.
        name: String,
    },
    /// More than the named limit.
    #[error("more than {limit} {what}")]
    TooMany {
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
}

/// Reads and checks a honeynet file.
pub fn parse(text: &str) -> Result<HoneynetFile, HoneynetFileError> {
    if text.len() > FILE_BYTES_MAX {
        return Err(HoneynetFileError::TooLong { bytes: text.len() });
    }
    let file: HoneynetFile = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        HoneynetFileError::Toml { line, column, problem: error.message().replace('\n', ", ") }
    })?;
    check_network(&file.network)?;
    check_dashboard(&file.dashboard)?;
    check_decoys(&file)?;
    file.migration.check()?;
    if file.snapshots.len() > snapshot::RULES_MAX {
        return Err(HoneynetFileError::TooMany { limit: snapshot::RULES_MAX, what: "snapshot rules" });
    }
    Ok(file)
}

fn check_network(network: &Network) -> Result<(), HoneynetFileError> {
    let wrong =
        |key: &str, value: String, wanted| HoneynetFileError::Value { key: key.into(), value, wanted };
    if !domain_file::is_name(&network.namespace) || network.namespace.len() > 32 {
        return Err(wrong(
            "network.namespace",
            network.namespace.clone(),
            "a plain name of at most 32 characters",
        ));
    }
    if !(8..=30).contains(&network.subnet.prefix_len()) || network.subnet.trunc() != network.subnet {
        return Err(wrong(
            "network.subnet",
            network.subnet.to_string(),
            "a network of 4 or more addresses, such as 10.77.0.0/24",
        ));
    }
    if !is_host_of(network.subnet, network.gateway) {
        return Err(wrong(
            "network.gateway",
            network.gateway.to_string(),
            "a host address of network.subnet",
        ));
    }
    if !domain_file::is_name(&network.containment) {
        return Err(wrong(
            "network.containment",
            network.containment.clone(),
            "the name of a containment profile",
        ));
    }
    Ok(())
}

fn check_dashboard(dashboard: &Dashboard) -> Result<(), HoneynetFileError> {
    if dashboard.names.len() > NAMES_MAX {
        return Err(HoneynetFileError::TooMany { limit: NAMES_MAX, what: "names of the dashboard" });
    }
    match dashboard.names.iter().find(|name| !is_host_name(name)) {
        None => Ok(()),
        Some(name) => Err(HoneynetFileError::Value {
            key: "dashboard.names".into(),
            value: name.clone(),
            wanted: "a host name",
        }),
    }
}

fn check_decoys(file: &HoneynetFile) -> Result<(), HoneynetFileError> {
    if file.decoys.len() > DECOYS_MAX {
        return Err(HoneynetFileError::TooMany { limit: DECOYS_MAX, what: "decoys" });
    }
    let mut claims = Claims::default();
    claims.claim("network.gateway", file.network.gateway.to_string(), "the gateway")?;
    for decoy in &file.decoys {
        let wrong = |key: &str, value: String, wanted| HoneynetFileError::Value {
            key: format!("decoy {}: {key}", decoy.name),
            value,
            wanted,
        };
        if !domain_file::is_name(&decoy.name) {
            return Err(wrong("name", decoy.name.clone(), "a plain name of at most 64 characters"));
        }
        let owner = format!("decoy {}", decoy.name);
        claims.claim("name", format!("decoy {}", decoy.name), "another decoy")?;
        if decoy.recipe.is_some() == decoy.domain.is_some() {
            return Err(HoneynetFileError::Source { name: decoy.name.clone() });
        }
        if !is_host_of(file.network.subnet, decoy.address) {
            return Err(wrong("address", decoy.address.to_string(), "a host address of network.subnet"));
        }
        claims.claim(&format!("{owner}: address"), decoy.address.to_string(), &owner)?;
        if let Some(mac) = &decoy.mac {
            let parsed = vif::parse_mac(mac);
            let parsed = parsed
                .ok_or_else(|| wrong("mac", mac.clone(), "six hexadecimal bytes of a unicast address"))?;
            claims.claim(&format!("{owner}: mac"), vif::format_mac(parsed), &owner)?;
        }
        if !(1..=domain_file::VCPUS_MAX).contains(&decoy.vcpus) {
            return Err(wrong("vcpus", decoy.vcpus.to_string(), "a number from 1 to 8"));
        }
        if let Some((key, value, wanted)) = decoy.pool.as_ref().and_then(Pool::fault) {
            return Err(wrong(key, value, wanted));
        }
        if !(64..=domain_file::MEMORY_MAX_MIB).contains(&decoy.memory) {
            return Err(wrong("memory", decoy.memory.to_string(), "at least 64 MiB"));
        }
        check_published(file, decoy, &mut claims.published)?;
    }
    Ok(())
}

fn check_published(
    file: &HoneynetFile,
    decoy: &Decoy,
    published: &mut Vec<(SocketAddr, String)>,
) -> Result<(), HoneynetFileError> {
    if decoy.publish.len() > PUBLISHED_MAX {
        return Err(HoneynetFileError::TooMany {
            limit: PUBLISHED_MAX,
            what: "published ports of one decoy",
        });
    }
    if published.is_empty() {
        published.push((file.dashboard.listen, "the dashboard".into()));
    }
    for publish in &decoy.publish {
        if let Some((_, other)) = published.iter().find(|(listen, _)| overlap(*listen, publish.listen)) {
            let key = format!("decoy {}: publish", decoy.name);
            return Err(HoneynetFileError::Twice { key, value: publish.to_string(), other: other.clone() });
        }
        published.push((publish.listen, format!("decoy {}", decoy.name)));
    }
    Ok(())
}

#[derive(Default)]
struct Claims {
    owners: HashMap<String, String>,
    published: Vec<(SocketAddr, String)>,
}

impl Claims {
    fn claim(&mut self, key: &str, value: String, owner: &str) -> Result<(), HoneynetFileError> {
        match self.owners.insert(value.clone(), owner.to_owned()) {
            None => Ok(()),
            Some(other) => Err(HoneynetFileError::Twice { key: key.to_owned(), value, other }),
        }
    }
}

/// Two listeners exclude each other when their ports are one and their addresses are one or either is unspecified.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn is_host_of(subnet: Ipv4Net, address: Ipv4Addr) -> bool {
    subnet.contains(&address) && address != subnet.network() && address != subnet.broadcast()
}

/// RFC 1123, section 2.1: letters, digits and hyphens between dots, 253 bytes in all.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Linux: at most 15 bytes, no slash, no space; the rest is ours to be careful.
fn is_interface(name: &str) -> bool {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    plain && (1..=15).contains(&name.len()) && !name.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_accepted() {
        let file = parse(include_str!("../honeynet.toml")).unwrap();
        let decoys: Vec<_> =
            file.decoys.iter().map(|d| (d.name.as_str(), d.publish[0].to_string())).collect();
        assert_eq!(
            decoys,
            [
                ("ssh-server", "127.0.0.1:2222->22".to_owned()),
                ("web-server", "127.0.0.1:8080->80".to_owned())
            ]
        );
        assert_eq!(file.network, Network::default());
        assert_eq!(file.dashboard, Dashboard::default());
    }

    #[test]
    fn an_empty_file_is_a_honeynet_without_decoys() {
        assert_eq!(parse(""), Ok(HoneynetFile::default()));
    }

    fn check(text: &str, sentence: &str) {
        assert_eq!(parse(text).unwrap_err().to_string(), sentence, "of {text:?}");
    }

    #[test]
    fn what_toml_refuses_has_line_and_column() {
        check("x = ", "line 1, column 5: string values must be quoted, expected literal string");
        check(
            "\ncolour = 1",
            "line 2, column 1: unknown field `colour`, expected one of `state`, `rules`, `recipes`, `network`, `dashboard`, `migration`, `decoy`, `snapshot`",
        );
        check(
            "[network]\nuplink = \"eth0\"",
            "line 2, column 10: network.uplink = \"eth0\" is none of none, interface:NAME, bridge:NAME, macvlan:NAME",
        );
    }

    #[test]
    fn a_network_that_cannot_be_is_refused() {
        check(
            "[network]\ngateway = \"10.78.0.1\"",
            "network.gateway = \"10.78.0.1\" is not a host address of network.subnet",
        );
        check(
            "[network]\nsubnet = \"10.77.0.1/24\"",
            "network.subnet = \"10.77.0.1/24\" is not a network of 4 or more addresses, such as 10.77.0.0/24",
        );
        check(
            "[network]\nnamespace = \"a/b\"",
            "network.namespace = \"a/b\" is not a plain name of at most 32 characters",
        );
    }

    #[test]
    fn a_dashboard_has_host_names_or_none() {
        let file = parse("[dashboard]\nnames = [\"honey.example\", \"a-1\"]").unwrap();
        assert_eq!(file.dashboard.names, ["honey.example", "a-1"]);
        for name in ["", "a b", "honey..example", "-a", "*.example", "honey.example:443", "<script>"] {
            let error = parse(&format!("[dashboard]\nnames = [{name:?}]")).unwrap_err();
            assert_eq!(error.to_string(), format!("dashboard.names = {name:?} is not a host name"));
        }
        let many = format!("[dashboard]\nnames = [{}]", "\"a\",".repeat(NAMES_MAX + 1));
        check(&many, "more than 16 names of the dashboard");
    }

    fn decoys(a: &str, b: &str) -> String {
        format!(
            "[[decoy]]\nname=\"a\"\nrecipe=\"r\"\naddress=\"10.77.0.2\"\n{a}\n[[decoy]]\nname=\"b\"\nrecipe=\"r\"\naddress=\"10.77.0.3\"\n{b}"
        )
    }

    #[test]
    fn two_decoys_may_not_claim_one_thing() {
        assert!(parse(&decoys("", "")).is_ok());
        check(
            &decoys("", "").replace("10.77.0.3", "10.77.0.2"),
            "decoy b: address = \"10.77.0.2\" is also that of decoy a",
        );
        check(
            &decoys("", "").replace("10.77.0.3", "10.77.0.1"),
            "decoy b: address = \"10.77.0.1\" is also that of the gateway",
        );
        check(&decoys("", "").replace("\"b\"", "\"a\""), "name = \"decoy a\" is also that of another decoy");
        check(
            &decoys("mac=\"00:16:3e:00:00:01\"", "mac=\"00:16:3E:00:00:01\""),
            "decoy b: mac = \"00:16:3e:00:00:01\" is also that of decoy a",
        );
        let published = |a, b| decoys(&format!("publish=[\"{a}\"]"), &format!("publish=[\"{b}\"]"));
        check(
            &published("127.0.0.1:1->1", "127.0.0.1:1->2"),
            "decoy b: publish = \"127.0.0.1:1->2\" is also that of decoy a",
        );
        check(
            &published("127.0.0.1:1->1", "0.0.0.0:1->2"),
            "decoy b: publish = \"0.0.0.0:1->2\" is also that of decoy a",
        );
        check(
            &published("127.0.0.1:64297->1", "127.0.0.1:2->2"),
            "decoy a: publish = \"127.0.0.1:64297->1\" is also that of the dashboard",
        );
        assert!(parse(&published("127.0.0.1:1->1", "127.0.0.2:1->2")).is_ok());
    }

    #[test]
    fn a_decoy_that_cannot_be_is_refused() {
        let one = |more: &str| format!("[[decoy]]\nname=\"a\"\naddress=\"10.77.0.2\"\n{more}");
        check(&one(""), "decoy \"a\" must have either recipe or domain");
        check(&one("recipe=\"r\"\ndomain=\"d\""), "decoy \"a\" must have either recipe or domain");
        check(&one("recipe=\"r\"\nmemory=8"), "decoy a: memory = \"8\" is not at least 64 MiB");
        check(&one("recipe=\"r\"\nvcpus=9"), "decoy a: vcpus = \"9\" is not a number from 1 to 8");
        check(
            &one("recipe=\"r\"\nmac=\"x\""),
            "decoy a: mac = \"x\" is not six hexadecimal bytes of a unicast address",
        );
        check(
            &one("recipe=\"r\"").replace("10.77.0.2", "10.77.0.255"),
            "decoy a: address = \"10.77.0.255\" is not a host address of network.subnet",
        );
        check(
            &one("recipe=\"r\"\npublish=[\"22\"]"),
            "line 5, column 9: publish = \"22\" is not HOST:PORT->PORT, as in 127.0.0.1:2222->22",
        );
        check(
            &one("recipe=\"r\"\npublish=[\"127.0.0.1:22->0\"]"),
            "line 5, column 9: publish = \"127.0.0.1:22->0\" is not HOST:PORT->PORT, as in 127.0.0.1:2222->22",
        );
    }
}
