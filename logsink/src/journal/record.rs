//! One record of the journal, and a segment of them. Pure but for the `Read` that a segment comes from.
//!
//! Segment: magic (8), index of its first record (u64), hash of the record before it (32). Record: payload length (u32), CRC-32 of all
//! that follows (u32), time of receipt in microseconds since 1970 (i64), `prev_hash` (32), payload. Numbers are little endian.
//! A record's hash is BLAKE3 over its index, time, `prev_hash` and payload; the next record carries it.

use std::io::{self, Read};

use jiff::Timestamp;

/// First bytes of a segment file.
pub const MAGIC: [u8; 8] = *b"HNJRNL01";
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = 48;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 48;
/// Longest payload: a message of `events::wire`.
pub const PAYLOAD_BYTES_MAX: usize = events::wire::MESSAGE_BYTES_MAX;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 1; no hole.
    pub index: u64,
    /// When the sink took it.
    pub received: Timestamp,
    /// Hash of the record before it.
    pub prev_hash: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// The RFC 5424 message.
    pub payload: Vec<u8>,
}

/// What stops the reading of a segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The file could not be read.
    #[error("segment cannot be read")]
    Io(#[from] io::Error),
    /// The first bytes are not a segment's.
    #[error("segment has no valid header")]
    BadHeader,
    /// The bytes from here to the end are no record: torn by a crash, or damaged.
    #[error("segment is broken at byte {offset}: {why}")]
    Broken {
        /// Where the last good record ends.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
}

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Index of its first record.
    pub first_index: u64,
    /// Hash of the record before that one; zeros for the first of all.
    pub prev_hash: Hash,
}

impl SegmentHeader {
    /// The bytes at the start of the file.
    pub fn encode(&self) -> Vec<u8> {
        [&MAGIC[..], &self.first_index.to_le_bytes(), &self.prev_hash].concat()
    }

    /// Reads them back.
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES]) -> Option<SegmentHeader> {
        let (magic, rest) = bytes.split_first_chunk::<8>()?;
        let (index, hash) = rest.split_first_chunk::<8>()?;
        let first_index = u64::from_le_bytes(*index);
        let valid = *magic == MAGIC && first_index > 0;
        valid.then_some(SegmentHeader { first_index, prev_hash: hash.try_into().ok()? })
    }
}

/// Hash of a record with this content.
pub fn hash_of(index: u64, received: Timestamp, prev_hash: &Hash, payload: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&index.to_le_bytes());
    hasher.update(&received.as_microsecond().to_le_bytes());
    hasher.update(prev_hash);
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

/// Appends a record's bytes to `out` and gives its hash.
pub fn encode(index: u64, received: Timestamp, prev_hash: &Hash, payload: &[u8], out: &mut Vec<u8>) -> Hash {
    let time = received.as_microsecond().to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&time);
    crc.update(prev_hash);
    crc.update(payload);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&time);
    out.extend_from_slice(prev_hash);
    out.extend_from_slice(payload);
    hash_of(index, received, prev_hash, payload)
}

/// Reads a segment from its start.
pub struct SegmentReader<R> {
    input: R,
    header: SegmentHeader,
    next_index: u64,
    offset: u64,
}

