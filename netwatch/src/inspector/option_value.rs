//! Values of rule options: numbers and ranges, flag letters, `flow`, thresholds, `byte_test` and its kin. Pure functions from
//! the text behind the colon.

use super::rule::{
    BitsMode, BitsTest, ByteJump, ByteTest, Comparison, FlowTest, HeaderTest, IsDataAt, NumberAt, NumberForm,
    NumberTest, Sender, StreamTest, Threshold, ThresholdKind, Track,
};

/// What is wrong with a value.
pub type Problem = &'static str;

/// The text without the quotes around it.
pub fn unquote(text: &str) -> &str {
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

/// Undoes `\"`, `\;` and `\\`.
pub fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut escaped = false;
    for character in text.chars() {
        if character == '\\' && !escaped {
            escaped = true;
            continue;
        }
        if escaped && !matches!(character, '"' | ';' | ':' | '\\') {
            out.push('\\');
        }
        escaped = false;
        out.push(character);
    }
    out
}

/// What is between the quotes, and what follows them.
pub fn quoted(text: &str) -> Result<(&str, &str), Problem> {
    let rest = text.strip_prefix('"').ok_or("expected a quoted text")?;
    let mut escaped = false;
    for (index, byte) in rest.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok((&rest[..index], &rest[index + 1..])),
            _ => {}
        }
    }
    Err("the closing quote is missing")
}

/// Whether there is a `!`, and what follows it.
pub fn negation(text: &str) -> (bool, &str) {
    match text.strip_prefix('!') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text),
    }
}

/// A decimal number.
pub fn number<T: std::str::FromStr>(text: &str) -> Result<T, Problem> {
    text.trim().parse().map_err(|_| "not a number")
}

/// A decimal or `0x` hexadecimal number.
fn c_number(text: &str) -> Result<u64, Problem> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).map_err(|_| "not a number"),
        None => number(text),
    }
}

/// `5`, `!5`, `<5`, `>5`, `<=5`, `>=5`, `5<>7`, `5-7`. The ends of `5<>7` belong to it.
fn number_test(text: &str) -> Result<NumberTest, Problem> {
    let (negated, text) = negation(text);
    let range = if let Some((low, high)) = text.split_once("<>") {
        number(low)?..=number(high)?
    } else if let Some(limit) = text.strip_prefix("<=") {
        0..=number(limit)?
    } else if let Some(limit) = text.strip_prefix(">=") {
        number(limit)?..=u32::MAX
    } else if let Some(limit) = text.strip_prefix('<') {
        0..=number::<u32>(limit)?.checked_sub(1).ok_or("nothing is less than 0")?
    } else if let Some(limit) = text.strip_prefix('>') {
        number::<u32>(limit)?.checked_add(1).ok_or("nothing is greater")?..=u32::MAX
    } else if let Some((low, high)) = text.split_once('-') {
        let high = if high.trim().is_empty() { u32::MAX } else { number(high)? };
        (if low.trim().is_empty() { 0 } else { number(low)? })..=high
    } else {
        let exact = number(text.strip_prefix('=').unwrap_or(text))?;
        exact..=exact
    };
    if range.is_empty() { Err("range is empty") } else { Ok(NumberTest { range, negated }) }
}

/// The header test that this option is, if it is one.
pub fn header_test(name: &str, text: &str) -> Option<Result<HeaderTest, Problem>> {
    let make = match name {
        "dsize" => HeaderTest::PayloadSize,
        "itype" => HeaderTest::IcmpType,
        "icode" => HeaderTest::IcmpCode,
        "icmp_id" => HeaderTest::IcmpId,
        "icmp_seq" => HeaderTest::IcmpSequence,
        "ttl" => HeaderTest::Ttl,
        "tos" => HeaderTest::Tos,
        "id" => HeaderTest::Identification,
        "fragoffset" => HeaderTest::FragmentOffset,
        "seq" => HeaderTest::Sequence,
        "ack" => HeaderTest::Acknowledgment,
        "window" => HeaderTest::Window,
        "flags" => return Some(flags(text).map(HeaderTest::Flags)),
        "fragbits" => return Some(fragment_bits(text).map(HeaderTest::FragmentBits)),
        "ip_proto" => return Some(ip_protocol(text).map(HeaderTest::Protocol)),
        "sameip" => return Some(Ok(HeaderTest::SameAddress)),
        "ipopts" => return Some(ip_option(text).map(HeaderTest::IpOption)),
        _ => return None,
    };
    Some(number_test(text).map(make))
}

