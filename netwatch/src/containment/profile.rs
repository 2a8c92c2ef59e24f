//! Containment profiles: TOML files in `rules/containment/`.

use pnet::ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::packet::{PROTOCOL_TCP, PROTOCOL_UDP};

/// Why a profile cannot be used. The source names line and column.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not TOML, or not the keys of a profile.
    #[error("containment profile cannot be read")]
    Toml(#[from] toml::de::Error),
    /// `outbound = "quota"` wants to know how much.
    #[error("containment profile {0} has outbound = \"quota\" and no [quota]")]
    NoQuota(String),
}

/// What decoys may do.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name, shown in events.
    pub name: String,
    /// What becomes of flows that a decoy begins.
    pub outbound: Outbound,
    /// Flows that a decoy may always begin.
    #[serde(default)]
    pub allow: Vec<Allow>,
    /// Flows an hour and domain, with `outbound = "quota"`.
    #[serde(default)]
    pub quota: Quota,
    /// Bytes and packets a second and domain that go out through a real interface.
    pub rate: Option<Rate>,
}

/// What becomes of flows that a decoy begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outbound {
    /// Refused.
    Refuse,
    /// Counted against `quota`.
    Quota,
    /// Let go; only the fence holds.
    Open,
}

/// A flow that a decoy may always begin.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// `tcp` or `udp`.
    pub proto: Protocol,
    /// `loghost`, or a network in CIDR form.
    pub to: Destination,
    /// Destination port.
    pub port: u16,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IANA number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => PROTOCOL_TCP,
            Protocol::Udp => PROTOCOL_UDP,
        }
    }
}

/// Where an allowed flow goes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Destination {
    /// The house's own syslog listeners.
    Loghost,
    /// A network.
    Network(IpNetwork),
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Destination, String> {
        if text == "loghost" {
            return Ok(Destination::Loghost);
        }
        let network =
            text.parse().map_err(|error| format!("neither loghost nor a network: {text} ({error})"))?;
        Ok(Destination::Network(network))
    }
}

/// Flows that a domain may begin in an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// TCP.
    pub tcp: u32,
    /// UDP.
    pub udp: u32,
    /// ICMP echo.
    pub icmp: u32,
    /// All other protocols together.
    pub other: u32,
}

/// What a domain may send a second. A burst of one second is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Bytes of whole frames.
    pub bytes_per_s: u64,
    /// Frames; an offload frame counts once for each segment.
    pub packets_per_s: u64,
}

impl Profile {
    /// Reads a profile.
    pub fn parse(text: &str) -> Result<Profile, ProfileError> {
        let profile: Profile = toml::from_str(text)?;
        if profile.outbound == Outbound::Quota && profile.quota == Quota::default() {
            return Err(ProfileError::NoQuota(profile.name));
        }
        Ok(profile)
    }
}
