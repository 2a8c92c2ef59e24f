//! What netwatch is told and handed: plain values and descriptor numbers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

use pnet::ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// Everything that netwatch needs. The toolstack writes it as JSON; descriptors are inherited, each named once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetwatchConfig {
    /// The named network namespace that it moves into at start. `None`: it is inside already.
    pub netns: Option<String>,
    /// Control socket (`control`). netwatch ends when the other side closes it.
    pub control_fd: RawFd,
    /// Stream socket on which it tells of sources that wait for a clone, a line each:
    /// `{"wanted":{"pool":"ssh","source":"192.0.2.7","protocol":"tcp","port":22}}`. Never waited for: a line that finds no
    /// room is lost, and told again with the source's next frame.
    #[serde(default)]
    pub wanted_fd: Option<RawFd>,
    /// Stream socket to logsink.
    pub events_fd: Option<RawFd>,
    /// Uplinks, opened by `uplink::open_tap` and `uplink::open_interface`.
    pub uplinks: Vec<UplinkConfig>,
    /// Published ports.
    pub relays: Vec<RelayConfig>,
    /// With whose address they speak to decoys.
    #[serde(default)]
    pub relay_source: RelaySource,
    /// Addresses at which the house takes the decoys' syslog.
    pub loghost: Vec<IpAddr>,
    /// Networks of the host and of management, which no decoy reaches.
    pub fence: Vec<IpNetwork>,
    /// Containment profile (TOML).
    pub profile: PathBuf,
    /// Rule files, in order.
    pub rules: Vec<PathBuf>,
    /// `HOME_NET`, as in a rule header: the decoys' networks.
    pub home_net: String,
    /// Other variables of the rules.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Captures; none without it.
    pub capture: Option<CaptureConfig>,
    /// The process's own user and group, taken after start. `None` keeps the caller's.
    pub uid: Option<u32>,
}

/// One uplink.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkConfig {
    /// The TAP or packet socket.
    pub fd: RawFd,
    /// What it is.
    pub kind: UplinkKind,
    /// With a macvlan: the MAC of the vif whose network it is, `00:16:3e:xx:xx:xx`.
    pub mac: Option<String>,
}

/// What an uplink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkKind {
    /// The TAP in the honeynet's namespace.
    Gateway,
    /// A real network.
    Interface,
}

/// With whose address a relay speaks to a decoy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelaySource {
    /// The gateway's.
    #[default]
    Gateway,
    /// The client's own, where a decoy can answer it (`relay::Sources`). The namespace must bring the answers back
    /// (`netns::take_answers_back`), and netwatch keeps CAP_NET_RAW for it.
    Client,
}

/// One published port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// The listening socket, bound in the host's namespace.
    pub listen_fd: RawFd,
    /// Address and port of the decoy's service.
    pub target: SocketAddr,
    /// The decoy's domain.
    pub domain: String,
}

/// What is captured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureConfig {
    /// Folder of the files; netwatch's user may write to it.
    pub folder: PathBuf,
    /// Bytes of one file.
    pub file_bytes_max: u64,
    /// Files of one domain.
    pub files_max: usize,
    /// Bytes of one flow after which it is captured no more.
    pub flow_bytes_max: u64,
}