fn bits_mode(text: &str) -> (BitsMode, &str) {
    let modes = [('+', BitsMode::All), ('*', BitsMode::Any), ('!', BitsMode::None)];
    for (sign, mode) in modes {
        if let Some(rest) = text.strip_prefix(sign).or_else(|| text.strip_suffix(sign)) {
            return (mode, rest);
        }
    }
    (BitsMode::Exact, text)
}

fn flags(text: &str) -> Result<BitsTest, Problem> {
    let (wanted, ignored) = text.split_once(',').unwrap_or((text, ""));
    let (mode, letters) = bits_mode(wanted.trim());
    Ok(BitsTest { mode, bits: flag_letters(letters)?, ignored: flag_letters(ignored.trim())? })
}

fn flag_letters(text: &str) -> Result<u8, Problem> {
    text.chars().try_fold(0, |bits, letter| {
        let bit = match letter.to_ascii_uppercase() {
            'F' => 0x01,
            'S' => 0x02,
            'R' => 0x04,
            'P' => 0x08,
            'A' => 0x10,
            'U' => 0x20,
            'E' | '2' => 0x40,
            'C' | '1' => 0x80,
            '0' => 0,
            _ => return Err("expected letters of FSRPAU12CE or 0"),
        };
        Ok(bits | bit)
    })
}

fn fragment_bits(text: &str) -> Result<BitsTest, Problem> {
    let (mode, letters) = bits_mode(text);
    let bits = letters.chars().try_fold(0, |bits, letter| match letter.to_ascii_uppercase() {
        'M' => Ok(bits | 1),
        'D' => Ok(bits | 2),
        'R' => Ok(bits | 4),
        _ => Err("expected letters of MDR"),
    })?;
    Ok(BitsTest { mode, bits, ignored: 0 })
}

fn ip_protocol(text: &str) -> Result<NumberTest, Problem> {
    let (negated, name) = negation(text);
    let number = match name.to_ascii_lowercase().as_str() {
        "icmp" => 1,
        "igmp" => 2,
        "ipip" | "ipv4" => 4,
        "tcp" => 6,
        "egp" => 8,
        "igp" => 9,
        "udp" => 17,
        "ipv6" => 41,
        "rsvp" => 46,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "icmpv6" | "ipv6-icmp" => 58,
        "eigrp" => 88,
        "ospf" => 89,
        "pim" => 103,
        "vrrp" => 112,
        "sctp" => 132,
        _ => return number_test(text),
    };
    Ok(NumberTest { range: number..=number, negated })
}

fn ip_option(text: &str) -> Result<Option<u8>, Problem> {
    match text {
        "any" => Ok(None),
        "eol" => Ok(Some(0)),
        "nop" => Ok(Some(1)),
        "rr" => Ok(Some(7)),
        "ts" => Ok(Some(68)),
        "sec" => Ok(Some(130)),
        "lsrr" | "lsrre" => Ok(Some(131)),
        "esec" => Ok(Some(133)),
        "satid" => Ok(Some(136)),
        "ssrr" => Ok(Some(137)),
        _ => Err("expected rr, eol, nop, ts, sec, esec, lsrr, lsrre, ssrr, satid or any"),
    }
}

/// `flow:established,to_server`.
pub fn flow(text: &str) -> Result<FlowTest, Problem> {
    let mut test = FlowTest::default();
    for word in text.split(',').map(str::trim) {
        // Old rules also write to_Server.
        match word.to_ascii_lowercase().as_str() {
            "to_server" | "from_client" => test.sender = Some(Sender::Client),
            "to_client" | "from_server" => test.sender = Some(Sender::Server),
            "established" => test.established = Some(true),
            "not_established" => test.established = Some(false),
            "stateless" => test.established = None,
            "no_stream" => test.stream = Some(StreamTest::NoStream),
            "only_stream" => test.stream = Some(StreamTest::OnlyStream),
            _ => return Err("unknown word"),
        }
    }
    Ok(test)
}

