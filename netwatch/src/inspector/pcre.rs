//! `pcre:"[!]/regex/flags"`, run by PCRE2 with its just-in-time compiler where there is one, and bounded work.

use pcre2::bytes::{Regex, RegexBuilder};

use super::rule::Buffer;

/// Steps that PCRE2 may take for one attempt; an expression that needs more does not match. Snort's default is 3500,
/// which legitimate expressions over a reassembled message exceed.
const MATCH_LIMIT: u32 = 20_000;
/// Longest expression.
const PATTERN_LEN_MAX: usize = 8192;

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Pcre {
    regex: Regex,
    /// The rule matches only where the expression does not.
    pub negated: bool,
    /// Starts at the end of the last match.
    pub relative: bool,
    /// What it looks at.
    pub buffer: Buffer,
}

impl Pcre {
    /// Reads `[!]/regex/flags` or `[!]m?regex?flags`.
    pub fn parse(text: &str) -> Result<Pcre, String> {
        let (negated, text) = match text.strip_prefix('!') {
            Some(rest) => (true, rest.trim_start()),
            None => (false, text),
        };
        let text = text.strip_prefix('m').unwrap_or(text);
        let delimiter =
            text.chars().next().filter(char::is_ascii_punctuation).ok_or("expression has no delimiter")?;
        let body = &text[1..];
        let end = body.rfind(delimiter).ok_or("expression is not closed")?;
        let (pattern, flags) = (&body[..end], &body[end + 1..]);
        if pattern.len() > PATTERN_LEN_MAX {
            return Err(format!("expression is longer than {PATTERN_LEN_MAX} bytes"));
        }
        let mut pcre = PcreFlags::default();
        for flag in flags.chars() {
            pcre.set(flag)?;
        }
        Ok(Pcre { regex: pcre.compile(pattern)?, negated, relative: pcre.relative, buffer: pcre.buffer })
    }

    /// End of the first match at or behind `start` in `haystack`, with `^` and `\A` at `start`. `None` too when the limit is hit.
    pub fn find_end(&self, haystack: &[u8], start: usize) -> Option<usize> {
        let found = self.regex.find(haystack.get(start..)?).ok().flatten()?;
        Some(start + found.end())
    }
}

struct PcreFlags {
    prefix: String,
    builder: RegexBuilder,
    anchored: bool,
    relative: bool,
    buffer: Buffer,
}

impl Default for PcreFlags {
    fn default() -> PcreFlags {
        let mut builder = RegexBuilder::new();
        builder.jit_if_available(true);
        let prefix = format!("(*LIMIT_MATCH={MATCH_LIMIT})(*LIMIT_DEPTH={MATCH_LIMIT})");
        PcreFlags { prefix, builder, anchored: false, relative: false, buffer: Buffer::Payload }
    }
}

impl PcreFlags {
    fn set(&mut self, flag: char) -> Result<(), String> {
        match flag {
            'i' => drop(self.builder.caseless(true)),
            's' => drop(self.builder.dotall(true)),
            'm' => drop(self.builder.multi_line(true)),
            'x' => drop(self.builder.extended(true)),
            'A' => self.anchored = true,
            'G' => self.prefix.push_str("(?U)"),
            'R' => self.relative = true,
            'U' => self.buffer = Buffer::HttpUri,
            'I' => self.buffer = Buffer::HttpRawUri,
            'P' => self.buffer = Buffer::HttpClientBody,
            'H' | 'D' => self.buffer = Buffer::HttpHeader,
            'M' => self.buffer = Buffer::HttpMethod,
            'C' | 'K' => self.buffer = Buffer::HttpCookie,
            'S' => self.buffer = Buffer::HttpStatCode,
            'Y' => self.buffer = Buffer::HttpStatMessage,
            // B: the payload is always as sent. O: the limit here stands for all. E: PCRE2 through this binding has no
            // dollar_endonly, so `$` also matches before a last line feed.
            'B' | 'O' | 'E' => {}
            other => return Err(format!("flag {other:?} is not supported")),
        }
        Ok(())
    }

    fn compile(&self, pattern: &str) -> Result<Regex, String> {
        // The group keeps the anchor in front of every alternative.
        let text = match self.anchored {
            true => format!("{}\\G(?:{pattern})", self.prefix),
            false => format!("{}{pattern}", self.prefix),
        };
        self.builder.build(&text).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_as_their_flags_say() {
        for (text, haystack, end) in [
            ("/b+/", "abbc", Some(3)),
            ("/B+/", "abbc", None),
            ("/B+/i", "abbc", Some(3)),
            ("/^b/", "a\nb", None),
            ("/^b/m", "a\nb", Some(3)),
            ("/a.b/", "a\nb", None),
            ("/a.b/s", "a\nb", Some(3)),
            ("/b|a/A", "ab", Some(1)),
            ("/x|b/A", "ab", None),
            ("/a+/G", "aaa", Some(1)),
            ("m?/x?U", "y/x", Some(3)),
            (r"/(a)\1/", "baa", Some(3)),
            (r"/\xff/", "a", None),
        ] {
            assert_eq!(Pcre::parse(text).unwrap().find_end(haystack.as_bytes(), 0), end, "{text} {haystack}");
        }
    }

    #[test]
    fn bad_expressions_are_refused() {
        for text in ["", "/", "abc", "/a(/", "/a/q", "!", "é"] {
            assert!(Pcre::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn exponential_expression_gives_up() {
        let pcre = Pcre::parse("/^(a+)+$/").unwrap();
        let haystack = [vec![b'a'; 4096], vec![b'b']].concat();
        assert_eq!(pcre.find_end(&haystack, 0), None);
    }
}
