//! From the token table back to the names: what each table of kallsyms looks like, and how the next one follows from it.

use honeyvmm::memory::Gva;

use super::{KallsymsError, NAME_BYTES_MAX, Names, SYMBOLS_MAX};
use crate::symbols::segments::Run;

/// The tokens of the ten digits, which no kernel's names are without; each stands for itself.
const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
/// The token of `0`: its own ASCII code.
const DIGIT_ZERO: usize = 0x30;
/// How many tokens there are: one for each byte.
const TOKENS: usize = 256;
/// The longest token. They are made by joining pairs; the longest that was seen has 30 bytes.
const TOKEN_BYTES_MAX: usize = 128;
/// The most places that look like ten digits and are looked at. Debian's kernels have one.
const TOKEN_TABLES_MAX: usize = 64;
/// The pad between token table and index: `.balign 8`, or 16 where a linker is generous.
const PAD_BYTES_MAX: usize = 15;
/// Symbols from marker to marker.
const SYMBOLS_PER_MARKER: usize = 256;
/// Bytes from marker to marker that are believed: 256 names of one token, and of 78.
const MARKER_STEP: std::ops::RangeInclusive<u32> = 400..=20_000;
/// How far below the token table markers are looked for: `seqs_of_names` (3 bytes a symbol) may lie between, and themselves.
const MARKERS_REACH: usize = SYMBOLS_MAX * 3 + SYMBOLS_MAX / SYMBOLS_PER_MARKER * 4 + 64;
/// Markers at the end of a run that may belong to what follows, and are left out in further tries.
const MARKERS_SPARE: usize = 2;

/// A token table with its index, at offsets into its run.
pub(super) struct TokenTable<'a> {
    pub at: usize,
    pub index_at: usize,
    /// Behind the index.
    pub end: usize,
    address: Gva,
    tokens: Vec<&'a str>,
}

/// Names as they were found before a token table, at offsets into its run.
pub(super) struct Found {
    pub names_at: usize,
    pub markers_at: usize,
    pub markers_end: usize,
    pub token_table_at: usize,
    pub token_index_at: usize,
    pub token_index_end: usize,
    pub names: Names,
}

