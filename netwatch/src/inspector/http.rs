//! HTTP/1 messages in reassembled data (RFC 9112), as far as rules look at them: request line, headers, cookie, body, status
//! line. URIs are also given normalised: percent-decoded twice, slashes joined, dot segments removed.
//! Chunked and compressed bodies are not decoded.

use std::borrow::Cow;

use memchr::memmem;

/// Requests in one message of a stream (pipelining).
const MESSAGES_MAX: usize = 16;
/// Longest request method.
const METHOD_LEN_MAX: usize = 20;
/// Rounds of percent-decoding: attackers encode the percent sign too.
const DECODE_ROUNDS: usize = 2;

/// One request or response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpMessage<'a> {
    /// Method of a request.
    pub method: Option<&'a [u8]>,
    /// URI of a request as sent.
    pub raw_uri: Option<&'a [u8]>,
    /// URI of a request, normalised.
    pub uri: Option<Cow<'a, [u8]>>,
    /// Status code of a response.
    pub status_code: Option<&'a [u8]>,
    /// Status message of a response.
    pub status_message: Option<&'a [u8]>,
    /// All header lines.
    pub headers: &'a [u8],
    /// Value of the first `Cookie` or `Set-Cookie`.
    pub cookie: Option<&'a [u8]>,
    /// What is there of the body.
    pub body: &'a [u8],
    /// Index behind the message in the data.
    pub end: usize,
}

/// All messages that begin in `data`, the last one perhaps cut; none where it is not HTTP.
pub fn http_messages(data: &[u8]) -> Vec<HttpMessage<'_>> {
    let mut messages = Vec::new();
    let mut start = 0;
    while messages.len() < MESSAGES_MAX && start < data.len() {
        let Some(mut message) = http_message(&data[start..]) else { break };
        message.end += start;
        start = message.end;
        messages.push(message);
    }
    messages
}

fn http_message(data: &[u8]) -> Option<HttpMessage<'_>> {
    let line_end = memchr::memchr(b'\n', data).unwrap_or(data.len());
    let line = data[..line_end].trim_ascii_end();
    let mut message = status_line(line).or_else(|| request_line(line))?;
    let rest = data.get(line_end + 1..).unwrap_or_default();
    let (headers, body) = split_headers(rest);
    message.headers = headers;
    message.cookie = header(headers, b"cookie").or_else(|| header(headers, b"set-cookie"));
    let length =
        header(headers, b"content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    // Without a length, a request has no body; but a body in chunks, or of an exploit that does not care, is everything.
    let unknown = header(headers, b"transfer-encoding").is_some() || message.status_code.is_some();
    let length: usize =
        length.unwrap_or(if unknown || http_message_like(body).is_none() { body.len() } else { 0 });
    message.body = &body[..length.min(body.len())];
    message.end = data.len() - body.len() + message.body.len();
    Some(message)
}

/// Whether a request begins here; the cheap part of `http_message`.
fn http_message_like(data: &[u8]) -> Option<()> {
    let line_end = memchr::memchr(b'\n', data)?;
    request_line(data[..line_end].trim_ascii_end()).map(|_| ())
}

fn request_line(line: &[u8]) -> Option<HttpMessage<'_>> {
    let space = line.iter().take(METHOD_LEN_MAX + 1).position(|byte| *byte == b' ' || *byte == b'\t')?;
    let (method, rest) = (&line[..space], line[space..].trim_ascii_start());
    if method.is_empty()
        || !method.iter().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'-'))
    {
        return None;
    }
    let version = memmem::rfind(rest, b" HTTP/");
    let raw_uri = rest[..version.unwrap_or(rest.len())].trim_ascii_end();
    // Without a version only a path makes it HTTP/0.9, not the MAIL or USER of another protocol.
    if version.is_none() && !raw_uri.starts_with(b"/") {
        return None;
    }
    let uri = Some(normalise_uri(raw_uri));
    Some(HttpMessage { method: Some(method), raw_uri: Some(raw_uri), uri, ..HttpMessage::default() })
}

fn status_line(line: &[u8]) -> Option<HttpMessage<'_>> {
    let rest = line.strip_prefix(b"HTTP/")?;
    let space = memchr::memchr(b' ', rest)?;
    let rest = rest[space..].trim_ascii_start();
    let (code, message) = rest.split_at(memchr::memchr(b' ', rest).unwrap_or(rest.len()));
    let status_message = Some(message.trim_ascii());
    Some(HttpMessage { status_code: Some(code), status_message, ..HttpMessage::default() })
}

/// Header lines with their last line feed, and what is behind the empty line.
fn split_headers(data: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 0;
    while let Some(line_end) = memchr::memchr(b'\n', &data[at..]) {
        if data[at..at + line_end].trim_ascii().is_empty() {
            return (&data[..at], &data[at + line_end + 1..]);
        }
        at += line_end + 1;
    }
    (data, &[])
}

