//! An event: its header (`struct ppm_evt_hdr` of `driver/ppm_events_public.h`), the lengths of its parameters, the parameters.

use super::block::{self, EVENT, EVENT_WITH_FLAGS};

/// Header: time, thread, length, type, number of parameters.
const HEADER_BYTES: usize = 26;
/// `SCAP_MAX_PATH_SIZE`, its NUL included.
pub const TEXT_BYTES_MAX: usize = 1024;
/// `SCAP_MAX_ARGS_SIZE` and `SCAP_MAX_ENV_SIZE`.
pub const STRINGS_BYTES_MAX: usize = 4096;
/// A reader's buffer for one event is 64 KiB (`READER_BUF_SIZE`); this leaves room for the other parameters of any event.
pub const DATA_BYTES_MAX: usize = 56 * 1024;
/// `SCAP_DF_STATE_ONLY` of `userspace/libscap/scap.h`: a reader learns from the event and does not show it.
const STATE_ONLY: u32 = 1;

/// Of whom an event is, and when.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// Thread.
    pub tid: u32,
    /// Where it ran.
    pub vcpu: u32,
}

/// Whether a reader shows an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It does.
    Yes,
    /// It only keeps its books of processes and files by it.
    ForState,
}

/// Parameters of an event, in order.
#[derive(Debug, Default)]
pub struct Parameters {
    lengths: Vec<u16>,
    bytes: Vec<u8>,
}

impl Parameters {
    /// One more, cut to the most that any may have.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.cut(bytes, DATA_BYTES_MAX);
    }

    /// A number, little endian.
    pub fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.cut(&bytes, N);
    }

    /// `PT_FD`, `PT_PID`, `PT_ERRNO`.
    pub fn i64(&mut self, value: i64) {
        self.number(value.to_le_bytes());
    }

    /// `PT_UINT32` and what is as long.
    pub fn u32(&mut self, value: u32) {
        self.number(value.to_le_bytes());
    }

    /// `PT_CHARBUF` and paths: up to its first NUL, with one after it.
    pub fn text(&mut self, text: &[u8]) {
        let mut text = until_nul(text, TEXT_BYTES_MAX - 1).to_vec();
        text.push(0);
        self.cut(&text, TEXT_BYTES_MAX);
    }

    /// Strings, each with its NUL; as many as fit.
    pub fn strings<'a>(&mut self, strings: impl IntoIterator<Item = &'a [u8]>) {
        self.cut(&joined(strings), STRINGS_BYTES_MAX);
    }

    fn cut(&mut self, bytes: &[u8], bytes_max: usize) {
        let kept = &bytes[..bytes.len().min(bytes_max)];
        self.lengths.push(kept.len() as u16);
        self.bytes.extend(kept);
    }

    /// The block of an event of this type with these parameters.
    pub fn event(self, event_type: u16, stamp: Stamp, shown: Shown) -> Vec<u8> {
        let length = HEADER_BYTES + 2 * self.lengths.len() + self.bytes.len();
        let mut contents = Vec::with_capacity(length + 6);
        contents.extend((stamp.vcpu as u16).to_le_bytes());
        if shown == Shown::ForState {
            contents.extend(STATE_ONLY.to_le_bytes());
        }
        contents.extend(stamp.time_ns.to_le_bytes());
        contents.extend(u64::from(stamp.tid).to_le_bytes());
        contents.extend((length as u32).to_le_bytes());
        contents.extend(event_type.to_le_bytes());
        contents.extend((self.lengths.len() as u32).to_le_bytes());
        self.lengths.iter().for_each(|length| contents.extend(length.to_le_bytes()));
        contents.extend(self.bytes);
        block::block(if shown == Shown::ForState { EVENT_WITH_FLAGS } else { EVENT }, &contents)
    }
}

/// Strings, each with its NUL; as many as fit whole, and of a first one that is too long its beginning.
pub fn joined<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut joined = Vec::new();
    for string in strings {
        let string = until_nul(string, STRINGS_BYTES_MAX - 1);
        if joined.len() + string.len() + 1 > STRINGS_BYTES_MAX {
            break;
        }
        joined.extend(string);
        joined.push(0);
    }
    joined
}

/// What is before a NUL, and no more than so many bytes.
pub fn until_nul(text: &[u8], bytes_max: usize) -> &[u8] {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    &text[..end.min(bytes_max)]
}
