//! Path patterns: `*` and `?` within one name, `**` across names, everything else literal.
//!
//! A pattern covers what it matches and everything below it. `\` takes the next character literally.

/// The longest pattern, in bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// A path pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    names: Vec<Vec<Piece>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(u8),
    One,
    Many,
}

/// Any number of names, `**`.
const ANY_NAMES: &[Piece] = &[Piece::Many, Piece::Many];

/// How a pattern meets a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// The path itself.
    Itself,
    /// The path is below what the pattern names.
    Below,
}

impl Pattern {
    /// Parses an absolute pattern; `None` if it does not begin with `/` or is too long.
    pub fn parse(text: &str) -> Option<Pattern> {
        if !text.starts_with('/') || text.len() > PATTERN_BYTES_MAX {
            return None;
        }
        let names = text.split('/').filter(|name| !name.is_empty()).map(parse_name).collect();
        Some(Pattern { names })
    }

    /// Whether and how it covers an absolute path.
    pub fn covers(&self, path: &str) -> Option<Match> {
        let names: Vec<&[u8]> = path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
        cover_names(&self.names, &names)
    }

    /// More names first, then more literal characters: the rule that says more about a path wins.
    pub fn specificity(&self) -> (usize, usize) {
        let literals = self.names.iter().flatten().filter(|piece| matches!(piece, Piece::Literal(_))).count();
        (self.names.iter().filter(|name| *name != ANY_NAMES).count(), literals)
    }
}

fn parse_name(name: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        pieces.push(match byte {
            b'*' => Piece::Many,
            b'?' => Piece::One,
            b'\\' => Piece::Literal(bytes.next().unwrap_or(b'\\')),
            other => Piece::Literal(other),
        });
    }
    pieces
}

/// Work is bounded: the walk fills one row a pattern name, each as long as the path has names.
fn cover_names(pattern: &[Vec<Piece>], path: &[&[u8]]) -> Option<Match> {
    let mut reach = vec![false; path.len() + 1];
    reach[0] = true;
    for name in pattern {
        let mut next = vec![false; path.len() + 1];
        for at in 0..=path.len() {
            if name == ANY_NAMES {
                next[at] = reach[at] || (at > 0 && next[at - 1]);
            } else if at > 0 {
                next[at] = reach[at - 1] && name_matches(name, path[at - 1]);
            }
        }
        reach = next;
    }
    if reach[path.len()] {
        return Some(Match::Itself);
    }
    reach.contains(&true).then_some(Match::Below)
}

fn name_matches(pattern: &[Piece], name: &[u8]) -> bool {
    let (mut at, mut piece) = (0, 0);
    let mut retry = None;
    while at < name.len() {
        match pattern.get(piece) {
            Some(Piece::Many) => {
                retry = Some((piece, at));
                piece += 1;
                continue;
            }
            Some(Piece::One) => {}
            Some(Piece::Literal(byte)) if *byte == name[at] => {}
            _ => {
                // The last star takes one character more.
                let Some((star, taken)) = retry else { return false };
                retry = Some((star, taken + 1));
                (piece, at) = (star + 1, taken + 1);
                continue;
            }
        }
        at += 1;
        piece += 1;
    }
    pattern[piece..].iter().all(|rest| *rest == Piece::Many)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_what_they_name_and_what_is_below() {
        let cases = [
            ("/", "/", Some(Match::Itself)),
            ("/", "/etc/passwd", Some(Match::Below)),
            ("/etc", "/etc", Some(Match::Itself)),
            ("/etc", "/etc/ssh/sshd_config", Some(Match::Below)),
            ("/etc", "/etcetera", None),
            ("/home/*/.ssh", "/home/ann/.ssh", Some(Match::Itself)),
            ("/home/*/.ssh", "/home/ann/.ssh/id", Some(Match::Below)),
            ("/home/*/.ssh", "/home/ann/x/.ssh", None),
            ("/home/*/.ssh", "/home", None),
            ("/usr/**/*.so", "/usr/lib/x/y.so", Some(Match::Itself)),
            ("/usr/**/*.so", "/usr/y.so", Some(Match::Itself)),
            ("/usr/**/*.so", "/usr/lib/y.sox", None),
            ("/a?c*e", "/abcdde", Some(Match::Itself)),
            ("/a?c*e", "/abcddef", None),
            ("/a\\*", "/a*", Some(Match::Itself)),
            ("/a\\*", "/ab", None),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(Pattern::parse(pattern).unwrap().covers(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = Pattern::parse(&format!("/{}b", "a*".repeat(500))).unwrap();
        assert_eq!(pattern.covers(&format!("/{}", "a".repeat(4000))), None);
    }
}
