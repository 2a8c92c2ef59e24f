//! Opening uplinks, as root, before privileges go: TAP devices (tun(4)) and packet sockets (packet(7)).

use std::ffi::c_int;
use std::fs::OpenOptions;
use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::str::FromStr;

use super::VNET_HEADER_BYTES;
use crate::netns::{self, NetnsError, ip};
use crate::packet::Mac;

/// Kernel's limit for interface names, without the closing zero.
const NAME_BYTES_MAX: usize = 15;
const TUN_DEVICE: &str = "/dev/net/tun";
// linux/if_tun.h: frames may come with checksums undone and as TCP of up to 64 KiB over either IP.
const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
// linux/if_packet.h
const PACKET_VNET_HDR: c_int = 15;
const PACKET_IGNORE_OUTGOING: c_int = 23;
/// Room for a few hundred full frames while the switch is busy elsewhere.
const SOCKET_BUFFER_BYTES: c_int = 8 << 20;

/// Why an uplink cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// Too long, empty, or with a slash or space.
    #[error("not an interface name: {0:?}")]
    Name(String),
    /// Not `interface:NAME`, `bridge:NAME` or `macvlan:NAME`.
    #[error("uplink {0:?} is none of interface:NAME, bridge:NAME, macvlan:NAME")]
    Spec(String),
    /// The named interface does not exist.
    #[error("no interface {0}")]
    NoInterface(String),
    /// The namespace or `ip` refused.
    #[error("uplink {name} cannot be set up")]
    Netns {
        /// Of the device.
        name: String,
        /// Why.
        source: NetnsError,
    },
    /// A system call refused.
    #[error("{call} for {name} failed")]
    Call {
        /// Of the device.
        name: String,
        /// Which call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A real network, as honeynet.toml names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceSpec {
    /// The switch listens on this interface itself.
    Interface(String),
    /// A veth pair is made, one end of it enslaved to this bridge.
    Bridge(String),
    /// A macvlan device on this parent for each decoy, with the decoy's MAC.
    Macvlan(String),
}

impl FromStr for InterfaceSpec {
    type Err = UplinkError;

    fn from_str(text: &str) -> Result<InterfaceSpec, UplinkError> {
        let (kind, name) = text.split_once(':').ok_or_else(|| UplinkError::Spec(text.to_owned()))?;
        check_name(name)?;
        match kind {
            "interface" => Ok(InterfaceSpec::Interface(name.to_owned())),
            "bridge" => Ok(InterfaceSpec::Bridge(name.to_owned())),
            "macvlan" => Ok(InterfaceSpec::Macvlan(name.to_owned())),
            _ => Err(UplinkError::Spec(text.to_owned())),
        }
    }
}

/// Makes a TAP inside a named namespace, gives it the gateway's address (`10.77.0.1/24`) and brings it up. The device
/// lives as long as the descriptor. Its MAC follows from the address: a guest that goes on later, or on another host, knows its gateway by it.
pub fn open_tap(namespace: &str, name: &str, gateway: &str) -> Result<OwnedFd, UplinkError> {
    check_name(name)?;
    let netns_error = |source| UplinkError::Netns { name: name.to_owned(), source };
    let tap = netns::within(namespace, || create_tap(name)).map_err(netns_error)??;
    ip(&["-n", namespace, "link", "set", name, "address", &mac_of(gateway)]).map_err(netns_error)?;
    ip(&["-n", namespace, "address", "add", gateway, "dev", name]).map_err(netns_error)?;
    ip(&["-n", namespace, "link", "set", name, "up"]).map_err(netns_error)?;
    Ok(tap)
}

/// Xen's prefix, and the half of its numbers that no decoy gets by itself.
fn mac_of(gateway: &str) -> String {
    let address = gateway.split('/').next().and_then(|address| address.parse::<Ipv4Addr>().ok());
    let [_, a, b, c] = address.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    format!("00:16:3e:{:02x}:{b:02x}:{c:02x}", a | 0x80)
}

