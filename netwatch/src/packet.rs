//! One frame, decoded: Ethernet, VLAN, ARP, IPv4 and IPv6 with extensions, TCP, UDP, ICMP and ICMPv6 as plain fields.
//!
//! Decoding never fails: what could be read is there, and `Layers::malformed` names the layer that could not be.
//! Checksums are not verified: a frame between a domain and the switch may carry one that is yet to be filled in.
//! Fragments are not put together; `Transport` is absent in all of them.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use etherparse::err::Layer;
use etherparse::{
    IpNumber, Ipv6FragmentHeaderSlice, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice,
    TransportSlice, ip_number,
};

#[cfg(test)]
mod tests;

/// IANA number of ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// IANA number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IANA number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// IANA number of ICMPv6.
pub const PROTOCOL_ICMPV6: u8 = 58;

/// A hardware address.
pub type Mac = [u8; 6];

/// Which way a frame goes, seen from the decoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Somebody sent it to a decoy.
    ToDecoy,
    /// A decoy sent it. A frame from one decoy to another is judged in this direction.
    FromDecoy,
}

/// A frame, when it was seen, and what it says.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    /// Microseconds since the Unix epoch.
    pub time_us: u64,
    /// The whole frame from the destination MAC on. May be a segmentation-offload frame of up to 64 KiB.
    pub frame: &'a [u8],
    /// What was decoded.
    pub layers: Layers,
}

/// The headers of a frame. Every range is an index into the frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// Sender's MAC.
    pub source_mac: Mac,
    /// Receiver's MAC.
    pub destination_mac: Mac,
    /// Identifier of the outermost VLAN tag.
    pub vlan: Option<u16>,
    /// EtherType of the innermost header of the link layer.
    pub ether_type: u16,
    /// ARP or IP.
    pub network: Option<Network>,
    /// What IP carries. Absent in fragments and in protocols that are not decoded.
    pub transport: Option<Transport>,
    /// What follows the innermost decoded header. Padding behind the IP packet is not part of it.
    pub payload: Range<usize>,
    /// The layer that breaks its own specification, if one does.
    pub malformed: Option<Malformed>,
}

/// The network layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
    /// IPv4 or IPv6.
    Ip(Ip),
}

/// ARP, RFC 826.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// Sender hardware address.
    pub sender_mac: Mac,
    /// Sender protocol address.
    pub sender_address: Ipv4Addr,
    /// Target protocol address.
    pub target_address: Ipv4Addr,
}

/// IPv4 or IPv6, extensions included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// What is carried, behind all extension headers.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Identification of the packet (IPv4) or of the fragment (IPv6, 0 where there is no fragment header).
    pub identification: u32,
    /// The don't-fragment flag (IPv4).
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Offset of this fragment in bytes.
    pub fragment_offset: u32,
    /// The header with its options or extensions.
    pub header: Range<usize>,
    /// IPv4 options, without the fixed header.
    pub options: Range<usize>,
    /// What IP carries: the transport header and its data.
    pub payload: Range<usize>,
}

impl Ip {
    /// True where this is a part of a packet.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }
}

/// The transport layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// TCP, RFC 9293.
    Tcp(Tcp),
    /// UDP, RFC 768.
    Udp(Udp),
    /// ICMP, RFC 792.
    Icmp(Icmp),
    /// ICMPv6, RFC 4443.
    Icmpv6(Icmp),
}

/// A TCP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// CWR ECE URG ACK PSH RST SYN FIN, from bit 7 to bit 0, as in octet 13 of the header.
    pub flags: u8,
    /// Window, not scaled.
    pub window: u16,
    /// The options.
    pub options: Range<usize>,
}

impl Tcp {
    /// FIN in `flags`.
    pub const FIN: u8 = 0x01;
    /// SYN in `flags`.
    pub const SYN: u8 = 0x02;
    /// RST in `flags`.
    pub const RST: u8 = 0x04;
    /// PSH in `flags`.
    pub const PSH: u8 = 0x08;
    /// ACK in `flags`.
    pub const ACK: u8 = 0x10;
    /// URG in `flags`.
    pub const URG: u8 = 0x20;
}

