//! One `struct sock`: whose it is, between which ends, in which state. What waits and what asks to be let in has only its first part.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use honeyvmm::memory::Gva;

use super::{Endpoint, Socket};
use crate::symbols::Symbols;
use crate::view::layout::{Field, Snapshot, Unknown, layout};
use crate::view::{Look, ViewError};
use crate::walk::WalkError;

/// Address families of `include/linux/socket.h`.
const UNIX: u64 = 1;
const INET: u64 = 2;
const INET6: u64 = 10;
const NETLINK: u64 = 16;
const PACKET: u64 = 17;
const VSOCK: u64 = 40;
/// `SOCK_RAW` of `include/linux/net.h`.
const RAW: u64 = 3;
/// Protocol numbers of IANA.
const ICMP: u64 = 1;
const TCP: u64 = 6;
const UDP: u64 = 17;
const ICMP6: u64 = 58;
const SCTP: u64 = 132;
const UDPLITE: u64 = 136;

/// `TCP_ESTABLISHED` and on of `include/net/tcp_states.h`, which other protocols use as well.
const STATES: [&str; 13] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "SYN_RECV",
];
const ESTABLISHED: u64 = 1;
const TIME_WAIT: u64 = 6;
const CLOSE: u64 = 7;
const LISTEN: u64 = 10;
const NEW_SYN_RECV: u64 = 12;

/// The longest name of a Unix socket: `sun_path` has 108 bytes.
const UNIX_NAME_BYTES_MAX: u64 = 108;
/// Bytes of the family before it.
const UNIX_FAMILY_BYTES: u64 = 2;

layout! {
    CommonLayout = "sock_common" {
        remote: "skc_daddr",
        local: "skc_rcv_saddr",
        remote_port: "skc_dport",
        local_port: "skc_num",
        family: "skc_family",
        state: "skc_state",
        remote6: "skc_v6_daddr",
        local6: "skc_v6_rcv_saddr",
    }
}

layout! {
    SockLayout = "sock" {
        queued: "sk_receive_queue.qlen",
        received_bytes: "sk_backlog.rmem_alloc",
        sent_bytes: "sk_wmem_alloc",
        socket_type: "sk_type",
        protocol: "sk_protocol",
        waiting: "sk_ack_backlog",
        socket: "sk_socket",
    }
}

layout! {
    TcpLayout = "tcp_sock" {
        to_receive: "rcv_nxt",
        read: "copied_seq",
        written: "write_seq",
        confirmed: "snd_una",
    }
}

layout! {
    UnixAddressLayout = "unix_address" {
        bytes: "len",
        name: "name",
    }
}

/// Where the parts of a `struct sock` are.
#[derive(Debug, Clone)]
pub(super) struct Sock {
    common: CommonLayout,
    sock: SockLayout,
    tcp: TcpLayout,
    /// What a connection waits for that is no full socket any more.
    waits_for: Field,
    unix_address_at: Field,
    unix_address: UnixAddressLayout,
    /// From a `struct socket` to its inode.
    inode: u64,
}