fn header<'a>(headers: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    headers.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        line[..colon].trim_ascii().eq_ignore_ascii_case(name).then(|| line[colon + 1..].trim_ascii())
    })
}

/// The URI as the server's file system would see it.
pub fn normalise_uri(raw: &[u8]) -> Cow<'_, [u8]> {
    let raw = without_authority(raw);
    if !raw.iter().any(|byte| matches!(byte, b'%' | b'\\'))
        && memmem::find(raw, b"/.").is_none()
        && memmem::find(raw, b"//").is_none()
    {
        return Cow::Borrowed(raw);
    }
    let mut bytes = raw.to_vec();
    for _ in 0..DECODE_ROUNDS {
        bytes = percent_decode(&bytes);
    }
    let query = memchr::memchr(b'?', &bytes).unwrap_or(bytes.len());
    let mut out = join_segments(&bytes[..query]);
    out.extend_from_slice(&bytes[query..]);
    Cow::Owned(out)
}

fn without_authority(raw: &[u8]) -> &[u8] {
    let Some(rest) =
        raw.get(..7).filter(|head| head.eq_ignore_ascii_case(b"http://")).and_then(|_| raw.get(7..))
    else {
        return raw;
    };
    memchr::memchr(b'/', rest).map_or(raw, |slash| &rest[slash..])
}

/// `%41` and IIS's `%u0041`; what is no code stays as it is.
fn percent_decode(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let decoded = if *first != b'%' {
            None
        } else if matches!(tail.first(), Some(b'u' | b'U')) {
            // Only the low byte: a rule's content is bytes.
            hex_byte(tail.get(3..5)).filter(|_| hex_byte(tail.get(1..3)).is_some()).map(|byte| (byte, 5))
        } else {
            hex_byte(tail.get(..2)).map(|byte| (byte, 2))
        };
        let (byte, used) = decoded.unwrap_or((*first, 0));
        out.push(byte);
        rest = &tail[used..];
    }
    out
}

fn hex_byte(text: Option<&[u8]>) -> Option<u8> {
    let digit = |byte: &u8| (*byte as char).to_digit(16);
    match text? {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    }
}

/// Backslashes as slashes, empty and `.` segments dropped, `..` taking the one before it.
fn join_segments(path: &[u8]) -> Vec<u8> {
    let slash = |byte: &u8| matches!(byte, b'/' | b'\\');
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(slash) {
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for (index, segment) in kept.iter().enumerate() {
        if index > 0 || path.first().is_some_and(slash) {
            out.push(b'/');
        }
        out.extend_from_slice(segment);
    }
    if path.last().is_some_and(slash) || out.is_empty() {
        out.push(b'/');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart() {
        let data = b"POST /a%2fb?x=%31 HTTP/1.1\r\nHost: h\r\nCookie: k=v\r\nContent-Length: 3\r\n\r\nxyzGET /2 HTTP/1.0\r\n\r\n";
        let messages = http_messages(data);
        assert_eq!(messages.len(), 2);
        let first = &messages[0];
        assert_eq!((first.method, first.raw_uri), (Some(&b"POST"[..]), Some(&b"/a%2fb?x=%31"[..])));
        assert_eq!(first.uri.as_deref(), Some(&b"/a/b?x=1"[..]));
        assert_eq!((first.cookie, first.body), (Some(&b"k=v"[..]), &b"xyz"[..]));
        assert_eq!(messages[1].raw_uri, Some(&b"/2"[..]));
        assert_eq!(messages[1].end, data.len());
    }

    #[test]
    fn a_response_is_taken_apart() {
        let messages = http_messages(b"HTTP/1.1 404 Not Found\r\nServer: x\r\n\r\nbody");
        assert_eq!(messages[0].status_code, Some(&b"404"[..]));
        assert_eq!(messages[0].status_message, Some(&b"Not Found"[..]));
        assert_eq!(messages[0].body, b"body");
    }

    #[test]
    fn other_protocols_are_not_http() {
        for data in [&b""[..], b"MAIL FROM:<a>\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01", b"USER x", b" GET /"]
        {
            assert!(http_messages(data).is_empty(), "{data:?}");
        }
    }

    #[test]
    fn uris_are_normalised() {
        for (raw, normal) in [
            ("/a/b", "/a/b"),
            ("/a//b/./c", "/a/b/c"),
            ("/a/../../etc/passwd", "/etc/passwd"),
            ("/%2e%2e/%65tc", "/etc"),
            ("/%252e%252e/x", "/x"),
            ("/a%u002fb", "/a/b"),
            ("\\a\\b", "/a/b"),
            ("/a%", "/a%"),
            ("/a%zz?b=../%41", "/a%zz?b=../A"),
            ("http://h/x", "/x"),
            ("/..", "/"),
            ("/a/", "/a/"),
        ] {
            assert_eq!(String::from_utf8_lossy(&normalise_uri(raw.as_bytes())), normal, "{raw}");
        }
    }
}
