//! The second half of kallsyms: a 32-bit offset for each name, and what it is relative to.

use honeyvmm::memory::Gva;

use super::search::{Found, u32_at};
use super::{KallsymsError, Names, Tables};
use crate::symbols::segments::{Run, Segments};

/// Every label of kallsyms is aligned so.
const ALIGN: usize = 8;
/// What `linux_banner` must point at.
const BANNER: &[u8] = b"Linux version ";

/// Order of the tables, and what an offset means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// To 6.3: offsets before the names.
    OffsetsFirst(Base),
    /// Since 6.4: offsets behind the token index.
    OffsetsLast(Base),
    /// Newer ones: offsets behind the token index, each relative to where it lies itself.
    SelfRelative,
}

/// What an offset is relative to where there is a `kallsyms_relative_base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// `CONFIG_KALLSYMS_ABSOLUTE_PERCPU`: v >= 0 is absolute, v < 0 is base - 1 - v.
    AbsolutePercpu,
    /// All are base + v, v without a sign.
    Relative,
}

/// In the order in which they are tried.
const LAYOUTS: [Layout; 5] = [
    Layout::OffsetsFirst(Base::AbsolutePercpu),
    Layout::OffsetsLast(Base::AbsolutePercpu),
    Layout::OffsetsFirst(Base::Relative),
    Layout::OffsetsLast(Base::Relative),
    Layout::SelfRelative,
];

/// One layout laid over the bytes.
struct Offsets<'a> {
    bytes: &'a [u8],
    address: u64,
    base: u64,
    layout: Layout,
}

impl Offsets<'_> {
    fn address_of(&self, index: usize) -> Option<u64> {
        let value = u32_at(self.bytes, 4 * index)?;
        let signed = i64::from(value.cast_signed());
        Some(match self.layout {
            Layout::OffsetsFirst(Base::AbsolutePercpu) | Layout::OffsetsLast(Base::AbsolutePercpu) => {
                match signed {
                    0.. => u64::from(value),
                    _ => self.base.wrapping_sub(1).wrapping_add_signed(-signed),
                }
            }
            Layout::OffsetsFirst(Base::Relative) | Layout::OffsetsLast(Base::Relative) => {
                self.base.wrapping_add(u64::from(value))
            }
            Layout::SelfRelative => self.address.wrapping_add(4 * index as u64).wrapping_add_signed(signed),
        })
    }
}

/// Finds the layout in which `linux_banner` points at the banner, and gives each name its address.
pub(super) fn assign(
    kernel: &Segments<'_>,
    run: Run<'_>,
    found: Found,
) -> Result<(Layout, Tables, Vec<u64>, Names), KallsymsError> {
    let count = found.count();
    let banner = found.names.iter().position(|name| name == "linux_banner");
    let banner = banner.ok_or(KallsymsError::NoBanner(count))?;
    for layout in LAYOUTS {
        let Some((tables, offsets)) = lay_over(run, &found, layout) else { continue };
        let at = offsets.address_of(banner).and_then(|address| kernel.from(Gva(address)));
        if at.is_some_and(|bytes| bytes.starts_with(BANNER)) {
            let addresses = (0..count).map(|index| offsets.address_of(index)).collect::<Option<_>>();
            let addresses = addresses.ok_or(KallsymsError::NoAddresses(count))?;
            return Ok((layout, tables, addresses, found.names));
        }
    }
    Err(KallsymsError::NoAddresses(count))
}

fn lay_over<'a>(run: Run<'a>, found: &Found, layout: Layout) -> Option<(Tables, Offsets<'a>)> {
    let count = found.count();
    let offsets_bytes = (4 * count).next_multiple_of(ALIGN);
    let aligned = |at: usize| at.checked_next_multiple_of(ALIGN);
    let (offsets, base, seqs) = match layout {
        Layout::OffsetsFirst(_) => {
            let base = found.names_at.checked_sub(16)?;
            let seqs = aligned(found.markers_end)?;
            let seqs = (seqs + 3 * count <= found.token_table_at).then_some(seqs);
            (base.checked_sub(offsets_bytes)?, Some(base), seqs)
        }
        Layout::OffsetsLast(_) => {
            let offsets = aligned(found.token_index_end)?;
            let base = offsets.checked_add(offsets_bytes)?;
            (offsets, Some(base), Some(base + 8))
        }
        Layout::SelfRelative => {
            let offsets = aligned(found.token_index_end)?;
            (offsets, None, Some(offsets + offsets_bytes))
        }
    };
    let address = |at: usize| Gva(run.start.0.wrapping_add(at as u64));
    let tables = Tables {
        offsets: address(offsets),
        relative_base: base.map(address),
        num_syms: address(found.names_at - 8),
        names: address(found.names_at),
        markers: address(found.markers_at),
        seqs: seqs.map(address),
        token_table: address(found.token_table_at),
        token_index: address(found.token_index_at),
    };
    let base = match base {
        Some(at) => u64::from_le_bytes(run.bytes.get(at..)?.first_chunk().copied()?),
        None => 0,
    };
    let bytes = run.bytes.get(offsets..offsets + 4 * count)?;
    Some((tables, Offsets { bytes, address: tables.offsets.0, base, layout }))
}