impl Sock {
    pub(super) fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        let alloc = |path, shown| Field::find(symbols, "socket_alloc", path, shown);
        let inode = alloc("vfs_inode.i_ino", "socket_alloc.vfs_inode.i_ino")?;
        let socket = alloc("socket", "socket_alloc.socket")?;
        Ok(Self {
            common: CommonLayout::of(symbols)?,
            sock: SockLayout::of(symbols)?,
            tcp: TcpLayout::of(symbols)?,
            waits_for: Field::find(
                symbols,
                "inet_timewait_sock",
                "tw_substate",
                "inet_timewait_sock.tw_substate",
            )?,
            unix_address_at: Field::find(symbols, "unix_sock", "addr", "unix_sock.addr")?,
            unix_address: UnixAddressLayout::of(symbols)?,
            inode: inode.offset.wrapping_sub(socket.offset),
        })
    }

    /// Reads a socket; who owns it is for the caller to say.
    pub(super) fn socket(&self, look: &Look<'_>, at: Gva) -> Result<Socket, WalkError> {
        let common = self.common.read(look, at)?;
        let (family, state) = (common.u64(self.common.family), common.u64(self.common.state));
        let (local, remote) = self.endpoints(&common, family);
        let mut socket = Socket {
            protocol: protocol_name(family, 0, TCP),
            local,
            remote,
            state: state_name(state),
            receive_queue: 0,
            send_queue: 0,
            inode: 0,
            path: None,
            owners: Vec::new(),
        };
        match (family, state) {
            (INET | INET6, TIME_WAIT) => {
                socket.state = state_name(look.u8(self.waits_for.of(at))?.into());
                return Ok(socket);
            }
            (INET | INET6, NEW_SYN_RECV) => return Ok(socket),
            _ => {}
        }
        let sock = self.sock.read(look, at)?;
        let protocol = sock.u64(self.sock.protocol);
        socket.protocol = protocol_name(family, sock.u64(self.sock.socket_type), protocol);
        socket.inode = match sock.target(self.sock.socket) {
            Some(file) => look.u64(Gva(file.0.wrapping_add(self.inode)))?,
            None => 0,
        };
        let is_internet = matches!(family, INET | INET6);
        (socket.receive_queue, socket.send_queue) = match (is_internet, protocol) {
            (true, TCP) => self.tcp_queues(look, &sock, state)?,
            // One reference is the socket's own.
            (true, _) => (
                sock.u64(self.sock.received_bytes),
                u64::from(sock.u32(self.sock.sent_bytes).saturating_sub(1)),
            ),
            (false, _) => (sock.u64(self.sock.queued), 0),
        };
        if family == UNIX {
            socket.path = self.unix_name(look, at)?;
        }
        if !matches!((is_internet, protocol, family), (true, TCP, _) | (_, _, UNIX)) && state != ESTABLISHED {
            socket.state = "";
        }
        if family == UNIX && state == CLOSE {
            socket.state = "";
        }
        Ok(socket)
    }

    fn endpoints(&self, common: &Snapshot, family: u64) -> (Option<Endpoint>, Option<Endpoint>) {
        let layout = &self.common;
        let (local, remote) = match family {
            INET => (v4(common.bytes(layout.local)), v4(common.bytes(layout.remote))),
            INET6 => (v6(common.bytes(layout.local6)), v6(common.bytes(layout.remote6))),
            _ => return (None, None),
        };
        // The local port is kept as a number, the other one as it is sent.
        let local_port = common.u32(layout.local_port) as u16;
        let remote_port = u16::from_be(common.u32(layout.remote_port) as u16);
        let end = |address: Option<IpAddr>, port| address.map(|address| Endpoint { address, port });
        (end(local, local_port), end(remote, remote_port))
    }

    /// As `get_tcp4_sock` of `net/ipv4/tcp_ipv4.c`.
    fn tcp_queues(&self, look: &Look<'_>, sock: &Snapshot, state: u64) -> Result<(u64, u64), WalkError> {
        if state == LISTEN {
            return Ok((sock.u64(self.sock.waiting), 0));
        }
        let tcp = self.tcp.read(look, sock.at)?;
        let between = |to, from| tcp.u32(to).wrapping_sub(tcp.u32(from));
        let received = between(self.tcp.to_receive, self.tcp.read) as i32;
        Ok((received.max(0) as u64, between(self.tcp.written, self.tcp.confirmed).into()))
    }

    fn unix_name(&self, look: &Look<'_>, at: Gva) -> Result<Option<String>, WalkError> {
        let address = look.pointer(self.unix_address_at.of(at))?;
        if address.0 == 0 {
            return Ok(None);
        }
        let bytes = look.u32(self.unix_address.bytes.of(address))?;
        let bytes = u64::from(bytes).saturating_sub(UNIX_FAMILY_BYTES);
        let name_at = Gva(self.unix_address.name.of(address).0.wrapping_add(UNIX_FAMILY_BYTES));
        if bytes > UNIX_NAME_BYTES_MAX {
            return Err(ViewError::TooLong { at: name_at, bytes }.into());
        }
        let name = look.bytes(name_at, bytes)?;
        // A name in a file system ends with a NUL; one in none begins with it, and may hold more of them.
        let name = match name.split_first() {
            Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest).replace('\0', "@")),
            _ => String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned(),
        };
        Ok(Some(name).filter(|name| !name.is_empty()))
    }
}

fn state_name(state: u64) -> &'static str {
    STATES.get(state as usize).copied().unwrap_or("unknown")
}

fn v4(bytes: &[u8]) -> Option<IpAddr> {
    bytes.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into())
}

fn v6(bytes: &[u8]) -> Option<IpAddr> {
    bytes.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into())
}

fn protocol_name(family: u64, socket_type: u64, protocol: u64) -> &'static str {
    match (family, socket_type, protocol) {
        (UNIX, _, _) => "unix",
        (INET, RAW, _) => "raw",
        (INET6, RAW, _) => "raw6",
        (INET, _, TCP) => "tcp",
        (INET6, _, TCP) => "tcp6",
        (INET, _, UDP) => "udp",
        (INET6, _, UDP) => "udp6",
        (INET, _, UDPLITE) => "udplite",
        (INET6, _, UDPLITE) => "udplite6",
        (INET, _, ICMP) => "icmp",
        (INET6, _, ICMP6) => "icmp6",
        (INET, _, SCTP) => "sctp",
        (INET6, _, SCTP) => "sctp6",
        (INET, _, _) => "inet",
        (INET6, _, _) => "inet6",
        (NETLINK, _, _) => "netlink",
        (PACKET, _, _) => "packet",
        (VSOCK, _, _) => "vsock",
        _ => "other",
    }
}