/// A UDP header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

/// The first eight octets of ICMP or ICMPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Octets 5 and 6: the identifier of an echo.
    pub identifier: u16,
    /// Octets 7 and 8: the sequence number of an echo.
    pub sequence: u16,
}

/// The layer that cannot be what it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// Shorter than an Ethernet header.
    #[error("ethernet header is cut off")]
    Ethernet,
    /// A VLAN or MACsec tag is cut off.
    #[error("vlan tag is cut off")]
    Tag,
    /// ARP is cut off, or not of IPv4 over Ethernet.
    #[error("arp is not of ipv4 over ethernet")]
    Arp,
    /// Bad version, header length, or cut off.
    #[error("ip header is bad")]
    IpHeader,
    /// The packet is longer than the frame, or shorter than its header.
    #[error("ip length is not the frame's")]
    IpLength,
    /// An extension header is bad or there are too many.
    #[error("ip extension header is bad")]
    IpExtension,
    /// TCP is cut off or has a bad data offset.
    #[error("tcp header is bad")]
    Tcp,
    /// UDP is cut off or its length is not the packet's.
    #[error("udp header is bad")]
    Udp,
    /// ICMP or ICMPv6 is cut off.
    #[error("icmp header is bad")]
    Icmp,
}

impl<'a> Packet<'a> {
    /// Decodes a frame that was seen at this time.
    pub fn decode(frame: &'a [u8], time_us: u64) -> Packet<'a> {
        Packet { time_us, frame, layers: Layers::decode(frame) }
    }

    /// What follows the innermost decoded header.
    pub fn payload(&self) -> &'a [u8] {
        self.frame.get(self.layers.payload.clone()).unwrap_or_default()
    }
}

impl Layers {
    /// Decodes a frame.
    pub fn decode(frame: &[u8]) -> Layers {
        let Ok(sliced) = LaxSlicedPacket::from_ethernet(frame) else {
            return Layers {
                payload: 0..frame.len(),
                malformed: Some(Malformed::Ethernet),
                ..Layers::default()
            };
        };
        let mut layers = Layers::default();
        layers.read_link(frame, &sliced);
        match &sliced.net {
            Some(net) => layers.read_network(frame, net),
            None => layers.malformed = layers.malformed_ether_payload(),
        }
        if let Some(transport) = &sliced.transport {
            layers.read_transport(frame, transport);
        }
        if let Some((_, layer)) = &sliced.stop_err {
            layers.malformed = layers.malformed.or(Some(Malformed::of(*layer)));
        }
        layers
    }

    /// The IP header, if there is one.
    pub fn ip(&self) -> Option<&Ip> {
        match &self.network {
            Some(Network::Ip(ip)) => Some(ip),
            Some(Network::Arp(_)) | None => None,
        }
    }

    /// The TCP header, if there is one.
    pub fn tcp(&self) -> Option<&Tcp> {
        match &self.transport {
            Some(Transport::Tcp(tcp)) => Some(tcp),
            _ => None,
        }
    }

