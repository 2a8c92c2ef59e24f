//! Tests of a packet's headers and of its flow.

use super::flow::Flow;
use super::rule::{FlowTest, Header, HeaderTest, NumberTest, Sender};
use crate::packet::{Icmp, Ip, Packet, Transport};

/// Whether the rule's header means this packet.
pub fn header_matches(header: &Header, ip: &Ip, (source_port, destination_port): (u16, u16)) -> bool {
    let one_way = |source, source_port, destination, destination_port| {
        header.destination_port.contains(destination_port)
            && header.source_port.contains(source_port)
            && header.destination.contains(destination)
            && header.source.contains(source)
    };
    header.protocol.contains(ip)
        && (one_way(ip.source, source_port, ip.destination, destination_port)
            || (header.bidirectional && one_way(ip.destination, destination_port, ip.source, source_port)))
}

/// Whether the packet's flow is as the rule wants it.
pub fn flow_matches(test: &FlowTest, flow: &Flow, sender: Sender) -> bool {
    let established = |wanted: bool| flow.tuple.proto != "TCP" || flow.is_established() == wanted;
    test.sender.is_none_or(|wanted| wanted == sender) && test.established.is_none_or(established)
}

/// Whether one header test passes.
pub fn test_matches(test: &HeaderTest, packet: &Packet<'_>, ip: &Ip) -> bool {
    let tcp = packet.layers.tcp();
    let icmp = icmp(packet);
    let number = |test: &NumberTest, value: Option<u32>| value.is_some_and(|value| test.matches(value));
    match test {
        HeaderTest::Flags(test) => tcp.is_some_and(|tcp| test.matches(tcp.flags)),
        HeaderTest::PayloadSize(test) => number(test, u32::try_from(packet.payload().len()).ok()),
        HeaderTest::IcmpType(test) => number(test, icmp.map(|icmp| icmp.kind.into())),
        HeaderTest::IcmpCode(test) => number(test, icmp.map(|icmp| icmp.code.into())),
        HeaderTest::IcmpId(test) => number(test, icmp.map(|icmp| icmp.identifier.into())),
        HeaderTest::IcmpSequence(test) => number(test, icmp.map(|icmp| icmp.sequence.into())),
        HeaderTest::Ttl(test) => test.matches(ip.ttl.into()),
        HeaderTest::Tos(test) => test.matches(ip.tos.into()),
        HeaderTest::Identification(test) => test.matches(ip.identification),
        HeaderTest::Protocol(test) => test.matches(ip.protocol.into()),
        HeaderTest::FragmentBits(test) => {
            test.matches(u8::from(ip.more_fragments) | u8::from(ip.dont_fragment) << 1)
        }
        HeaderTest::FragmentOffset(test) => test.matches(ip.fragment_offset / 8),
        HeaderTest::Sequence(test) => number(test, tcp.map(|tcp| tcp.sequence)),
        HeaderTest::Acknowledgment(test) => number(test, tcp.map(|tcp| tcp.acknowledgment)),
        HeaderTest::Window(test) => number(test, tcp.map(|tcp| tcp.window.into())),
        HeaderTest::SameAddress => ip.source == ip.destination,
        HeaderTest::IpOption(kind) => {
            has_ip_option(packet.frame.get(ip.options.clone()).unwrap_or_default(), *kind)
        }
    }
}

fn icmp<'a>(packet: &'a Packet<'_>) -> Option<&'a Icmp> {
    match &packet.layers.transport {
        Some(Transport::Icmp(icmp) | Transport::Icmpv6(icmp)) => Some(icmp),
        Some(Transport::Tcp(_) | Transport::Udp(_)) | None => None,
    }
}

/// Walks IPv4 options (RFC 791, 3.1); each step takes at least one of the 40 bytes.
fn has_ip_option(mut options: &[u8], wanted: Option<u8>) -> bool {
    while let Some((&kind, rest)) = options.split_first() {
        if wanted.is_none_or(|wanted| wanted == kind) {
            return true;
        }
        let used = match kind {
            0 => return false,
            1 => 1,
            _ => usize::from(rest.first().copied().unwrap_or(0)).max(2),
        };
        options = options.get(used..).unwrap_or_default();
    }
    false
}
