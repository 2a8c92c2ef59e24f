//! With which address a relay speaks to a decoy: the client's own, so that the decoy sees who really comes and a pool can
//! tell its sources apart.
//!
//! The address is bound although it is not this namespace's (IP_TRANSPARENT, ip(7)); `netns::take_answers_back` brings
//! the decoy's answers to the socket. Clients that a decoy could not answer, or not by way of the relay, come with the
//! gateway's address: those of this host (all its local users are one source then), those behind the fence, those of the
//! decoys' own network, and IPv6.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use pnet::ipnetwork::IpNetwork;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt::socket_error,
};

/// Which clients are seen by the decoys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// None: the decoys see the gateway.
    Gateway,
    /// All but those of these networks.
    Clients {
        /// The fence and the decoys' own network.
        but: Vec<IpNetwork>,
    },
}

impl Sources {
    /// The address to speak with for this client; `None` for the gateway's.
    pub fn of(&self, client: IpAddr) -> Option<Ipv4Addr> {
        let Sources::Clients { but } = self else { return None };
        // A client of a listener for both IPs has an IPv4 address in IPv6's clothes.
        let IpAddr::V4(address) = client.to_canonical() else { return None };
        let is_station = !(address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_link_local());
        let is_free = !but.iter().any(|network| network.contains(IpAddr::V4(address)));
        (is_station && is_free).then_some(address)
    }
}

/// Connects to a decoy, from the client's address where there is one.
pub(super) fn connect_from(
    source: Option<Ipv4Addr>,
    target: SocketAddr,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let Some(source) = source.filter(|_| target.is_ipv4()) else {
        return TcpStream::connect_timeout(&target, timeout);
    };
    match open_at(source) {
        Ok(socket) => finish(socket, target, timeout),
        Err(error) => {
            // The decoy is reached all the same; who came is in the event.
            tracing::warn!(%error, %source, "a client's address cannot be used towards a decoy");
            TcpStream::connect_timeout(&target, timeout)
        }
    }
}

/// A socket with a foreign address and a port that the kernel chooses.
fn open_at(source: Ipv4Addr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    setsockopt(&socket, sockopt::IpTransparent, &true)?;
    bind(&socket, &SocketAddr::from((source, 0)))?;
    Ok(socket)
}

fn finish(socket: OwnedFd, target: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let until = Instant::now() + timeout;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    socket_error(&socket)??;
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_a_decoy_cannot_answer_comes_as_the_gateway() {
        let but = ["198.51.100.9/32", "10.77.0.0/24", "127.0.0.0/8"];
        let sources = Sources::Clients { but: but.iter().map(|network| network.parse().unwrap()).collect() };
        let table = [
            ("192.0.2.7", Some("192.0.2.7")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("10.78.0.5", Some("10.78.0.5")),
            ("198.51.100.9", None),
            ("::ffff:198.51.100.9", None),
            ("10.77.0.5", None),
            ("127.0.0.1", None),
            ("169.254.1.1", None),
            ("0.0.0.0", None),
            ("2001:db8::1", None),
        ];
        for (client, expected) in table {
            let expected = expected.map(|address| address.parse::<Ipv4Addr>().unwrap());
            assert_eq!(sources.of(client.parse().unwrap()), expected, "{client}");
            assert_eq!(Sources::Gateway.of(client.parse().unwrap()), None);
        }
    }
}
