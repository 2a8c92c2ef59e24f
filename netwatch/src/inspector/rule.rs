//! A rule as it is evaluated: header, header checks, payload detections, and what an alert says.

use std::ops::RangeInclusive;

use super::content::Content;
use super::header_set::{AddressSet, PortSet};
use super::pcre::Pcre;
use crate::packet::{Ip, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP};

/// What is to be done with a packet; the later one wins when several rules match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Let it through. As a rule's action: and let no other rule alert.
    Pass,
    /// Let it through and keep a record, without an alert.
    Log,
    /// Let it through and alert.
    Alert,
    /// Drop without an alert.
    SilentDrop,
    /// Drop and alert.
    Drop,
    /// Drop, alert, and tell the sender: TCP reset or ICMP port unreachable.
    Reject,
}

/// The protocol of a rule header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeaderProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6.
    Icmp,
    /// Any IP packet.
    Ip,
}

impl HeaderProtocol {
    /// Whether a packet of this IP protocol is meant.
    pub fn contains(self, ip: &Ip) -> bool {
        match self {
            HeaderProtocol::Tcp => ip.protocol == PROTOCOL_TCP,
            HeaderProtocol::Udp => ip.protocol == PROTOCOL_UDP,
            HeaderProtocol::Icmp => ip.protocol == PROTOCOL_ICMP || ip.protocol == PROTOCOL_ICMPV6,
            HeaderProtocol::Ip => true,
        }
    }
}

/// Everything before the parenthesis.
#[derive(Debug, Clone)]
pub struct Header {
    /// Protocol.
    pub protocol: HeaderProtocol,
    /// Source addresses.
    pub source: AddressSet,
    /// Source ports.
    pub source_port: PortSet,
    /// Destination addresses.
    pub destination: AddressSet,
    /// Destination ports.
    pub destination_port: PortSet,
    /// `<>`: either way.
    pub bidirectional: bool,
}

/// `reference:system,id`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Reference {
    /// `cve`, `url`, `bugtraq`.
    pub system: String,
    /// The id there.
    pub id: String,
}

/// `flow`: what is asked of the packet's flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowTest {
    /// Who must have sent the packet.
    pub sender: Option<Sender>,
    /// Some(true): `established`; Some(false): `not_established`.
    pub established: Option<bool>,
    /// `no_stream` or `only_stream`.
    pub stream: Option<StreamTest>,
}

/// Side of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// Who began it.
    Client,
    /// The other one.
    Server,
}

/// On what a rule is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamTest {
    /// Single packets only.
    NoStream,
    /// Reassembled data only.
    OnlyStream,
}

/// A test of one number: `5`, `!5`, `<5`, `>=5`, `5<>7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberTest {
    /// The numbers that are meant.
    pub range: RangeInclusive<u32>,
    /// All others are meant.
    pub negated: bool,
}

impl NumberTest {
    /// Whether the number passes.
    pub fn matches(&self, number: u32) -> bool {
        self.range.contains(&number) != self.negated
    }
}

/// How `flags` and `fragbits` compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitsMode {
    /// These and no others.
    Exact,
    /// `+`: all of these, others may be set.
    All,
    /// `*`: any of these.
    Any,
    /// `!`: none of these.
    None,
}

/// A test of flag bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitsTest {
    /// How.
    pub mode: BitsMode,
    /// The bits.
    pub bits: u8,
    /// Bits that are not looked at.
    pub ignored: u8,
}

impl BitsTest {
    /// Whether these bits pass.
    pub fn matches(self, value: u8) -> bool {
        let value = value & !self.ignored;
        match self.mode {
            BitsMode::Exact => value == self.bits,
            BitsMode::All => value & self.bits == self.bits,
            BitsMode::Any => value & self.bits != 0,
            BitsMode::None => value & self.bits == 0,
        }
    }
}

/// A test of something in the packet's headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTest {
    /// TCP flags.
    Flags(BitsTest),
    /// Payload size in bytes; never true for reassembled data.
    PayloadSize(NumberTest),
    /// ICMP type.
    IcmpType(NumberTest),
    /// ICMP code.
    IcmpCode(NumberTest),
    /// ICMP echo identifier.
    IcmpId(NumberTest),
    /// ICMP echo sequence number.
    IcmpSequence(NumberTest),
    /// TTL or hop limit.
    Ttl(NumberTest),
    /// Type of service.
    Tos(NumberTest),
    /// IP identification.
    Identification(NumberTest),
    /// Number of the IP protocol.
    Protocol(NumberTest),
    /// More fragments (1), don't fragment (2), reserved (4).
    FragmentBits(BitsTest),
    /// Fragment offset in units of eight bytes.
    FragmentOffset(NumberTest),
    /// TCP sequence number.
    Sequence(NumberTest),
    /// TCP acknowledgment number.
    Acknowledgment(NumberTest),
    /// TCP window, not scaled.
    Window(NumberTest),
    /// Source and destination address are the same.
    SameAddress,
    /// An IPv4 option with this type; `None`: any option.
    IpOption(Option<u8>),
}

/// Which bytes a detection looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Buffer {
    /// Packet payload or reassembled message.
    Payload,
    /// HTTP URI, normalised.
    HttpUri,
    /// HTTP URI as sent.
    HttpRawUri,
    /// HTTP header lines without cookies.
    HttpHeader,
    /// HTTP method.
    HttpMethod,
    /// HTTP `Cookie` or `Set-Cookie` value.
    HttpCookie,
    /// HTTP request body.
    HttpClientBody,
    /// HTTP status code.
    HttpStatCode,
    /// HTTP status message.
    HttpStatMessage,
}

