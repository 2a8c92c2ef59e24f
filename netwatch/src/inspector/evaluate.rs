//! Whether the detections of a rule match a buffer: contents, expressions and byte tests in the order of the rule, with a
//! cursor behind the last match. A content that was found is tried again further on when what depends on it fails.

use super::byte_number::{byte_jump, byte_test};
use super::content::Content;
use super::http::HttpMessage;
use super::rule::{Buffer, Detection, IsDataAt};

/// Attempts of detections for one rule on one buffer; beyond it the rule does not match.
const STEPS_MAX: u32 = 2_000;

/// What the detections look at.
#[derive(Debug, Clone, Copy)]
pub struct Buffers<'a> {
    /// Packet payload or reassembled message.
    pub payload: &'a [u8],
    /// Bytes of the message that were before `payload` and are no longer held; `offset` counts from the message's start.
    pub base: usize,
    /// The payload as an HTTP message.
    pub http: Option<&'a HttpMessage<'a>>,
}

impl<'a> Buffers<'a> {
    fn get(&self, buffer: Buffer) -> Option<&'a [u8]> {
        let http = self.http;
        match buffer {
            Buffer::Payload => Some(self.payload),
            Buffer::HttpUri => http.and_then(|http| http.uri.as_deref()),
            Buffer::HttpRawUri => http.and_then(|http| http.raw_uri),
            Buffer::HttpMethod => http.and_then(|http| http.method),
            Buffer::HttpHeader => http.map(|http| http.headers),
            Buffer::HttpCookie => http.and_then(|http| http.cookie),
            Buffer::HttpClientBody => http.and_then(|http| http.method.map(|_| http.body)),
            Buffer::HttpStatCode => http.and_then(|http| http.status_code),
            Buffer::HttpStatMessage => http.and_then(|http| http.status_message),
        }
    }
}

/// Where the next relative detection starts: behind the last match, in the buffer of that match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    buffer: Buffer,
    at: usize,
}

/// Whether all detections match, one after the other.
pub fn detections_match(detections: &[Detection], buffers: &Buffers<'_>) -> bool {
    match_end(detections, buffers).is_some()
}

/// Whether all detections match, and if so the furthest end in the payload of a content or expression; 0 where there is none.
pub fn match_end(detections: &[Detection], buffers: &Buffers<'_>) -> Option<usize> {
    let start = Cursor { buffer: Buffer::Payload, at: 0 };
    let mut evaluation = Evaluation { buffers, steps: 0, furthest: 0 };
    evaluation.run(detections, start).then_some(evaluation.furthest)
}

struct Evaluation<'a> {
    buffers: &'a Buffers<'a>,
    steps: u32,
    furthest: usize,
}

impl Evaluation<'_> {
    /// Recursion is as deep as the rule has detections, which the parser limits.
    fn run(&mut self, detections: &[Detection], cursor: Cursor) -> bool {
        let Some((first, rest)) = detections.split_first() else { return true };
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return false;
        }
        let next = match first {
            Detection::Content(content) => return self.content(content, rest, cursor),
            Detection::Pcre(pcre) => return self.pcre(pcre, rest, cursor),
            Detection::IsDataAt(test) => is_data_at(test, self.buffers, cursor).then_some(cursor.at),
            Detection::ByteTest(test) => {
                let (data, at) = numbers_start(self.buffers, cursor, test.number.relative);
                byte_test(test, data, at).then_some(cursor.at)
            }
            Detection::ByteJump(jump) => {
                let (data, at) = numbers_start(self.buffers, cursor, jump.number.relative);
                byte_jump(jump, data, at)
            }
        };
        match (first, next) {
            (_, None) => false,
            (Detection::ByteJump(jump), Some(at)) if !jump.number.relative => {
                self.run(rest, Cursor { buffer: Buffer::Payload, at })
            }
            (_, Some(at)) => self.run(rest, Cursor { at, ..cursor }),
        }
    }

    fn content(&mut self, content: &Content, rest: &[Detection], cursor: Cursor) -> bool {
        let Some(data) = self.buffers.get(content.buffer) else {
            return content.negated && self.run(rest, cursor);
        };
        let base = if content.buffer == Buffer::Payload { self.buffers.base } else { 0 };
        let Some((mut start, end)) = window(content, data.len(), cursor, base) else {
            return content.negated && self.run(rest, cursor);
        };
        if content.negated {
            return content.find(&data[start..end]).is_none() && self.run(rest, cursor);
        }
        while let Some(found) = content.find(&data[start..end]) {
            let at = start + found + content.bytes.len();
            if content.buffer == Buffer::Payload {
                self.furthest = self.furthest.max(at);
            }
            if self.run(rest, Cursor { buffer: content.buffer, at }) {
                return true;
            }
            if self.steps > STEPS_MAX || !depends_on_cursor(rest) {
                return false;
            }
            start += found + 1;
        }
        false
    }

    fn pcre(&mut self, pcre: &super::pcre::Pcre, rest: &[Detection], cursor: Cursor) -> bool {
        let start = if pcre.relative { relative_start(pcre.buffer, cursor) } else { 0 };
        let end = self.buffers.get(pcre.buffer).and_then(|data| pcre.find_end(data, start));
        match (end, pcre.negated) {
            (None, true) => self.run(rest, cursor),
            (Some(at), false) => {
                if pcre.buffer == Buffer::Payload {
                    self.furthest = self.furthest.max(at);
                }
                self.run(rest, Cursor { buffer: pcre.buffer, at })
            }
            (Some(_), true) | (None, false) => false,
        }
    }
}