/// Value of `threshold` in a rule and of `event_filter` behind its ids.
pub fn threshold(text: &str) -> Result<Threshold, Problem> {
    let fields = named_fields(text);
    let kind = match field(&fields, "type")? {
        "limit" => ThresholdKind::Limit,
        "threshold" => ThresholdKind::Threshold,
        "both" => ThresholdKind::Both,
        _ => return Err("type is not limit, threshold or both"),
    };
    counted(&fields, kind)
}

/// Value of `detection_filter`.
pub fn detection_filter(text: &str) -> Result<Threshold, Problem> {
    counted(&named_fields(text), ThresholdKind::Filter)
}

fn counted(fields: &[(&str, &str)], kind: ThresholdKind) -> Result<Threshold, Problem> {
    let track = match field(fields, "track")? {
        "by_src" => Track::Source,
        "by_dst" => Track::Destination,
        _ => return Err("track is not by_src or by_dst"),
    };
    let threshold = Threshold {
        kind,
        track,
        count: number(field(fields, "count")?)?,
        seconds: number(field(fields, "seconds")?)?,
    };
    if threshold.count == 0 || threshold.seconds == 0 {
        Err("count and seconds must be at least 1")
    } else {
        Ok(threshold)
    }
}

/// `a b, c d` as pairs.
pub fn named_fields(text: &str) -> Vec<(&str, &str)> {
    let pair = |item: &'_ str| -> Option<(usize, usize)> {
        item.find(char::is_whitespace).map(|at| (at, item.len()))
    };
    text.split(',')
        .map(str::trim)
        .filter_map(|item| pair(item).map(|(at, _)| (&item[..at], item[at..].trim())))
        .collect()
}

/// The value of one of the fields.
pub fn field<'a>(fields: &[(&str, &'a str)], name: &str) -> Result<&'a str, Problem> {
    fields.iter().find(|(key, _)| *key == name).map(|(_, value)| *value).ok_or(match name {
        "type" => "type is missing",
        "track" => "track is missing",
        "count" => "count is missing",
        "seconds" => "seconds is missing",
        "gen_id" => "gen_id is missing",
        "sig_id" => "sig_id is missing",
        _ => "a field is missing",
    })
}

/// Whether this option changes the content before it.
pub fn is_content_modifier(name: &str) -> bool {
    matches!(name, "nocase" | "offset" | "depth" | "distance" | "within" | "rawbytes" | "fast_pattern")
        || matches!(
            name,
            "http_uri" | "http_raw_uri" | "http_header" | "http_raw_header" | "http_method" | "http_cookie"
        )
        || matches!(name, "http_raw_cookie" | "http_client_body" | "http_stat_code" | "http_stat_msg")
}

/// `isdataat:[!]5[,relative][,rawbytes]`.
pub fn is_data_at(text: &str) -> Result<IsDataAt, Problem> {
    let (negated, text) = negation(text);
    let mut words = text.split(',').map(str::trim);
    let mut test = IsDataAt { position: number(words.next().unwrap_or_default())?, relative: false, negated };
    for word in words {
        match word {
            "relative" => test.relative = true,
            "rawbytes" => {}
            _ => return Err("unknown word"),
        }
    }
    Ok(test)
}

/// `byte_test:4,>,1024,0,relative,little`.
pub fn byte_test(text: &str) -> Result<ByteTest, Problem> {
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    let [count, operator, value, offset, rest @ ..] = words.as_slice() else {
        return Err("expected bytes, operator, value, offset");
    };
    let (negated, operator) = negation(operator);
    let comparison = match operator {
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        "=" | "" => Comparison::Equal,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterOrEqual,
        "&" => Comparison::And,
        "^" => Comparison::Xor,
        _ => return Err("unknown operator"),
    };
    let number = number_at(count, offset, rest, |_| Err("unknown word"))?;
    Ok(ByteTest { number, comparison, negated, value: c_number(value)? })
}

