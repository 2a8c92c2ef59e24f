//! One record of the shim's trace (`honeyvmm/shim/trace.h`), parsed. Pure; the bytes are foreign, for the guest can write them.

/// Length of a record's head.
pub const HEAD_BYTES: usize = 72;
/// The longest record; the shim writes none that is longer.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Chunks of one record: 48 strings twice, and the other arguments.
const CHUNKS_MAX: usize = 128;
const CHUNK_HEAD_BYTES: usize = 16;
const COMPAT: u8 = 1;
const FILE_SHIFT: u8 = 4;
const CUT: u8 = 1;
const FAULTED: u8 = 2;

/// Why bytes are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its length is none that a record can have.
    #[error("a record of {0} bytes")]
    Length(u32),
    /// There is no such kind.
    #[error("a record of kind {0}")]
    Kind(u8),
    /// What follows the head does not fit.
    #[error("a record whose parts do not fit in it")]
    Parts,
}

/// What an argument named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which argument, from 0.
    pub argument: u8,
    /// Which string or buffer of a list; 255: a message's address.
    pub index: u16,
    /// There was more than was kept.
    pub cut: bool,
    /// It was not in memory when it was looked at.
    pub faulted: bool,
    /// Bytes that the call spoke of.
    pub length: u64,
    /// What was kept.
    pub bytes: Vec<u8>,
}

/// Beginning or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The call begins, with these arguments.
    Enter([u64; 6]),
    /// The task returns to user mode, with this result.
    Leave(i64),
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Beginning or end.
    pub phase: Phase,
    /// It is a 32-bit call.
    pub compat: bool,
    /// Argument 0 is a descriptor of a file of this kind: its place in the setup's list.
    pub kind: Option<usize>,
    /// The open file of argument 0, or 0; descriptors that dup(2) made have the same.
    pub file: u64,
    /// The call's number.
    pub number: u16,
    /// System time of the domain, nanoseconds.
    pub time_ns: u64,
    /// The beginning's number, which no other vcpu gives; the end has the same.
    pub seq: u64,
    /// Address of the task.
    pub task: u64,
    /// Thread.
    pub pid: u32,
    /// Process.
    pub tgid: u32,
    /// Real user.
    pub uid: u32,
    /// Where it ran.
    pub vcpu: u32,
    /// The task's name.
    pub comm: String,
    /// What its arguments name.
    pub chunks: Vec<Chunk>,
}

impl Record {
    /// The chunk of this argument that comes first.
    pub fn chunk(&self, argument: u8) -> Option<&Chunk> {
        self.chunks.iter().find(|chunk| chunk.argument == argument)
    }

    /// All bytes kept of this argument, in order, without a message's address.
    pub fn bytes(&self, argument: u8) -> Vec<u8> {
        let of = self.chunks.iter().filter(|chunk| chunk.argument == argument && chunk.index != 255);
        of.flat_map(|chunk| chunk.bytes.iter().copied()).collect()
    }
}

/// The length and kind that a head tells; `None` as kind: the ring's end is filled.
pub fn head(bytes: &[u8; HEAD_BYTES]) -> Result<(usize, Option<u8>), RecordError> {
    let length = u32_at(bytes, 0);
    let kind = bytes[4];
    // What fills the ring's end may be shorter than a head.
    let least = if kind == 0 { 8 } else { HEAD_BYTES as u32 };
    if length < least || !length.is_multiple_of(8) || (kind != 0 && length as usize > RECORD_BYTES_MAX) {
        return Err(RecordError::Length(length));
    }
    match kind {
        0 => Ok((length as usize, None)),
        1 | 2 => Ok((length as usize, Some(kind))),
        other => Err(RecordError::Kind(other)),
    }
}