impl<R: Read> SegmentReader<R> {
    /// Reads the segment's header.
    pub fn new(mut input: R) -> Result<SegmentReader<R>, SegmentError> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        if fill(&mut input, &mut bytes)? != bytes.len() {
            return Err(SegmentError::BadHeader);
        }
        let header = SegmentHeader::decode(&bytes).ok_or(SegmentError::BadHeader)?;
        let offset = SEGMENT_HEADER_BYTES as u64;
        Ok(SegmentReader { input, header, next_index: header.first_index, offset })
    }

    /// The segment's header.
    pub fn header(&self) -> SegmentHeader {
        self.header
    }

    /// Where the next record begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` at the end. The chain is not checked here, only the checksum.
    pub fn next_record(&mut self) -> Result<Option<Record>, SegmentError> {
        let broken = |why| SegmentError::Broken { offset: self.offset, why };
        let mut header = [0; RECORD_HEADER_BYTES];
        match fill(&mut self.input, &mut header)? {
            0 => return Ok(None),
            RECORD_HEADER_BYTES => {}
            _ => return Err(broken("record header is cut")),
        }
        let [length, crc, time, prev_hash] = fields(&header).ok_or(broken("record header is cut"))?;
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(broken("record is longer than any can be"));
        }
        let mut payload = vec![0; length];
        if fill(&mut self.input, &mut payload)? != length {
            return Err(broken("record is cut"));
        }
        let mut sum = crc32fast::Hasher::new();
        sum.update(time);
        sum.update(prev_hash);
        sum.update(&payload);
        if sum.finalize().to_le_bytes() != crc {
            return Err(broken("checksum is wrong"));
        }
        let micros = i64::from_le_bytes(time.try_into().unwrap_or_default());
        let received = Timestamp::from_microsecond(micros).map_err(|_| broken("time is out of range"))?;
        let prev_hash: Hash = prev_hash.try_into().unwrap_or_default();
        let index = self.next_index;
        self.next_index = index.checked_add(1).ok_or(broken("index is out of range"))?;
        self.offset += (RECORD_HEADER_BYTES + length) as u64;
        let hash = hash_of(index, received, &prev_hash, &payload);
        Ok(Some(Record { index, received, prev_hash, hash, payload }))
    }
}

/// Length, checksum, time, `prev_hash`.
fn fields(header: &[u8; RECORD_HEADER_BYTES]) -> Option<[&[u8]; 4]> {
    Some([header.get(0..4)?, header.get(4..8)?, header.get(8..16)?, header.get(16..48)?])
}

/// Reads until the buffer is full or the input ends; gives the count.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = buffer.get_mut(count..).filter(|r| !r.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(payloads: &[&[u8]]) -> Vec<u8> {
        let mut prev = [7; 32];
        let mut out = SegmentHeader { first_index: 5, prev_hash: prev }.encode();
        for (index, payload) in (5..).zip(payloads) {
            prev = encode(index, Timestamp::UNIX_EPOCH, &prev, payload, &mut out);
        }
        out
    }

    fn read(bytes: &[u8]) -> (Vec<Record>, Option<SegmentError>) {
        let mut records = Vec::new();
        let mut reader = match SegmentReader::new(bytes) {
            Ok(reader) => reader,
            Err(error) => return (records, Some(error)),
        };
        loop {
            match reader.next_record() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => return (records, None),
                Err(error) => return (records, Some(error)),
            }
        }
    }

    #[test]
    fn records_are_read_back_chained() {
        let (records, error) = read(&segment(&[b"one", b"", b"three"]));
        assert!(error.is_none());
        assert_eq!(records.iter().map(|r| r.index).collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(records[2].payload, b"three");
        assert_eq!(records[1].prev_hash, records[0].hash);
    }

    #[test]
    fn a_segment_cut_anywhere_gives_its_whole_records_and_where_they_end() {
        let whole = segment(&[b"one", b"two"]);
        for cut in 0..whole.len() {
            let (records, error) = read(&whole[..cut]);
            let (first, second) = (48, 48 + 48 + 3);
            match error {
                Some(SegmentError::BadHeader) => assert!(cut < 48),
                Some(SegmentError::Broken { offset, .. }) => {
                    assert_eq!(offset, if records.is_empty() { first } else { second });
                }
                None => assert!(cut == first as usize || cut == second as usize, "{cut}"),
                Some(SegmentError::Io(e)) => panic!("{e}"),
            }
        }
    }

    #[test]
    fn a_flipped_bit_after_the_header_is_noticed() {
        let whole = segment(&[b"one"]);
        for at in 48..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(matches!(read(&bytes), (records, Some(_)) if records.is_empty()), "byte {at}");
        }
    }
}
