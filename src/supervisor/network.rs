//! The honeynet's network as the supervisor holds it: namespace, TAP, published ports, guests' syslog, and netwatch's control
//! socket. All of it is handed to each new netwatch, so that one that dies takes nothing with it.

mod devices;
#[cfg(test)]
mod tests;
mod told;
mod wanted;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::Ipv4Net;
use netwatch::config::{CaptureConfig, NetwatchConfig, RelayConfig, RelaySource, UplinkConfig, UplinkKind};
use netwatch::netns::{self, NetnsError};
use netwatch::uplink::{self, InterfaceSpec, UplinkError};

use super::cgroup;
use super::process::{Descriptors, Program};
use super::services::Service;
use crate::domain_file::vif;
use crate::honeynet_file::{self, HoneynetFile};
use crate::state::State;
use devices::Devices;
use told::{Link, Told};
pub use told::{Seat, SwitchError};
use wanted::WantedChannel;

/// netwatch's own user.
pub const NETWATCH_UID: u32 = 199_002;
/// The gateway's interface in the honeynet's namespace.
const TAP_NAME: &str = "hn-tap";
/// Addresses that are looked at for a free one: more than there are domains.
const FREE_TRIES_MAX: usize = 4096;
/// How long netwatch may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Ports of the guests' syslog (RFC 6587 over TCP, RFC 5426 over UDP).
const SYSLOG_TCP_PORT: u16 = 601;
const SYSLOG_UDP_PORT: u16 = 514;
/// Captures: size of one file, files of a domain, bytes of one flow.
const CAPTURE_FILE_BYTES_MAX: u64 = 64 << 20;
const CAPTURE_FILES_MAX: usize = 4;
const CAPTURE_FLOW_BYTES_MAX: u64 = 16 << 20;
/// Containment when there is no rules folder.
const PROFILE_DEFAULT: &str = include_str!("../../rules/containment/replies-only.toml");

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A published port is somebody's.
    #[error("{listen}, where port {port} of decoy {decoy} is to be published, is taken")]
    Published {
        /// Where.
        listen: SocketAddr,
        /// The decoy's port.
        port: u16,
        /// The decoy.
        decoy: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The namespace belongs to somebody else.
    #[error(
        "network namespace {name} exists and is not this honeynet's: set network.namespace to another name"
    )]
    Foreign {
        /// Its name.
        name: String,
    },
    /// The namespace cannot be made.
    #[error("network namespace {name} cannot be made")]
    Namespace {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: NetnsError,
    },
    /// The uplink cannot be opened.
    #[error("the uplink cannot be opened")]
    Uplink(#[from] UplinkError),
    /// No such containment profile.
    #[error("network.containment: there is no profile {path}")]
    Profile {
        /// Where it should be.
        path: PathBuf,
    },
    /// A step failed.
    #[error("the network cannot {step}")]
    Step {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

struct Published {
    listener: TcpListener,
    target: SocketAddr,
    decoy: String,
}

struct RealUplink {
    socket: OwnedFd,
    mac: Option<String>,
}

/// What was made in the kernel and stays there until it is removed: it is, when dropped.
struct Made {
    namespace: Namespace,
    devices: Devices,
}

/// The network.
pub struct Network {
    state: State,
    tap: OwnedFd,
    uplinks: Vec<RealUplink>,
    published: Vec<Published>,
    /// Guests' syslog.
    pub syslog_tcp: TcpListener,
    /// Guests' syslog.
    pub syslog_udp: UdpSocket,
    gateway: Ipv4Addr,
    home_net: Ipv4Net,
    // Of decoys and pools of the honeynet file, whether they run or not.
    promised: Vec<Ipv4Addr>,
    profile: PathBuf,
    rules: Vec<PathBuf>,
    // Locked over a whole request, so that what is told is also what a new netwatch is told. Before `link`.
    told: Mutex<Told>,
    // Locked over one question and its answer.
    link: Mutex<Link>,
    wanted: WantedChannel,
    namespace: String,
    // Taken at the end; locked for that only.
    made: Mutex<Option<Made>>,
}

/// The namespace; removed when dropped.
struct Namespace {
    name: String,
    mark: PathBuf,
}

impl Namespace {
    fn make(name: &str, state: &State) -> Result<Namespace, NetworkError> {
        // Who died before he could remove his namespace left a mark; anybody else's is not touched.
        let mark = state.run().join("netns");
        if netns::exists(name) {
            if std::fs::read_to_string(&mark).is_ok_and(|marked| marked == name) {
                let removed = netns::delete(name);
                removed.map_err(|source| NetworkError::Namespace { name: name.to_owned(), source })?;
            } else {
                return Err(NetworkError::Foreign { name: name.to_owned() });
            }
        }
        std::fs::write(&mark, name)
            .map_err(|source| NetworkError::Step { step: "mark its namespace", source })?;
        netns::create(name).map_err(|source| NetworkError::Namespace { name: name.to_owned(), source })?;
        Ok(Namespace { name: name.to_owned(), mark })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        match netns::delete(&self.name) {
            Ok(()) => drop(std::fs::remove_file(&self.mark)),
            Err(error) => tracing::error!(%error, name = self.name, "network namespace cannot be removed"),
        }
    }
}

impl Network {
    /// Makes all of it, or leaves nothing.
    pub fn build(
        file: &HoneynetFile,
        folder: &std::path::Path,
        state: &State,
    ) -> Result<Network, NetworkError> {
        let step = |step: &'static str| move |source: io::Error| NetworkError::Step { step, source };
        let published = publish(file)?;
        let (profile, rules) = content(file, folder, state)?;
        let namespace = Namespace::make(&file.network.namespace, state)?;
        let gateway = file.network.gateway;
        let gateway_net = format!("{gateway}/{}", file.network.subnet.prefix_len());
        let tap = uplink::open_tap(&namespace.name, TAP_NAME, &gateway_net)?;
        netns::take_answers_back(&namespace.name, TAP_NAME)
            .map_err(|source| NetworkError::Namespace { name: namespace.name.clone(), source })?;
        let inside = |what: &'static str, made: Result<io::Result<_>, NetnsError>| match made {
            Ok(made) => made.map_err(step(what)),
            Err(source) => Err(NetworkError::Namespace { name: namespace.name.clone(), source }),
        };
        let listen = "listen for the guests' syslog";
        let syslog_tcp = netns::within(&namespace.name, || {
            TcpListener::bind((gateway, SYSLOG_TCP_PORT)).map(OwnedFd::from)
        });
        let syslog_tcp = TcpListener::from(inside(listen, syslog_tcp)?);
        let syslog_udp =
            netns::within(&namespace.name, || UdpSocket::bind((gateway, SYSLOG_UDP_PORT)).map(OwnedFd::from));
        let syslog_udp = UdpSocket::from(inside(listen, syslog_udp)?);
        let (uplinks, devices) = open_uplinks(file, state)?;
        Ok(Network {
            state: state.clone(),
            tap,
            uplinks,
            published,
            syslog_tcp,
            syslog_udp,
            gateway,
            home_net: file.network.subnet,
            promised: file.decoys.iter().map(|decoy| decoy.address).collect(),
            profile,
            rules,
            told: Mutex::default(),
            link: Mutex::default(),
            wanted: WantedChannel::default(),
            namespace: namespace.name.clone(),
            made: Mutex::new(Some(Made { namespace, devices })),
        })
    }

    /// An address for a machine that has none of its own outside: the highest of the subnet that is neither promised nor among these.
    pub fn free_address(&self, used: &[Ipv4Addr]) -> Option<Ipv4Addr> {
        let (first, last) = (u32::from(self.home_net.network()), u32::from(self.home_net.broadcast()));
        let free = |address: &Ipv4Addr| {
            *address != self.gateway && !self.promised.contains(address) && !used.contains(address)
        };
        (first + 1..last).rev().take(FREE_TRIES_MAX).map(Ipv4Addr::from).find(free)
    }

    /// Whether it may be a domain's.
    pub fn is_host(&self, address: Ipv4Addr) -> bool {
        let edges = [self.home_net.network(), self.home_net.broadcast(), self.gateway];
        self.home_net.contains(&address) && !edges.contains(&address)
    }

    /// Hangs up on netwatch, which is its sign to end.
    pub fn hang_up(&self) {
        *self.link() = Link::Away;
    }

    /// Takes namespace and devices out of the kernel.
    pub fn remove(&self) {
        if let Some(Made { namespace, devices }) =
            self.made.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            drop(devices);
            drop(namespace);
        }
    }

    fn config(
        &self,
        descriptors: &mut Descriptors,
        control: UnixStream,
        wanted: UnixStream,
    ) -> io::Result<NetwatchConfig> {
        let mut uplinks = vec![UplinkConfig {
            fd: descriptors.hand_copy(&self.tap)?,
            kind: UplinkKind::Gateway,
            mac: None,
        }];
        for uplink in &self.uplinks {
            let fd = descriptors.hand_copy(&uplink.socket)?;
            uplinks.push(UplinkConfig { fd, kind: UplinkKind::Interface, mac: uplink.mac.clone() });
        }
        let relay = |published: &Published| {
            let listen_fd = descriptors.hand_copy(&published.listener)?;
            Ok(RelayConfig { listen_fd, target: published.target, domain: published.decoy.clone() })
        };
        let relays = self.published.iter().map(relay).collect::<io::Result<_>>()?;
        let events = UnixStream::connect(self.state.events_socket()).ok();
        Ok(NetwatchConfig {
            netns: Some(self.namespace.clone()),
            control_fd: descriptors.hand(control),
            wanted_fd: Some(descriptors.hand(wanted)),
            events_fd: events.map(|socket| descriptors.hand(socket)),
            uplinks,
            relays,
            relay_source: RelaySource::Client,
            loghost: vec![self.gateway.into()],
            fence: fence(),
            profile: self.profile.clone(),
            rules: self.rules.clone(),
            home_net: self.home_net.to_string(),
            variables: Default::default(),
            capture: Some(CaptureConfig {
                folder: self.state.pcap(),
                file_bytes_max: CAPTURE_FILE_BYTES_MAX,
                files_max: CAPTURE_FILES_MAX,
                flow_bytes_max: CAPTURE_FLOW_BYTES_MAX,
            }),
            uid: Some(NETWATCH_UID),
        })
    }
}