/// Whether a later match of the content before would make a difference to the next detection.
fn depends_on_cursor(rest: &[Detection]) -> bool {
    match rest.first() {
        None => false,
        Some(Detection::Content(content)) if content.is_relative() => true,
        // It leaves the cursor alone, so what follows it may depend on it.
        Some(Detection::Content(content)) => content.negated && depends_on_cursor(&rest[1..]),
        Some(Detection::Pcre(pcre)) => pcre.relative || (pcre.negated && depends_on_cursor(&rest[1..])),
        Some(Detection::IsDataAt(test)) => test.relative || depends_on_cursor(&rest[1..]),
        Some(Detection::ByteTest(test)) => test.number.relative || depends_on_cursor(&rest[1..]),
        Some(Detection::ByteJump(jump)) => jump.number.relative,
    }
}

fn relative_start(buffer: Buffer, cursor: Cursor) -> usize {
    if cursor.buffer == buffer { cursor.at } else { 0 }
}

fn numbers_start<'a>(buffers: &Buffers<'a>, cursor: Cursor, relative: bool) -> (&'a [u8], usize) {
    let buffer = if relative { cursor.buffer } else { Buffer::Payload };
    (buffers.get(buffer).unwrap_or_default(), if relative { cursor.at } else { 0 })
}

fn is_data_at(test: &IsDataAt, buffers: &Buffers<'_>, cursor: Cursor) -> bool {
    let (data, start) = numbers_start(buffers, cursor, test.relative);
    let present = start.checked_add(test.position).is_some_and(|at| at < data.len());
    present != test.negated
}

/// The part of the buffer in which the content must lie, or `None` where it cannot.
fn window(content: &Content, len: usize, cursor: Cursor, base: usize) -> Option<(usize, usize)> {
    let signed = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    let (start, size) = if content.is_relative() {
        let from =
            signed(relative_start(content.buffer, cursor)).saturating_add(content.distance.unwrap_or(0));
        (from, content.within.or(content.depth))
    } else {
        (content.offset.unwrap_or(0).saturating_sub(signed(base)), content.depth)
    };
    let end = size.map_or(signed(len), |size| start.saturating_add(signed(size)).min(signed(len)));
    let start = start.max(0);
    if end <= start {
        return None;
    }
    Some((usize::try_from(start).ok()?, usize::try_from(end).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspector::rule_parser::{FlowbitNames, parse_rule};
    use crate::inspector::variables::Variables;

    fn check(options: &str, payload: &[u8], expected: bool) {
        let text = format!("alert tcp any any -> any any ({options} sid:1;)");
        let rule = parse_rule(&text, &Variables::default(), &mut FlowbitNames::default()).unwrap();
        let buffers = Buffers { payload, base: 0, http: None };
        assert_eq!(detections_match(&rule.detections, &buffers), expected, "{options} on {payload:?}");
    }

    #[test]
    fn contents_obey_their_windows() {
        check(r#"content:"b";"#, b"abc", true);
        check(r#"content:"b"; offset:2;"#, b"abc", false);
        check(r#"content:"b"; depth:1;"#, b"abc", false);
        check(r#"content:"b"; offset:1; depth:1;"#, b"abc", true);
        check(r#"content:!"b"; depth:1;"#, b"abc", true);
        check(r#"content:!"b";"#, b"abc", false);
        check(r#"content:"a"; content:"c"; within:1;"#, b"abc", false);
        check(r#"content:"a"; content:"c"; distance:1; within:1;"#, b"abc", true);
        check(r#"content:"c"; content:"a"; distance:-3;"#, b"abc", true);
        check(r#"content:"a"; content:"b"; distance:0;"#, b"ba", false);
        check(r#"content:"a"; content:!"b"; within:1;"#, b"ab", false);
        check(r#"content:"abcd"; depth:10;"#, b"abc", false);
    }

    #[test]
    fn an_earlier_content_is_tried_again_further_on() {
        check(r#"content:"a"; content:"b"; within:1;"#, b"axab", true);
        check(r#"content:"a"; pcre:"/^b/R";"#, b"axab", true);
        check(r#"content:"a"; content:!"x"; within:1; content:"c"; distance:0;"#, b"axabc", true);
        check(r#"content:"a"; isdataat:1,relative;"#, b"aba", true);
    }

    #[test]
    fn byte_options_read_where_they_are_told() {
        check(r#"byte_test:2,=,258,0;"#, b"\x01\x02", true);
        check(r#"byte_test:2,=,513,0,little;"#, b"\x01\x02", true);
        check(r#"byte_test:2,>,1,1;"#, b"\x01\x02", false);
        check(r#"content:"L="; byte_test:3,>,99,0,relative,string,dec;"#, b"L=123", true);
        check(r#"content:"L="; byte_test:3,>,99,0,relative,string,dec;"#, b"L=1 3", false);
        check(r#"byte_jump:1,0; content:"x"; within:1;"#, b"\x02abx", true);
        check(r#"content:"L"; byte_jump:1,0,relative,align; content:"x"; within:1;"#, b"L\x03abcdx", true);
        check(r#"byte_jump:4,0;"#, b"\xff\xff\xff\xff", false);
        check(r#"isdataat:!3;"#, b"abc", true);
    }

    #[test]
    fn quadratic_rules_give_up() {
        check(
            r#"content:"a"; content:"a"; distance:0; content:"a"; distance:0; content:"b"; distance:0;"#,
            &[b'a'; 60_000],
            false,
        );
    }
}
