//! What this process itself writes to guest memory, noted page by page while the dirty log is on. What the guest writes, KVM notes.

use std::sync::OnceLock;

use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

use super::PAGE_SIZE;
use crate::dirty::Bits;

/// Where a region's writes are noted; nowhere until bits are attached.
#[derive(Debug, Default)]
pub struct PageLog(OnceLock<Bits>);

impl PageLog {
    /// Notes them there from now on. Once; a second time changes nothing.
    pub fn attach(&self, bits: Bits) {
        // What is there already is this domain's too: it has one log.
        let _ = self.0.set(bits);
    }
}

impl NewBitmap for PageLog {
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}

impl<'a> WithBitmapSlice<'a> for PageLog {
    type S = PageLogSlice<'a>;
}

impl Bitmap for PageLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(bits) = self.0.get()
            && len > 0
        {
            bits.mark(offset as u64 / PAGE_SIZE..(offset as u64 + len as u64).div_ceil(PAGE_SIZE));
        }
    }

    /// Nobody asks here: bits are taken from the log.
    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> PageLogSlice<'_> {
        PageLogSlice { log: self, offset }
    }
}

/// The log of a piece of a region.
#[derive(Debug, Clone, Copy)]
pub struct PageLogSlice<'a> {
    log: &'a PageLog,
    offset: usize,
}

impl<'a> WithBitmapSlice<'_> for PageLogSlice<'a> {
    type S = PageLogSlice<'a>;
}

impl BitmapSlice for PageLogSlice<'_> {}

impl<'a> Bitmap for PageLogSlice<'a> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.log.mark_dirty(self.offset + offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.log.dirty_at(self.offset + offset)
    }

    fn slice_at(&self, offset: usize) -> PageLogSlice<'a> {
        PageLogSlice { log: self.log, offset: self.offset + offset }
    }
}