    /// Source and destination port of TCP and UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match &self.transport {
            Some(Transport::Tcp(tcp)) => Some((tcp.source_port, tcp.destination_port)),
            Some(Transport::Udp(udp)) => Some((udp.source_port, udp.destination_port)),
            Some(Transport::Icmp(_) | Transport::Icmpv6(_)) | None => None,
        }
    }

    fn read_link(&mut self, frame: &[u8], sliced: &LaxSlicedPacket<'_>) {
        let mut header_len = 0;
        if let Some(LinkSlice::Ethernet2(ethernet)) = &sliced.link {
            self.source_mac = ethernet.source();
            self.destination_mac = ethernet.destination();
            self.ether_type = ethernet.ether_type().0;
            header_len = ethernet.header_slice().len();
        }
        for tag in &sliced.link_exts {
            if let LaxLinkExtSlice::Vlan(vlan) = tag {
                self.vlan.get_or_insert(vlan.vlan_identifier().value());
                self.ether_type = vlan.ether_type().0;
            }
            header_len += tag.header_len();
        }
        self.payload = header_len.min(frame.len())..frame.len();
    }

    /// An IP or ARP frame without a decoded network layer is broken; any other EtherType is just not decoded.
    fn malformed_ether_payload(&self) -> Option<Malformed> {
        match self.ether_type {
            0x0806 => Some(Malformed::Arp),
            0x0800 | 0x86dd => Some(Malformed::IpHeader),
            _ => None,
        }
    }

    fn read_network(&mut self, frame: &[u8], net: &LaxNetSlice<'_>) {
        let ip = match net {
            LaxNetSlice::Arp(arp) => {
                match read_arp(arp) {
                    Some(arp) => self.network = Some(Network::Arp(arp)),
                    None => self.malformed = Some(Malformed::Arp),
                }
                return;
            }
            LaxNetSlice::Ipv4(ipv4) => read_ipv4(frame, ipv4),
            LaxNetSlice::Ipv6(ipv6) => read_ipv6(frame, ipv6),
        };
        if net.ip_payload_ref().is_some_and(|payload| payload.incomplete) {
            self.malformed = Some(Malformed::IpLength);
        }
        self.payload = ip.payload.clone();
        self.network = Some(Network::Ip(ip));
    }

    fn read_transport(&mut self, frame: &[u8], transport: &TransportSlice<'_>) {
        let (transport, payload) = match transport {
            TransportSlice::Tcp(tcp) => (Transport::Tcp(read_tcp(frame, tcp)), tcp.payload()),
            TransportSlice::Udp(udp) => {
                if usize::from(udp.length()) != udp.slice().len() {
                    self.malformed = self.malformed.or(Some(Malformed::Udp));
                }
                let ports = Udp { source_port: udp.source_port(), destination_port: udp.destination_port() };
                (Transport::Udp(ports), udp.payload())
            }
            TransportSlice::Icmpv4(icmp) => {
                let header = read_icmp(icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8());
                (Transport::Icmp(header), icmp.payload())
            }
            TransportSlice::Icmpv6(icmp) => {
                let header = read_icmp(icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8());
                (Transport::Icmpv6(header), icmp.payload())
            }
            // Not decoded: it is the payload of IP.
            TransportSlice::Igmp(_) => return,
        };
        self.transport = Some(transport);
        self.payload = range_in(frame, payload);
    }
}

impl Malformed {
    fn of(layer: Layer) -> Malformed {
        match layer {
            Layer::LinuxSllHeader | Layer::Ethernet2Header | Layer::EtherPayload => Malformed::Ethernet,
            Layer::VlanHeader | Layer::MacsecHeader | Layer::MacsecPacket => Malformed::Tag,
            Layer::Arp => Malformed::Arp,
            Layer::IpHeader | Layer::Ipv4Header | Layer::Ipv6Header => Malformed::IpHeader,
            Layer::Ipv4Packet | Layer::Ipv6Packet => Malformed::IpLength,
            Layer::IpAuthHeader
            | Layer::Ipv6ExtHeader
            | Layer::Ipv6HopByHopHeader
            | Layer::Ipv6DestOptionsHeader
            | Layer::Ipv6RouteHeader
            | Layer::Ipv6FragHeader => Malformed::IpExtension,
            Layer::TcpHeader => Malformed::Tcp,
            Layer::UdpHeader | Layer::UdpPayload => Malformed::Udp,
            Layer::Icmpv4
            | Layer::Icmpv4Timestamp
            | Layer::Icmpv4TimestampReply
            | Layer::Icmpv6
            | Layer::Igmp => Malformed::Icmp,
        }
    }
}

/// Where `part` lies in `frame`. Parts come out of the frame itself, so the difference of the addresses is the offset;
/// anything else gives an empty range.
fn range_in(frame: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(frame.as_ptr() as usize);
    match start.checked_add(part.len()) {
        Some(end) if end <= frame.len() => start..end,
        _ => frame.len()..frame.len(),
    }
}

