//! The kernel's log: `dmesg`, from the ring of records that Linux has had since 5.10 (`kernel/printk/printk_ringbuffer.c`).

use honeyvmm::memory::Gva;
use serde::Serialize;

use super::{Listing, WalkError};
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Snapshot, Unknown, layout, size_of, symbol};

/// Steps that suffice for a ring of [`RECORDS_MAX`].
pub const STEPS_MAX: u32 = 1 << 20;
/// The most records that are read; a ring of 128 KiB of text has 4096.
pub const RECORDS_MAX: u64 = 1 << 17;
/// log2 of the largest ring of records and of the largest ring of text that are believed.
const COUNT_BITS_MAX: u64 = 24;
const SIZE_BITS_MAX: u64 = 30;
/// A record's text is preceded by the number of the record that it is of.
const TEXT_HEADER_BYTES: u64 = 8;
/// A descriptor's upper two bits say how far a record is, the others its number.
const STATE_SHIFT: u32 = 62;
const ID_MASK: u64 = (1 << STATE_SHIFT) - 1;
const COMMITTED: u64 = 1;
const FINALIZED: u64 = 2;

layout! {
    RingLayout = "printk_ringbuffer" {
        count_bits: "desc_ring.count_bits",
        descriptors: "desc_ring.descs",
        infos: "desc_ring.infos",
        newest: "desc_ring.head_id",
        oldest: "desc_ring.tail_id",
        size_bits: "text_data_ring.size_bits",
        text: "text_data_ring.data",
    }
}

layout! {
    DescriptorLayout = "prb_desc" {
        state: "state_var",
        begin: "text_blk_lpos.begin",
        next: "text_blk_lpos.next",
    }
}

layout! {
    InfoLayout = "printk_info" {
        number: "seq",
        time: "ts_nsec",
        text_bytes: "text_len",
        facility: "facility",
        // Three bits of the byte with the flags.
        level: "level",
    }
}

/// A line of the log, or several that were printed at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Counted from boot, without gaps.
    pub number: u64,
    /// Nanoseconds since boot.
    pub time_ns: u64,
    /// Syslog's severity: 0 emergency to 7 debug.
    pub severity: u8,
    /// Syslog's facility; 0 is the kernel.
    pub facility: u8,
    /// Text, without a line feed at its end.
    pub text: String,
}

/// Where the ring is.
#[derive(Debug, Clone)]
pub struct Log {
    ring: Gva,
    layout: RingLayout,
    descriptor: DescriptorLayout,
    info: InfoLayout,
    descriptor_bytes: u64,
    info_bytes: u64,
}

impl Log {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            ring: symbol(symbols, "prb")?,
            layout: RingLayout::of(symbols)?,
            descriptor: DescriptorLayout::of(symbols)?,
            info: InfoLayout::of(symbols)?,
            descriptor_bytes: size_of(symbols, "prb_desc")?,
            info_bytes: size_of(symbols, "printk_info")?,
        })
    }

    /// The records that are still in the ring, the oldest first.
    #[must_use]
    pub fn list(&self, look: &Look<'_>) -> Listing<Record> {
        let ring = match self.ring(look) {
            Ok(ring) => ring,
            Err(error) => return Listing::failed(error),
        };
        let (oldest, newest) = (ring.u64(self.layout.oldest), ring.u64(self.layout.newest));
        let mut count = (newest.wrapping_sub(oldest) & ID_MASK).saturating_add(1);
        let mut listing = Listing::new();
        if count > RECORDS_MAX {
            listing.note(WalkError::TooMany { what: "records of the log", max: RECORDS_MAX as usize });
            count = RECORDS_MAX;
        }
        for behind in 0..count {
            match self.record(look, &ring, oldest.wrapping_add(behind) & ID_MASK) {
                Ok(Some(record)) => listing.items.push(record),
                Ok(None) => {}
                Err(error) => {
                    let is_over = look.step().is_err();
                    listing.note(error);
                    if is_over {
                        break;
                    }
                }
            }
        }
        listing
    }

    fn ring(&self, look: &Look<'_>) -> Result<Snapshot, WalkError> {
        // A pointer: the ring of early boot is exchanged for a larger one.
        let ring = self.layout.read(look, look.pointer(self.ring)?)?;
        for (field, bits_max, what) in [
            (self.layout.count_bits, COUNT_BITS_MAX, "bits of a record's number"),
            (self.layout.size_bits, SIZE_BITS_MAX, "bits of a place in the log"),
        ] {
            if ring.u64(field) > bits_max {
                return Err(WalkError::TooMany { what, max: bits_max as usize });
            }
        }
        Ok(ring)
    }

    /// A record; `None` for one that is being written, or has been overwritten since.
    fn record(&self, look: &Look<'_>, ring: &Snapshot, id: u64) -> Result<Option<Record>, WalkError> {
        let index = id & ((1 << ring.u64(self.layout.count_bits)) - 1);
        let place = |base: Gva, bytes: u64| Gva(base.0.wrapping_add(index.wrapping_mul(bytes)));
        let descriptor_at = place(ring.pointer(self.layout.descriptors), self.descriptor_bytes);
        let descriptor = self.descriptor.read(look, descriptor_at)?;
        let state = descriptor.u64(self.descriptor.state);
        if state & ID_MASK != id || !matches!(state >> STATE_SHIFT, COMMITTED | FINALIZED) {
            return Ok(None);
        }
        let info = self.info.read(look, place(ring.pointer(self.layout.infos), self.info_bytes))?;
        let text = self.text(look, ring, &descriptor, info.u64(self.info.text_bytes))?;
        let is_still_there = self.descriptor.read(look, descriptor_at)?.u64(self.descriptor.state) == state;
        // Behind the facility's byte come five bits of flags and three of the severity.
        let severity = info.bytes(self.info.level).last().map_or(0, |byte| byte >> 5);
        Ok(is_still_there.then(|| Record {
            number: info.u64(self.info.number),
            time_ns: info.u64(self.info.time),
            severity,
            facility: info.u64(self.info.facility) as u8,
            text,
        }))
    }

    /// The text of a record: between two positions that only grow. One that would go over the ring's end lies at its start.
    fn text(
        &self,
        look: &Look<'_>,
        ring: &Snapshot,
        descriptor: &Snapshot,
        text_bytes: u64,
    ) -> Result<String, WalkError> {
        let size = 1u64 << ring.u64(self.layout.size_bits);
        let (begin, next) = (descriptor.u64(self.descriptor.begin), descriptor.u64(self.descriptor.next));
        // Odd positions say that there is no text.
        if begin & 1 != 0 {
            return Ok(String::new());
        }
        let is_wrapped = begin / size != next.wrapping_sub(1) / size;
        let (start, bytes) =
            if is_wrapped { (0, next % size) } else { (begin % size, next.saturating_sub(begin)) };
        let text_bytes = text_bytes.min(bytes.saturating_sub(TEXT_HEADER_BYTES));
        let at = ring.u64(self.layout.text).wrapping_add(start + TEXT_HEADER_BYTES);
        Ok(String::from_utf8_lossy(&look.bytes(Gva(at), text_bytes)?).into_owned())
    }
}
