//! Socket addresses as events have them (`pack_addr` and `fd_to_socktuple` of `driver/ppm_events.c` say the layouts): family in one byte,
//! addresses as they are sent, ports as numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::parameters::until_nul;
use crate::walk::sockets::Endpoint;

/// `PPM_AF_*` are Linux' numbers.
const UNIX: u8 = 1;
const INET: u8 = 2;
const INET6: u8 = 10;
/// Bytes of `sun_path`.
const UNIX_PATH_BYTES_MAX: usize = 108;

/// An address that a program gave or got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `AF_INET` and `AF_INET6`.
    Internet(Endpoint),
    /// `AF_UNIX`: its path, with `@` for the NUL of one that is in no file system.
    Unix(Vec<u8>),
}

/// Of a `struct sockaddr`; `None` for families that a capture does not know, and where bytes are missing.
pub fn parse(bytes: &[u8]) -> Option<Address> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    let port = || rest.first_chunk::<2>().map(|port| u16::from_be_bytes(*port));
    match u16::from_le_bytes(*family) {
        1 => Some(Address::Unix(unix_path(rest))),
        2 => {
            let address: [u8; 4] = *rest.get(2..)?.first_chunk()?;
            Some(Address::Internet(Endpoint { address: Ipv4Addr::from(address).into(), port: port()? }))
        }
        10 => {
            let address: [u8; 16] = *rest.get(6..)?.first_chunk()?;
            Some(Address::Internet(Endpoint { address: Ipv6Addr::from(address).into(), port: port()? }))
        }
        // What else there is has neither name nor tuple in a capture.
        _ => None,
    }
}

fn unix_path(path: &[u8]) -> Vec<u8> {
    match path.split_first() {
        Some((0, name)) => [b"@", until_nul(name, UNIX_PATH_BYTES_MAX)].concat(),
        _ => until_nul(path, UNIX_PATH_BYTES_MAX).to_vec(),
    }
}

/// `PT_SOCKADDR`.
pub fn sockaddr(address: &Address) -> Vec<u8> {
    match address {
        Address::Internet(end) => {
            let mut bytes = vec![family(end.address)];
            put(&mut bytes, end);
            bytes
        }
        Address::Unix(path) => [&[UNIX][..], path, &[0]].concat(),
    }
}

/// `PT_SOCKTUPLE`: who sends, who receives. For a Unix socket, two addresses in the kernel, which nobody sees, and the path.
pub fn tuple(source: &Address, destination: &Address) -> Vec<u8> {
    match (source, destination) {
        (Address::Internet(source), Address::Internet(destination)) => {
            let mut bytes = vec![family(destination.address)];
            put(&mut bytes, &alike(*source, destination.address));
            put(&mut bytes, destination);
            bytes
        }
        (Address::Unix(path), other) | (other, Address::Unix(path)) => {
            let path = match other {
                Address::Unix(longer) if path.is_empty() => longer,
                _ => path,
            };
            [&[UNIX][..], &[0; 16], path, &[0]].concat()
        }
    }
}

/// A socket of either family may talk to an IPv4 address; a tuple has one family.
fn alike(end: Endpoint, like: IpAddr) -> Endpoint {
    let address = match (end.address, like) {
        (IpAddr::V4(v4), IpAddr::V6(_)) => v4.to_ipv6_mapped().into(),
        (IpAddr::V6(v6), IpAddr::V4(_)) => v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        (same, _) => same,
    };
    Endpoint { address, ..end }
}

/// The one that is bound to nothing, of the family of `like`.
pub fn nowhere(like: &Address) -> Address {
    match like {
        Address::Internet(Endpoint { address: IpAddr::V4(_), .. }) => {
            Address::Internet(Endpoint { address: Ipv4Addr::UNSPECIFIED.into(), port: 0 })
        }
        Address::Internet(_) => {
            Address::Internet(Endpoint { address: Ipv6Addr::UNSPECIFIED.into(), port: 0 })
        }
        Address::Unix(_) => Address::Unix(Vec::new()),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

/// Address and port, one after the other.
pub fn put(bytes: &mut Vec<u8>, end: &Endpoint) {
    match end.address {
        IpAddr::V4(v4) => bytes.extend(v4.octets()),
        IpAddr::V6(v6) => bytes.extend(v6.octets()),
    }
    bytes.extend(end.port.to_le_bytes());
}
