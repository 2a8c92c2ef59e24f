//! Community ID, version 1, seed 0: the hash by which Zeek, Suricata and we name the same flow
//! (github.com/corelight/community-id-spec).

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::packet::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};

/// Who talks to whom. For ICMP the ports are type and code of the first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port or ICMP type.
    pub source_port: u16,
    /// Destination port or ICMP code.
    pub destination_port: u16,
}

/// The community id of a flow: the same for both directions of it.
pub fn community_id(flow: &Endpoints) -> String {
    let (source_port, destination_port, one_way) = hashed_ports(flow);
    let mut low = (address_bytes(flow.source), source_port);
    let mut high = (address_bytes(flow.destination), destination_port);
    if !one_way && high < low {
        std::mem::swap(&mut low, &mut high);
    }
    let mut hash = Sha1::new();
    hash.update([0, 0]);
    hash.update(&low.0);
    hash.update(&high.0);
    hash.update([flow.protocol, 0]);
    hash.update(low.1.to_be_bytes());
    hash.update(high.1.to_be_bytes());
    format!("1:{}", STANDARD.encode(hash.finalize()))
}

/// For ICMP the spec puts the type and its counterpart in the ports' place; a type that has no answer is one way, with
/// its code as second port.
fn hashed_ports(flow: &Endpoints) -> (u16, u16, bool) {
    let pairs: &[(u16, u16)] = match flow.protocol {
        PROTOCOL_ICMP => &[(8, 0), (13, 14), (15, 16), (10, 9), (17, 18)],
        PROTOCOL_ICMPV6 => &[(128, 129), (133, 134), (135, 136), (130, 131), (144, 145), (139, 140)],
        _ => return (flow.source_port, flow.destination_port, false),
    };
    let kind = flow.source_port;
    for &(request, answer) in pairs {
        if kind == request {
            return (kind, answer, false);
        }
        if kind == answer {
            return (kind, request, false);
        }
    }
    (kind, flow.destination_port, true)
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(source: &str, destination: &str, protocol: u8, ports: (u16, u16)) -> String {
        community_id(&Endpoints {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            source_port: ports.0,
            destination_port: ports.1,
        })
    }

    // Values of the reference implementation's baseline.
    #[test]
    fn ids_are_those_of_the_reference_implementation() {
        let tcp = "1:LQU9qZlK+B5F3KDmev6m5PMibrg=";
        assert_eq!(id("128.232.110.120", "66.35.250.204", 6, (34855, 80)), tcp);
        assert_eq!(id("66.35.250.204", "128.232.110.120", 6, (80, 34855)), tcp);
        assert_eq!(id("192.168.1.52", "8.8.8.8", 17, (54585, 53)), "1:d/FP5EW3wiY1vCndhwleRRKHowQ=");
        assert_eq!(id("192.168.0.89", "192.168.0.1", 1, (8, 0)), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk=");
    }

    #[test]
    fn echo_and_its_reply_have_the_same_id() {
        assert_eq!(id("10.0.0.1", "10.0.0.2", 1, (8, 0)), id("10.0.0.2", "10.0.0.1", 1, (0, 0)));
    }
}