impl Found {
    /// How many symbols there are.
    pub fn count(&self) -> usize {
        self.names.starts.len() - 1
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

/// All token tables of a run: ten digits in a row, among 256 strings whose offsets follow them as 16-bit numbers.
pub(super) fn token_tables(run: Run<'_>) -> impl Iterator<Item = TokenTable<'_>> {
    let hits = memchr::memmem::find_iter(run.bytes, DIGITS).take(TOKEN_TABLES_MAX);
    hits.filter_map(move |hit| token_table(run, hit))
}

fn token_table<'a>(run: Run<'a>, digit_zero: usize) -> Option<TokenTable<'a>> {
    let bytes = run.bytes;
    // Token 0 has no NUL before it that must be there; its length is what the index says of token 1.
    let mut second = digit_zero;
    for _ in 1..DIGIT_ZERO {
        let end = second.checked_sub(1).filter(|at| bytes[*at] == 0)?;
        let floor = end.saturating_sub(TOKEN_BYTES_MAX);
        second = floor + memchr::memrchr(0, &bytes[floor..end])? + 1;
    }
    let mut starts = Vec::with_capacity(TOKENS);
    let mut at = second;
    for _ in 1..TOKENS {
        starts.push(at);
        let longest = &bytes[at..bytes.len().min(at + TOKEN_BYTES_MAX)];
        at += memchr::memchr(0, longest)? + 1;
    }
    let (index_at, start) = (0..=PAD_BYTES_MAX).find_map(|pad| {
        let index = bytes.get(at + pad..at + pad + 2 * TOKENS)?;
        let mut index = index.chunks_exact(2).map(|pair| usize::from(u16::from_le_bytes([pair[0], pair[1]])));
        let first = index.next()?;
        let start = second
            .checked_sub(usize::from(u16::from_le_bytes([bytes[at + pad + 2], bytes[at + pad + 3]])))?;
        let fits = first == 0 && index.zip(&starts).all(|(offset, token)| start + offset == *token);
        fits.then_some((at + pad, start))
    })?;
    let strings = std::iter::once(start).chain(starts.iter().copied());
    let ends = starts.iter().copied().chain([at]);
    // ASCII, so that names need not be checked one by one.
    let tokens = strings.zip(ends).map(|(start, end)| {
        let token = std::str::from_utf8(bytes.get(start..end - 1)?).ok()?;
        (token.is_ascii() && token.len() <= TOKEN_BYTES_MAX).then_some(token)
    });
    let tokens = tokens.collect::<Option<_>>()?;
    let address = Gva(run.start.0.wrapping_add(start as u64));
    Some(TokenTable { at: start, index_at, end: index_at + 2 * TOKENS, address, tokens })
}

/// The names before a token table.
pub(super) fn names(run: Run<'_>, tokens: &TokenTable<'_>) -> Result<Found, KallsymsError> {
    let nothing = || KallsymsError::NoNames(tokens.address);
    let (markers_at, longest) = markers(run.bytes, tokens.at).ok_or_else(nothing)?;
    for markers in (longest.saturating_sub(MARKERS_SPARE).max(1)..=longest).rev() {
        let Some(names_at) = names_start(run.bytes, markers_at, markers) else { continue };
        let count = u32_at(run.bytes, names_at - 8).ok_or_else(nothing)?;
        if count as usize > SYMBOLS_MAX {
            return Err(KallsymsError::TooMany(count));
        }
        if let Some(names) = expand(run.bytes, names_at..markers_at, count as usize, &tokens.tokens) {
            return Ok(Found {
                names_at,
                markers_at,
                markers_end: markers_at + 4 * markers,
                token_table_at: tokens.at,
                token_index_at: tokens.index_at,
                token_index_end: tokens.end,
                names,
            });
        }
    }
    Err(nothing())
}

/// The longest run of numbers that starts at 0 and rises as markers do, below the token table: its offset and length.
fn markers(bytes: &[u8], token_table: usize) -> Option<(usize, usize)> {
    let floor = token_table.saturating_sub(MARKERS_REACH);
    // The token table is aligned to 8, so are the markers.
    let floor = floor + (token_table - floor) % 4;
    let (mut best, mut at, mut length, mut last) = ((0, 0), 0, 0, 0);
    for offset in (floor..token_table).step_by(4) {
        let value = u32_at(bytes, offset)?;
        let rises = length > 0 && value.checked_sub(last).is_some_and(|step| MARKER_STEP.contains(&step));
        if rises {
            length += 1;
        } else if value == 0 {
            (at, length) = (offset, 1);
        } else {
            length = 0;
        }
        last = value;
        if length > best.1 {
            best = (at, length);
        }
    }
    (best.1 > 0).then_some(best)
}

/// Where the names start: their number lies 8 bytes before, each marker points into them, and the last block is no longer than others.
fn names_start(bytes: &[u8], markers_at: usize, markers: usize) -> Option<usize> {
    let last = u32_at(bytes, markers_at + 4 * (markers - 1))? as usize;
    let highest = markers_at.checked_sub(last)?;
    let lowest = highest.saturating_sub(*MARKER_STEP.end() as usize).max(8);
    let counts = (markers - 1) * SYMBOLS_PER_MARKER + 1..=markers * SYMBOLS_PER_MARKER;
    (lowest..=highest).rev().filter(|start| (markers_at - start).is_multiple_of(4)).find(|start| {
        let count = u32_at(bytes, start - 8).unwrap_or(0) as usize;
        counts.contains(&count) && fits(bytes, *start, markers_at, markers, count)
    })
}

/// Whether `count` entries from `start` meet every marker and end before the first one.
fn fits(bytes: &[u8], start: usize, markers_at: usize, markers: usize, count: usize) -> bool {
    let mut at = start;
    for block in 0..markers {
        if u32_at(bytes, markers_at + 4 * block).map(|marker| start + marker as usize) != Some(at) {
            return false;
        }
        for _ in 0..SYMBOLS_PER_MARKER.min(count - block * SYMBOLS_PER_MARKER) {
            match entry(&bytes[..markers_at], at) {
                Some(tokens) => at = tokens.end,
                None => return false,
            }
        }
    }
    true
}

/// The tokens of the entry at an offset: one byte says how many, or two where its top bit is set (since 6.1).
fn entry(bytes: &[u8], at: usize) -> Option<std::ops::Range<usize>> {
    let low = usize::from(*bytes.get(at)?);
    let (start, count) = match low & 0x80 {
        0 => (at + 1, low),
        _ => (at + 2, (low & 0x7f) | usize::from(*bytes.get(at + 1)?) << 7),
    };
    (count > 0 && count <= NAME_BYTES_MAX && start + count <= bytes.len()).then_some(start..start + count)
}

/// Writes all names out; `None` if one is longer than [`NAME_BYTES_MAX`].
fn expand(bytes: &[u8], span: std::ops::Range<usize>, count: usize, tokens: &[&str]) -> Option<Names> {
    let bytes = bytes.get(..span.end)?;
    let mut names = Names { arena: String::with_capacity(count * 24), starts: Vec::with_capacity(count + 1) };
    let mut at = span.start;
    for _ in 0..count {
        let start = names.arena.len();
        names.starts.push(u32::try_from(start).ok()?);
        let packed = entry(bytes, at)?;
        at = packed.end;
        for token in &bytes[packed] {
            names.arena.push_str(tokens.get(usize::from(*token))?);
        }
        if !(1..=NAME_BYTES_MAX).contains(&(names.arena.len() - start)) {
            return None;
        }
    }
    names.starts.push(u32::try_from(names.arena.len()).ok()?);
    Some(names)
}