/// Opens a real network in the namespace of the calling thread. `device` names the veth or macvlan that is made where
/// the spec needs one (at most 13 bytes; unused for `interface`); `mac` is the decoy's, for macvlan. A device that was
/// made is removed with `remove_interface`.
pub fn open_interface(spec: &InterfaceSpec, device: &str, mac: Option<Mac>) -> Result<OwnedFd, UplinkError> {
    check_name(device)?;
    let netns_error = |source| UplinkError::Netns { name: device.to_owned(), source };
    match spec {
        InterfaceSpec::Interface(name) => open_packet_socket(name),
        InterfaceSpec::Bridge(bridge) => {
            let peer = format!("{device}-b");
            check_name(&peer)?;
            ip(&["link", "add", device, "type", "veth", "peer", "name", &peer]).map_err(netns_error)?;
            let joined = ip(&["link", "set", &peer, "master", bridge, "up"])
                .and_then(|()| ip(&["link", "set", device, "up"]));
            joined.map_err(netns_error).and_then(|()| open_packet_socket(device)).inspect_err(|_| {
                let _ = remove_interface(device);
            })
        }
        InterfaceSpec::Macvlan(parent) => {
            let mut arguments = vec!["link", "add", "link", parent, "name", device];
            let mac = mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
            if let Some(mac) = &mac {
                arguments.extend(["address", mac]);
            }
            arguments.extend(["type", "macvlan", "mode", "bridge"]);
            ip(&arguments).map_err(netns_error)?;
            let up = ip(&["link", "set", device, "up"]).map_err(netns_error);
            up.and_then(|()| open_packet_socket(device)).inspect_err(|_| {
                let _ = remove_interface(device);
            })
        }
    }
}

/// Removes a veth or macvlan that `open_interface` made.
pub fn remove_interface(device: &str) -> Result<(), UplinkError> {
    ip(&["link", "delete", device]).map_err(|source| UplinkError::Netns { name: device.to_owned(), source })
}

fn check_name(name: &str) -> Result<(), UplinkError> {
    let is_fit = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    if is_fit { Ok(()) } else { Err(UplinkError::Name(name.to_owned())) }
}

fn create_tap(name: &str) -> Result<OwnedFd, UplinkError> {
    let error = |call: &'static str, source| UplinkError::Call { name: name.to_owned(), call, source };
    let tun = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(TUN_DEVICE)
        .map_err(|source| error("open of /dev/net/tun", source))?;
    // SAFETY: ifreq is plain numbers; all zeros is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (byte, place) in name.bytes().zip(request.ifr_name.iter_mut()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
    let made = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(made).map_err(|source| error("TUNSETIFF", source))?;
    let header_bytes = VNET_HEADER_BYTES as c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives through the call.
    let sized = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header_bytes) };
    check(sized).map_err(|source| error("TUNSETVNETHDRSZ", source))?;
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let offload =
        unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) };
    check(offload).map_err(|source| error("TUNSETOFFLOAD", source))?;
    Ok(tun.into())
}

/// A raw socket on an interface: everything that arrives there, nothing of what the host itself sends through it.
fn open_packet_socket(name: &str) -> Result<OwnedFd, UplinkError> {
    let error = |call: &'static str, source| UplinkError::Call { name: name.to_owned(), call, source };
    let index = interface_index(name)?;
    // Protocol 0: nothing arrives before the socket is bound to its interface.
    // SAFETY: socket takes plain numbers.
    let raw = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    };
    check(raw).map_err(|source| error("socket", source))?;
    // SAFETY: the call above succeeded, and nobody else has the descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    set_option(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, &1)
        .map_err(|source| error("PACKET_VNET_HDR", source))?;
    set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)
        .map_err(|source| error("PACKET_IGNORE_OUTGOING", source))?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &SOCKET_BUFFER_BYTES)
        .map_err(|source| error("SO_RCVBUFFORCE", source))?;
    let membership = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
        .map_err(|source| error("PACKET_ADD_MEMBERSHIP", source))?;
    bind(&socket, index).map_err(|source| error("bind", source))?;
    Ok(socket)
}

fn interface_index(name: &str) -> Result<c_int, UplinkError> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::DGRAM, None)
        .map_err(|error| UplinkError::Call { name: name.to_owned(), call: "socket", source: error.into() })?;
    let index = rustix::net::netdevice::name_to_index(&socket, name)
        .map_err(|_| UplinkError::NoInterface(name.to_owned()))?;
    Ok(index as c_int)
}

fn bind(socket: &OwnedFd, index: c_int) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain numbers; all zeros is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: bind reads `len` bytes of the address, which is that long and lives through the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })
}

/// Every option used here is a plain struct or an int.
fn set_option<T>(socket: &OwnedFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: setsockopt reads `len` bytes of the value, which is that long and lives through the call.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), len)
    })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
