//! Where a connection comes from: a `struct sockaddr` of either internet family.

use std::net::{IpAddr, Ipv6Addr};

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address; IPv4 is never written as IPv6.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

impl Peer {
    /// Parses what a call was given or gave.
    pub fn parse(bytes: &[u8]) -> Option<Peer> {
        let family = u16::from_le_bytes(*bytes.first_chunk()?);
        let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
        let address = match family {
            2 => IpAddr::from(*bytes.get(4..)?.first_chunk::<4>()?),
            10 => Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?).to_canonical(),
            _ => return None,
        };
        Some(Peer { address, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_read_and_others_are_none() {
        let four = Peer::parse(&[2, 0, 0, 22, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!((four.address.to_string(), four.port), ("10.0.0.1".to_owned(), 22));
        let mut mapped = [0; 28];
        mapped[0] = 10;
        mapped[18..20].fill(0xff);
        mapped[20..24].copy_from_slice(&[10, 0, 0, 2]);
        assert_eq!(Peer::parse(&mapped).unwrap().address.to_string(), "10.0.0.2");
        for wrong in [&[][..], &[2, 0, 0], &[1, 0, b'/', b'x'], &[2, 0, 0, 22, 10, 0, 0]] {
            assert_eq!(Peer::parse(wrong), None);
        }
    }
}