/// The service that runs on this network.
pub struct Netwatch(pub Arc<Network>);

impl Service for Netwatch {
    fn role(&self) -> &'static str {
        "netwatch"
    }

    fn program(&self) -> io::Result<Program> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        ours.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let (wanted, wanted_theirs) = UnixStream::pair()?;
        let mut descriptors = Descriptors::default();
        let config = self.0.config(&mut descriptors, theirs, wanted_theirs)?;
        let mut program = Program::new(self.role(), &config, io::stderr().as_fd().try_clone_to_owned()?)?;
        program.descriptors = descriptors;
        self.0.wanted.listen(wanted)?;
        *self.0.link() = Link::new(ours);
        Ok(program)
    }

    fn started(&self) {
        self.0.tell_again();
    }
}

/// Removes the namespace that a supervisor left behind when it was killed. The caller holds the supervisor's lock.
pub fn remove_left_over(state: &State) -> Result<(), NetnsError> {
    let mark = state.run().join("netns");
    match std::fs::read_to_string(&mark) {
        Ok(name) if netns::exists(&name) => netns::delete(&name)?,
        _ => {}
    }
    let _ = std::fs::remove_file(&mark);
    devices::remove_left_over(state);
    cgroup::remove_left_over();
    Ok(())
}

fn publish(file: &HoneynetFile) -> Result<Vec<Published>, NetworkError> {
    let ports =
        file.decoys.iter().flat_map(|decoy| decoy.publish.iter().map(move |publish| (decoy, publish)));
    let bind = |(decoy, publish): (&honeynet_file::Decoy, &honeynet_file::Publish)| {
        let listener = TcpListener::bind(publish.listen).map_err(|source| NetworkError::Published {
            listen: publish.listen,
            port: publish.port,
            decoy: decoy.name.clone(),
            source,
        })?;
        let target = SocketAddr::from((decoy.address, publish.port));
        Ok(Published { listener, target, decoy: decoy.name.clone() })
    };
    ports.map(bind).collect()
}

