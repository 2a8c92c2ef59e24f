//! The switch's own answer to an ARP request (RFC 826) for an address that it keeps for a pool.

use std::net::Ipv4Addr;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};

use crate::packet::{Arp, Mac};

/// Smallest Ethernet frame without its checksum (IEEE 802.3, 4.4.2).
const FRAME_BYTES_MIN: usize = 60;

/// Says to who asked that `address` is at `mac`.
pub(super) fn to(request: &Arp, mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let reply = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REPLY,
        &mac,
        &address.octets(),
        &request.sender_mac,
        &request.sender_address.octets(),
    );
    let mut frame = Vec::with_capacity(FRAME_BYTES_MIN);
    // Writing to memory does not fail, and the lengths of the addresses are right by their types.
    if let Ok(reply) = reply {
        let _ = PacketBuilder::ethernet2(mac, request.sender_mac).arp(reply).write(&mut frame);
    }
    frame.resize(frame.len().max(FRAME_BYTES_MIN), 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Layers, Network};

    #[test]
    fn the_answer_goes_to_who_asked_and_names_the_pool() {
        let request = Arp {
            operation: 1,
            sender_mac: [2; 6],
            sender_address: Ipv4Addr::new(192, 0, 2, 1),
            target_address: Ipv4Addr::new(10, 77, 0, 20),
        };
        let frame = to(&request, [4; 6], request.target_address);
        let layers = Layers::decode(&frame);
        assert_eq!((layers.source_mac, layers.destination_mac, frame.len()), ([4; 6], [2; 6], 60));
        let expected = Arp {
            operation: 2,
            sender_mac: [4; 6],
            sender_address: request.target_address,
            target_address: request.sender_address,
        };
        assert_eq!(layers.network, Some(Network::Arp(expected)));
    }
}
