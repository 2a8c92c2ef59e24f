//! Where things are in a kernel: addresses from its kallsyms, layouts from its BTF, both found in the image that we boot.
//!
//! Decoding takes well under a tenth of a second, so that nothing is kept in files; [`SymbolsCache`] keeps the last kernels of a
//! process.

pub mod btf;
mod cache;
mod gaps;
pub mod isf;
pub mod kallsyms;
mod names;
pub mod random_state;
pub mod segments;

use honeyvmm::kernel_image::KernelImage;
use honeyvmm::memory::Gva;
use thiserror::Error;

use btf::{Bits, Btf, BtfError};
pub use cache::SymbolsCache;
pub use gaps::Gap;
use kallsyms::{Kallsyms, KallsymsError, Symbol};
use segments::Segments;

/// The longest banner that is believed; Linux' own line has 200 bytes.
const BANNER_BYTES_MAX: usize = 512;

/// Why a kernel's symbols cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SymbolsError {
    /// No addresses, and without them nothing.
    #[error("kernel has no symbols that can be read")]
    Kallsyms(#[from] KallsymsError),
    /// `linux_banner` points at no text with an end.
    #[error("kernel's banner is no text of at most {BANNER_BYTES_MAX} bytes")]
    Banner,
}

/// Why a kernel's layouts are not known, and what that costs.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LayoutsError {
    /// `CONFIG_DEBUG_INFO_BTF` is off.
    #[error(
        "kernel has no BTF (CONFIG_DEBUG_INFO_BTF is off): addresses are known, but no tasks, files, sockets or modules can be shown"
    )]
    NoBtf,
    /// There is BTF, but it cannot be read.
    #[error(
        "kernel's BTF cannot be read: addresses are known, but no tasks, files, sockets or modules can be shown"
    )]
    Btf(#[from] BtfError),
}

/// A kernel's symbols.
#[derive(Debug)]
pub struct Symbols {
    kallsyms: Kallsyms,
    btf: Result<Btf, LayoutsError>,
    build_id: Vec<u8>,
    /// As the kernel holds it, with its line feed.
    banner: String,
    /// Addresses of the kernel's own code and data: `_text` to `_end`.
    kernel: std::ops::Range<u64>,
    /// Offsets in the per-cpu area, or, since 6.15, addresses in its first copy.
    percpu: std::ops::Range<u64>,
}

/// A member of a struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Offset in bytes from the outer struct's first byte; of a bitfield, to its storage unit.
    pub offset: u64,
    /// Size in bytes; of a bitfield, of its storage unit. 0 for an array without a length.
    pub bytes: u64,
    /// Where it is a bitfield.
    pub bits: Option<Bits>,
}

impl Symbols {
    /// Decodes kallsyms and BTF of a kernel. One without BTF still gives addresses; [`Symbols::layouts`] says so.
    ///
    /// # Errors
    /// [`SymbolsError`] if there are no addresses.
    pub fn of_kernel(image: &KernelImage<'_>) -> Result<Self, SymbolsError> {
        let segments = Segments::of_kernel(image);
        let kallsyms = Kallsyms::decode(&segments)?;
        let address = |name| kallsyms.find(name).map(|symbol| symbol.address);
        let banner = address("linux_banner").and_then(|at| text_at(&segments, at));
        let banner = banner.ok_or(SymbolsError::Banner)?.to_owned();
        let btf = match (address("__start_BTF"), address("__stop_BTF")) {
            (Some(start), Some(stop)) => segments.between(start, stop),
            _ => None,
        };
        let btf = btf.ok_or(LayoutsError::NoBtf).and_then(|bytes| Ok(Btf::decode(bytes)?));
        let range = |start, end| address(start).zip(address(end)).map_or(0..0, |(start, end)| start.0..end.0);
        let kernel = range("_text", "_end");
        let percpu = range("__per_cpu_start", "__per_cpu_end");
        let build_id = image.build_id().unwrap_or_default().to_vec();
        Ok(Self { kallsyms, btf, build_id, banner, kernel, percpu })
    }

    /// The address of a symbol; the lowest one where a name is there twice. Per-cpu symbols have none: see [`Symbols::percpu`].
    #[must_use]
    pub fn address(&self, name: &str) -> Option<Gva> {
        let address = self.kallsyms.find(name)?.address;
        (!self.is_percpu(address.0)).then_some(address)
    }

    /// The symbol that an address of kernel code or data lies in, and how many bytes behind its start; `None` outside of
    /// the kernel's image, so for modules.
    #[must_use]
    pub fn nearest(&self, at: Gva) -> Option<(&str, u64)> {
        if !self.kernel.contains(&at.0) {
            return None;
        }
        let symbol = self.kallsyms.nearest(at)?;
        Some((symbol.name, at.0 - symbol.address.0))
    }

    /// What to add to `__per_cpu_offset[cpu]` for the address of a per-cpu variable.
    #[must_use]
    pub fn percpu(&self, name: &str) -> Option<u64> {
        let offset = self.kallsyms.find(name)?.address.0;
        self.is_percpu(offset).then_some(offset)
    }

    fn is_percpu(&self, address: u64) -> bool {
        self.percpu.contains(&address)
    }

    /// A member by its dotted path (`mm.pgd` only where `mm` is embedded, never through a pointer), also inside anonymous members;
    /// `type_name` is a struct, a union or a typedef of one, without the keyword.
    #[must_use]
    pub fn member(&self, type_name: &str, path: &str) -> Option<Member> {
        let btf = self.btf.as_ref().ok()?;
        let found = btf.member(btf.find_type(type_name)?, path)?;
        Some(Member { offset: found.offset, bytes: found.bytes, bits: found.bits })
    }

    /// Size of a type in bytes.
    #[must_use]
    pub fn size_of(&self, type_name: &str) -> Option<u64> {
        let btf = self.btf.as_ref().ok()?;
        btf.bytes_of(btf.find_type(type_name)?)
    }

    /// Value of a constant of any enumeration; the first one where a name is there twice.
    #[must_use]
    pub fn enumerator(&self, name: &str) -> Option<i64> {
        self.btf.as_ref().ok()?.enumerator(name)
    }

    /// The linker's build id; empty if the kernel has none.
    #[must_use]
    pub fn build_id(&self) -> &[u8] {
        &self.build_id
    }

    /// The kernel's banner, `Linux version 6.1.0-56-cloud-amd64 …`, without its line feed.
    #[must_use]
    pub fn banner(&self) -> &str {
        self.banner.trim_end()
    }

    /// All symbols, by address.
    pub fn symbols(&self) -> impl ExactSizeIterator<Item = Symbol<'_>> + Clone {
        self.kallsyms.symbols()
    }

    /// The addresses alone.
    #[must_use]
    pub fn kallsyms(&self) -> &Kallsyms {
        &self.kallsyms
    }

    /// The kernel's types.
    ///
    /// # Errors
    /// [`LayoutsError`]: in one sentence, why there are none and what cannot be shown.
    pub fn layouts(&self) -> Result<&Btf, &LayoutsError> {
        self.btf.as_ref()
    }
}

/// The text at an address up to its NUL.
fn text_at<'a>(segments: &Segments<'a>, at: Gva) -> Option<&'a str> {
    let bytes = segments.from(at)?;
    let end = memchr::memchr(0, &bytes[..bytes.len().min(BANNER_BYTES_MAX)])?;
    std::str::from_utf8(&bytes[..end]).ok()
}