/// Parses a whole record.
///
/// # Errors
/// It is none.
pub fn parse(bytes: &[u8]) -> Result<Record, RecordError> {
    let first: &[u8; HEAD_BYTES] = bytes.first_chunk().ok_or(RecordError::Length(bytes.len() as u32))?;
    let (length, kind) = head(first)?;
    if length != bytes.len() {
        return Err(RecordError::Length(length as u32));
    }
    let rest = &bytes[HEAD_BYTES..];
    let words = |count: usize| rest.get(..8 * count).ok_or(RecordError::Parts);
    let (phase, chunks) = match kind {
        Some(1) => {
            let words = words(6)?;
            (Phase::Enter(std::array::from_fn(|i| u64_at(words, 8 * i))), &rest[48..])
        }
        Some(_) => (Phase::Leave(u64_at(words(1)?, 0).cast_signed()), &rest[8..]),
        None => return Err(RecordError::Kind(0)),
    };
    let comm = first[48..64].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Record {
        phase,
        compat: first[5] & COMPAT != 0,
        kind: usize::from(first[5] >> FILE_SHIFT).checked_sub(1),
        file: u64_at(first, 64),
        number: u16::from_le_bytes([first[6], first[7]]),
        time_ns: u64_at(first, 8),
        seq: u64_at(first, 16),
        task: u64_at(first, 24),
        pid: u32_at(first, 32),
        tgid: u32_at(first, 36),
        uid: u32_at(first, 40),
        vcpu: u32_at(first, 44),
        comm: String::from_utf8_lossy(comm).into_owned(),
        chunks: parse_chunks(chunks)?,
    })
}

fn parse_chunks(mut rest: &[u8]) -> Result<Vec<Chunk>, RecordError> {
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_at_checked(CHUNK_HEAD_BYTES).ok_or(RecordError::Parts)?;
        let bytes = u32_at(head, 4) as usize;
        let whole = bytes.checked_next_multiple_of(8).ok_or(RecordError::Parts)?;
        let (kept, after) = after.split_at_checked(whole).ok_or(RecordError::Parts)?;
        if chunks.len() == CHUNKS_MAX {
            return Err(RecordError::Parts);
        }
        chunks.push(Chunk {
            argument: head[0],
            index: u16::from_le_bytes([head[2], head[3]]),
            cut: head[1] & CUT != 0,
            faulted: head[1] & FAULTED != 0,
            length: u64_at(head, 8),
            bytes: kept[..bytes].to_vec(),
        });
        rest = after;
    }
    Ok(chunks)
}

/// The caller has checked the length.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_BYTES];
        bytes[..4].copy_from_slice(&((HEAD_BYTES + rest.len()) as u32).to_le_bytes());
        bytes[4] = kind;
        bytes[6] = 59;
        bytes[48..52].copy_from_slice(b"bash");
        bytes.extend_from_slice(rest);
        bytes
    }

    fn chunk(argument: u8, flags: u8, text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![argument, flags, 0, 0];
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn a_beginning_has_its_arguments_and_what_they_name() {
        let mut rest = vec![0; 48];
        rest[8] = 7;
        rest.extend(chunk(0, CUT, b"/bin/true"));
        let parsed = parse(&record(1, &rest)).unwrap();
        assert_eq!(parsed.phase, Phase::Enter([0, 7, 0, 0, 0, 0]));
        assert_eq!((parsed.number, parsed.comm.as_str()), (59, "bash"));
        let chunk = parsed.chunk(0).unwrap();
        assert_eq!((chunk.bytes.as_slice(), chunk.cut), (&b"/bin/true"[..], true));
    }

    #[test]
    fn an_end_has_its_result() {
        let parsed = parse(&record(2, &(-2i64).to_le_bytes())).unwrap();
        assert_eq!(parsed.phase, Phase::Leave(-2));
    }

    #[test]
    fn what_the_guest_may_have_written_is_refused() {
        let mut lying = vec![0; 48];
        lying.extend(chunk(0, 0, b"12345678"));
        lying[48 + 4..48 + 8].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut short = record(1, &[0; 48]);
        short.truncate(60);
        for bytes in
            [record(1, &[0; 40]), record(2, &[]), record(3, &[0; 48]), record(1, &lying), short, Vec::new()]
        {
            assert!(parse(&bytes).is_err());
        }
        let many: Vec<u8> = (0..200).flat_map(|_| chunk(0, 0, b"")).collect();
        assert_eq!(parse(&record(2, &[vec![0; 8], many].concat())), Err(RecordError::Parts));
    }
}