/// The containment profile and the rule files, in order of their names.
fn content(
    file: &HoneynetFile,
    folder: &std::path::Path,
    state: &State,
) -> Result<(PathBuf, Vec<PathBuf>), NetworkError> {
    let step = |step: &'static str| move |source: io::Error| NetworkError::Step { step, source };
    let rules = folder.join(file.rules.as_deref().unwrap_or(std::path::Path::new("rules")));
    if !rules.is_dir() && file.rules.is_none() && file.network.containment == "replies-only" {
        tracing::warn!("there is no folder {}: no rules are loaded", rules.display());
        let profile = state.run().join("replies-only.toml");
        std::fs::write(&profile, PROFILE_DEFAULT).map_err(step("write its containment profile"))?;
        return Ok((profile, Vec::new()));
    }
    let profile = rules.join("containment").join(format!("{}.toml", file.network.containment));
    if !profile.is_file() {
        return Err(NetworkError::Profile { path: profile });
    }
    let entries = std::fs::read_dir(&rules).map_err(step("read its rules"))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rules"));
    files.sort();
    Ok((profile, files))
}

fn open_uplinks(file: &HoneynetFile, state: &State) -> Result<(Vec<RealUplink>, Devices), NetworkError> {
    // Within 13 bytes, and one honeynet's devices apart from another's.
    let short: String = file.network.namespace.chars().take(8).collect();
    let noting = |source| NetworkError::Step { step: "note a device that it makes", source };
    let mut devices = Devices::begin(state);
    let mut open = |spec: InterfaceSpec, index: usize, mac: Option<[u8; 6]>| {
        let device = format!("{short}-{index}");
        // An interface that was there before us stays.
        if !matches!(spec, InterfaceSpec::Interface(_)) {
            devices.note(&device).map_err(noting)?;
        }
        let socket = uplink::open_interface(&spec, &device, mac)?;
        Ok::<_, NetworkError>(RealUplink { socket, mac: mac.map(vif::format_mac) })
    };
    let uplinks = match &file.network.uplink {
        honeynet_file::Uplink::None => Vec::new(),
        honeynet_file::Uplink::Interface(name) => {
            vec![open(InterfaceSpec::Interface(name.clone()), 0, None)?]
        }
        honeynet_file::Uplink::Bridge(name) => vec![open(InterfaceSpec::Bridge(name.clone()), 0, None)?],
        honeynet_file::Uplink::Macvlan(name) => {
            let mut macvlan = |(index, decoy): (usize, &honeynet_file::Decoy)| {
                open(InterfaceSpec::Macvlan(name.clone()), index, Some(decoy.mac_bytes()))
            };
            file.decoys.iter().enumerate().map(&mut macvlan).collect::<Result<_, _>>()?
        }
    };
    Ok((uplinks, devices))
}

/// Where no decoy may get to: loopback, link-local, and every address of this host.
fn fence() -> Vec<pnet::ipnetwork::IpNetwork> {
    let mut fence: Vec<pnet::ipnetwork::IpNetwork> =
        ["127.0.0.0/8", "169.254.0.0/16", "::1/128"].iter().filter_map(|net| net.parse().ok()).collect();
    for interface in pnet::datalink::interfaces() {
        fence.extend(interface.ips.iter().map(|net| pnet::ipnetwork::IpNetwork::from(net.ip())));
    }
    fence
}
