//! Contents of files as they lie in the guest's page cache, also of files that have no name any more.

use std::ops::Range;

use honeyvmm::memory::{Gpa, Gva, PAGE_SIZE};
use serde::Serialize;

use super::WalkError;
use super::xarray::{self, Entry, Xarray};
use crate::symbols::Symbols;
use crate::view::Look;
use crate::view::layout::{Field, Unknown, layout, size_of};

/// Steps that suffice for a file of a gigabyte.
pub const STEPS_MAX: u32 = 1 << 21;
/// The most entries of a file's tree: a gigabyte in single pages.
const ENTRIES_MAX: usize = 1 << 18;

/// The longest file that is copied, whatever is asked for and whatever length the guest says it has.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

layout! {
    InodeLayout = "inode" {
        mapping: "i_mapping",
        size: "i_size",
    }
}

/// What is cached of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CachedFile {
    /// Length that the file says it has.
    pub size: u64,
    /// Its bytes, at most as many as were asked for; zero where a page is absent.
    #[serde(skip)]
    pub bytes: Vec<u8>,
    /// Where `bytes` says nothing: pages that are only on the disk, or holes.
    pub absent: Vec<Range<u64>>,
}

/// Where the parts of the page cache are.
#[derive(Debug, Clone)]
pub struct PageCache {
    inode: InodeLayout,
    pages: Field,
    xarray: Xarray,
    page_bytes: u64,
    page_mapping: Field,
}

impl PageCache {
    /// For the kernel of these symbols.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn of(symbols: &Symbols) -> Result<Self, Unknown> {
        Ok(Self {
            inode: InodeLayout::of(symbols)?,
            pages: Field::find(symbols, "address_space", "i_pages|page_tree", "address_space.i_pages")?,
            xarray: Xarray::of(symbols)?,
            page_bytes: size_of(symbols, "page")?,
            page_mapping: Field::find(symbols, "page", "mapping", "page.mapping")?,
        })
    }

    /// The first `bytes_max` bytes of the file with this `struct inode`.
    ///
    /// # Errors
    /// [`WalkError`]; a file of which no page is cached is none.
    pub fn read(&self, look: &Look<'_>, inode: Gva, bytes_max: u64) -> Result<CachedFile, WalkError> {
        let inode = self.inode.read(look, inode)?;
        let mapping = inode.pointer(self.inode.mapping);
        let size = inode.u64(self.inode.size);
        let length = size.min(bytes_max).min(FILE_BYTES_MAX);
        let entries = self.xarray.entries(look, self.pages.of(mapping), ENTRIES_MAX);
        if let Some(error) = entries.incomplete {
            return Err(error);
        }
        let mut bytes = vec![0; length as usize];
        let mut absent = Absent::default();
        for entry in entries.items {
            self.copy(look, mapping, entry, &mut bytes, &mut absent)?;
        }
        absent.until(length);
        Ok(CachedFile { size, bytes, absent: absent.ranges })
    }

    /// Copies the pages of one entry, as far as they belong to the file.
    fn copy(
        &self,
        look: &Look<'_>,
        mapping: Gva,
        entry: Entry,
        bytes: &mut [u8],
        absent: &mut Absent,
    ) -> Result<(), WalkError> {
        // A value is the shadow of a page that was there once, or the place of one in the swap.
        let Some(page) = xarray::pointer(entry) else { return Ok(()) };
        let is_of_file = || look.pointer(self.page_mapping.of(page)) == Ok(mapping);
        let Some(pfn) = look.pfn_of_page(page, self.page_bytes).filter(|_| is_of_file()) else {
            look.step()?;
            return Ok(());
        };
        for number in 0..entry.count {
            let Some(start) = entry.index.checked_add(number).and_then(|index| index.checked_mul(PAGE_SIZE))
            else {
                break;
            };
            if start >= bytes.len() as u64 {
                break;
            }
            look.step()?;
            let end = (start + PAGE_SIZE).min(bytes.len() as u64);
            let gpa = Gpa((pfn + number) * PAGE_SIZE);
            let copied = look.view().read_ram(gpa, &mut bytes[start as usize..end as usize]);
            // Given to another file while it was copied: what we have is that one's.
            if copied.is_ok() && is_of_file() {
                absent.until(start);
                absent.known_to = end;
            } else {
                bytes[start as usize..end as usize].fill(0);
            }
        }
        Ok(())
    }
}

/// Gaps between what was copied, in order.
#[derive(Debug, Default)]
struct Absent {
    ranges: Vec<Range<u64>>,
    known_to: u64,
}

impl Absent {
    fn until(&mut self, start: u64) {
        if self.known_to < start {
            self.ranges.push(self.known_to..start);
        }
        self.known_to = start.max(self.known_to);
    }
}