/// A detection in the payload. They are tried in the order of the rule.
#[derive(Debug, Clone)]
pub enum Detection {
    /// `content`, `uricontent`.
    Content(Content),
    /// `pcre`.
    Pcre(Pcre),
    /// `isdataat`.
    IsDataAt(IsDataAt),
    /// `byte_test`.
    ByteTest(ByteTest),
    /// `byte_jump`.
    ByteJump(ByteJump),
}

/// `isdataat:[!]position[,relative]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsDataAt {
    /// Bytes from the start, or from the cursor.
    pub position: usize,
    /// From the cursor.
    pub relative: bool,
    /// True when there is none.
    pub negated: bool,
}

/// Where a number stands in the payload and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberAt {
    /// Bytes to read: 1 to 4 as binary, 1 to 10 as text.
    pub count: usize,
    /// From the start, or from the cursor.
    pub offset: i64,
    /// From the cursor.
    pub relative: bool,
    /// How it is written.
    pub form: NumberForm,
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberForm {
    /// Binary, network order.
    BigEndian,
    /// Binary, least significant byte first.
    LittleEndian,
    /// Digits in this radix; 0: as in C, by the prefix.
    Text(u32),
}

/// Operator of `byte_test`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `=`
    Equal,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `&`: any bit in common.
    And,
    /// `^`: any bit differs.
    Xor,
}

/// `byte_test:count,[!]operator,value,offset[,...]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteTest {
    /// The number.
    pub number: NumberAt,
    /// The operator.
    pub comparison: Comparison,
    /// `!` before the operator.
    pub negated: bool,
    /// What it is compared with.
    pub value: u64,
}

/// `byte_jump:count,offset[,...]`: moves the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteJump {
    /// The number.
    pub number: NumberAt,
    /// The number times this.
    pub multiplier: u32,
    /// Rounded up to a multiple of four.
    pub align: bool,
    /// From the payload's start, not from behind the number.
    pub from_beginning: bool,
    /// Added last.
    pub post_offset: i64,
}

/// A flowbits operation; the number stands for the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flowbit {
    /// Set when the rule matches.
    Set(u16),
    /// Cleared when the rule matches.
    Unset(u16),
    /// Inverted when the rule matches.
    Toggle(u16),
    /// The rule matches only if it is set.
    IsSet(u16),
    /// The rule matches only if it is not set.
    IsNotSet(u16),
}

/// Which alerts of a rule are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThresholdKind {
    /// The first `count` in each interval.
    Limit,
    /// Every `count`th.
    Threshold,
    /// Once an interval, when `count` is reached.
    Both,
    /// `detection_filter`: all after the first `count` in an interval.
    Filter,
}

/// Whose matches are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Track {
    /// By source address.
    Source,
    /// By destination address.
    Destination,
}

/// `threshold`, `event_filter` and `detection_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// What is let through.
    pub kind: ThresholdKind,
    /// Whose are counted together.
    pub track: Track,
    /// How many.
    pub count: u32,
    /// Length of the interval.
    pub seconds: u32,
}

/// What an alert of the rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// Generator id; 1 unless the rule says otherwise.
    pub gid: u32,
    /// Signature id.
    pub sid: u32,
    /// Revision.
    pub rev: u32,
    /// What it found.
    pub msg: String,
    /// Name of the class; empty without one.
    pub classtype: String,
    /// 1 is the worst; the class's unless the rule says otherwise.
    pub priority: u8,
    /// Where to read on.
    pub references: Vec<Reference>,
    /// `metadata` as it stands in the rule.
    pub metadata: Vec<String>,
}

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What happens when it matches.
    pub action: Action,
    /// Addresses, ports, protocol.
    pub header: Header,
    /// What its alert says.
    pub info: std::sync::Arc<RuleInfo>,
    /// `priority` of the rule itself.
    pub own_priority: Option<u8>,
    /// `flow`.
    pub flow: FlowTest,
    /// Header tests.
    pub tests: Vec<HeaderTest>,
    /// Payload detections.
    pub detections: Vec<Detection>,
    /// Flowbits.
    pub flowbits: Vec<Flowbit>,
    /// `flowbits:noalert`.
    pub no_alert: bool,
    /// `detection_filter`.
    pub detection_filter: Option<Threshold>,
    /// `threshold`, or the `event_filter` of its sid.
    pub threshold: Option<Threshold>,
}

impl Rule {
    /// Whether it looks at anything but the payload of single messages and packets.
    pub fn needs_payload(&self) -> bool {
        !self.detections.is_empty()
    }

    /// Whether any detection looks at a part of an HTTP message.
    pub fn needs_http(&self) -> bool {
        self.detections.iter().any(|detection| match detection {
            Detection::Content(content) => content.buffer != Buffer::Payload,
            Detection::Pcre(pcre) => pcre.buffer != Buffer::Payload,
            Detection::IsDataAt(_) | Detection::ByteTest(_) | Detection::ByteJump(_) => false,
        })
    }

    /// Whether it asks for the size of a single packet, which reassembled data has not.
    pub fn needs_packet(&self) -> bool {
        self.flow.stream == Some(StreamTest::NoStream)
            || self.tests.iter().any(|test| matches!(test, HeaderTest::PayloadSize(_)))
    }
}