/// `byte_jump:4,0,relative,align,multiplier 2,post_offset -4`.
pub fn byte_jump(text: &str) -> Result<ByteJump, Problem> {
    let words: Vec<&str> = text.split(',').map(str::trim).collect();
    let [count, offset, rest @ ..] = words.as_slice() else { return Err("expected bytes, offset") };
    let (mut multiplier, mut align, mut from_beginning, mut post_offset) = (1, false, false, 0);
    let number = number_at(count, offset, rest, |word| {
        match word.split_once(char::is_whitespace).unwrap_or((word, "")) {
            ("align", "") => align = true,
            ("from_beginning", "") => from_beginning = true,
            ("multiplier", factor) => multiplier = number(factor)?,
            ("post_offset", distance) => post_offset = number(distance)?,
            _ => return Err("unknown word"),
        }
        Ok(())
    })?;
    Ok(ByteJump { number, multiplier, align, from_beginning, post_offset })
}

fn number_at(
    count: &str,
    offset: &str,
    words: &[&str],
    mut other: impl FnMut(&str) -> Result<(), Problem>,
) -> Result<NumberAt, Problem> {
    let (mut relative, mut text, mut radix, mut little) = (false, false, 0, false);
    for word in words {
        match *word {
            "relative" => relative = true,
            "big" => little = false,
            "little" => little = true,
            "string" => text = true,
            "hex" => radix = 16,
            "dec" => radix = 10,
            "oct" => radix = 8,
            word => other(word)?,
        }
    }
    let form = match (text, little) {
        (true, _) => NumberForm::Text(radix),
        (false, true) => NumberForm::LittleEndian,
        (false, false) => NumberForm::BigEndian,
    };
    let count = number(count)?;
    match (form, count) {
        (NumberForm::Text(_), 1..=10) | (NumberForm::BigEndian | NumberForm::LittleEndian, 1..=4) => {}
        _ => return Err("byte count is not 1 to 4, or 1 to 10 of a string"),
    }
    Ok(NumberAt { count, offset: number(offset)?, relative, form })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_tests_match_as_written() {
        for (text, number, passes) in [
            ("5", 5, true),
            ("!5", 5, false),
            ("<5", 5, false),
            ("<=5", 5, true),
            (">5", 6, true),
            (">=5", 4, false),
            ("5<>7", 7, true),
            ("5-7", 8, false),
            ("-7", 3, true),
        ] {
            assert_eq!(number_test(text).unwrap().matches(number), passes, "{text} {number}");
        }
        for text in ["", "x", "<0", "7<>5", ">4294967295", "1-x"] {
            assert!(number_test(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_match_as_written() {
        for (text, value, passes) in [
            ("S", 0x02, true),
            ("S", 0x12, false),
            ("S,12", 0xc2, true),
            ("S+", 0x12, true),
            ("+SA", 0x02, false),
            ("*SF", 0x01, true),
            ("!SF", 0x01, false),
            ("0", 0, true),
            ("0", 1, false),
            ("FPU,CE", 0x29, true),
        ] {
            assert_eq!(flags(text).unwrap().matches(value), passes, "{text} {value:x}");
        }
        assert!(flags("Q").is_err());
    }

    #[test]
    fn thresholds_need_all_their_fields() {
        let both = threshold("type both, track by_src, count 5, seconds 60").unwrap();
        assert_eq!(
            (both.kind, both.track, both.count, both.seconds),
            (ThresholdKind::Both, Track::Source, 5, 60)
        );
        for text in [
            "type both, track by_src, count 5",
            "type x, track by_src, count 5, seconds 1",
            "",
            "type limit, track by_src, count 0, seconds 1",
        ] {
            assert!(threshold(text).is_err(), "{text}");
        }
    }

    #[test]
    fn byte_options_are_read() {
        let test = byte_test("4,!&,0x80,-2,relative,little").unwrap();
        assert_eq!(
            (test.comparison, test.negated, test.value, test.number.offset),
            (Comparison::And, true, 128, -2)
        );
        let jump = byte_jump("10,0,relative,string,dec,align,multiplier 2,post_offset -4").unwrap();
        assert_eq!((jump.multiplier, jump.align, jump.post_offset), (2, true, -4));
        for text in ["", "5,>,1,0", "4,?,1,0", "4,>,1", "4,>,1,0,frob"] {
            assert!(byte_test(text).is_err(), "{text}");
        }
    }
}