fn read_arp(arp: &etherparse::ArpPacketSlice<'_>) -> Option<Arp> {
    if arp.hw_addr_type() != etherparse::ArpHardwareId::ETHERNET
        || arp.proto_addr_type() != etherparse::EtherType::IPV4
    {
        return None;
    }
    let sender: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
    let target: [u8; 4] = arp.target_protocol_addr().try_into().ok()?;
    Some(Arp {
        operation: arp.operation().0,
        sender_mac: arp.sender_hw_addr().try_into().ok()?,
        sender_address: sender.into(),
        target_address: target.into(),
    })
}

fn read_ipv4(frame: &[u8], ipv4: &etherparse::LaxIpv4Slice<'_>) -> Ip {
    let header = ipv4.header();
    let payload = range_in(frame, ipv4.payload().payload);
    Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: ipv4.payload_ip_number().0,
        ttl: header.ttl(),
        tos: (header.dcp().value() << 2) | header.ecn().value(),
        identification: header.identification().into(),
        dont_fragment: header.dont_fragment(),
        more_fragments: header.more_fragments(),
        fragment_offset: u32::from(header.fragments_offset().value()) * 8,
        header: range_in(frame, header.slice()).start..payload.start,
        options: range_in(frame, header.options()),
        payload,
    }
}

fn read_ipv6(frame: &[u8], ipv6: &etherparse::LaxIpv6Slice<'_>) -> Ip {
    let header = ipv6.header();
    let payload = range_in(frame, ipv6.payload().payload);
    let mut ip = Ip {
        source: header.source_addr().into(),
        destination: header.destination_addr().into(),
        protocol: ipv6.payload().ip_number.0,
        ttl: header.hop_limit(),
        tos: header.traffic_class(),
        identification: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        header: range_in(frame, header.slice()).start..payload.start,
        options: payload.start..payload.start,
        payload,
    };
    if let Some(fragment) = fragment_header(header.next_header(), ipv6.extensions().slice()) {
        ip.identification = fragment.identification();
        ip.more_fragments = fragment.more_fragments();
        ip.fragment_offset = u32::from(fragment.fragment_offset().value()) * 8;
    }
    ip
}

/// The last fragment header of the whole extension headers (RFC 8200 section 4). etherparse's own iterator over them reads past
/// their end, unchecked, where the header after the last whole one is cut off.
fn fragment_header(first: IpNumber, mut rest: &[u8]) -> Option<Ipv6FragmentHeaderSlice<'_>> {
    let (mut number, mut found) = (first, None);
    // Each turn takes 8 bytes or more.
    while let [next, length, ..] = *rest {
        let length = usize::from(length);
        let bytes = match number {
            ip_number::IPV6_HOP_BY_HOP | ip_number::IPV6_ROUTE | ip_number::IPV6_DEST_OPTIONS => {
                (length + 1) * 8
            }
            // RFC 4302 section 2.2: in words of 4 bytes, less 2.
            ip_number::AUTH => (length + 2) * 4,
            ip_number::IPV6_FRAG => {
                found = Ipv6FragmentHeaderSlice::from_slice(rest).ok().or(found);
                8
            }
            // Nothing else is an extension header that was taken.
            _ => break,
        };
        rest = rest.get(bytes..).unwrap_or_default();
        number = IpNumber(next);
    }
    found
}

fn read_tcp(frame: &[u8], tcp: &etherparse::TcpSlice<'_>) -> Tcp {
    Tcp {
        source_port: tcp.source_port(),
        destination_port: tcp.destination_port(),
        sequence: tcp.sequence_number(),
        acknowledgment: tcp.acknowledgment_number(),
        flags: tcp.header_slice().get(13).copied().unwrap_or(0),
        window: tcp.window_size(),
        options: range_in(frame, tcp.options()),
    }
}

fn read_icmp(kind: u8, code: u8, rest: [u8; 4]) -> Icmp {
    let [a, b, c, d] = rest;
    Icmp { kind, code, identifier: u16::from_be_bytes([a, b]), sequence: u16::from_be_bytes([c, d]) }
}
