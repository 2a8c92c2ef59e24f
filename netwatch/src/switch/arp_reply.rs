//! ARP (RFC 826) that the switch itself sends: the answer for an address that it keeps for a pool, and the announcement of one that has come.

use std::net::Ipv4Addr;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};

use crate::packet::{Arp, Mac};

/// Smallest Ethernet frame without its checksum (IEEE 802.3, 4.4.2).
const FRAME_BYTES_MIN: usize = 60;
const BROADCAST: Mac = [0xff; 6];

/// Says to who asked that `address` is at `mac`.
pub(super) fn to(request: &Arp, mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let asker = (request.sender_mac, request.sender_address);
    frame(ArpOperation::REPLY, (mac, address), asker, request.sender_mac)
}

/// Says to all that `address` is at `mac` (RFC 5227, section 2.3: a request for it by who has it).
pub(super) fn announcement(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    frame(ArpOperation::REQUEST, (mac, address), ([0; 6], address), BROADCAST)
}

fn frame(
    operation: ArpOperation,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
    destination: Mac,
) -> Vec<u8> {
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    );
    let mut frame = Vec::with_capacity(FRAME_BYTES_MIN);
    // Writing to memory does not fail, and the lengths of the addresses are right by their types.
    if let Ok(arp) = arp {
        let _ = PacketBuilder::ethernet2(sender.0, destination).arp(arp).write(&mut frame);
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

    #[test]
    fn an_announcement_asks_all_for_its_own_address() {
        let address = Ipv4Addr::new(10, 77, 0, 20);
        let frame = announcement([4; 6], address);
        let layers = Layers::decode(&frame);
        assert_eq!((layers.source_mac, layers.destination_mac, frame.len()), ([4; 6], [0xff; 6], 60));
        let expected =
            Arp { operation: 1, sender_mac: [4; 6], sender_address: address, target_address: address };
        assert_eq!(layers.network, Some(Network::Arp(expected)));
    }
}
