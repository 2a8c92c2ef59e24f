//! A kernel as it lies on disk: bzImage or ELF, taken apart into what a Xen PV domain is built from.
//!
//! The bzImage is that of Linux' Documentation/arch/x86/boot.rst; the notes are those of Xen's public header
//! `elfnote.h`. Pure: bytes in, values out. Nothing is loaded here, modules and kernels of other machines are
//! refused, and no byte is copied that need not be: segments are ranges of the input if that is an ELF file already.

mod bzimage;
mod elf;
mod notes;
mod payload;

use std::borrow::Cow;
use std::ops::Range;

use thiserror::Error;

use crate::memory::{Gpa, Gva};

/// The largest kernel, unpacked. A Debian kernel has 53 MB, one with everything built in and debug sections 400 MB.
pub const KERNEL_BYTES_MAX: usize = 512 << 20;
/// The most program headers that are read. Linux has five.
pub const PROGRAM_HEADERS_MAX: usize = 64;
/// The most ELF notes that are read. Linux has about 25.
pub const NOTES_MAX: usize = 256;
/// The longest text in a Xen note that is kept, in bytes.
pub const NOTE_TEXT_BYTES_MAX: usize = 1024;

/// Why a file is no kernel that a domain can start from.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KernelImageError {
    /// Neither a bzImage nor an ELF file.
    #[error("not a kernel: neither a bzImage nor an ELF file")]
    NotAKernel,
    /// An ELF file of another kind: 32 bits, another machine, a shared object, a core.
    #[error("not an x86-64 kernel: {0}")]
    WrongElf(&'static str),
    /// The file ends before something that its headers promise.
    #[error("kernel image is truncated: {what} ends at byte {end}, the file has {bytes}")]
    Truncated {
        /// What is not whole.
        what: &'static str,
        /// Where it should end.
        end: u64,
        /// Length of the file.
        bytes: u64,
    },
    /// A bzImage older than boot protocol 2.08 does not say where its payload is.
    #[error("bzImage has boot protocol {}.{:02}, older than 2.08: its payload cannot be found", .0 >> 8, .0 & 0xff)]
    OldProtocol(u16),
    /// The payload is packed in a way that is not unpacked here.
    #[error(
        "kernel payload is compressed with {0}, which is not supported (lz4, zstd, xz, gzip and none are)"
    )]
    UnsupportedCompression(&'static str),
    /// The payload cannot be unpacked.
    #[error("kernel payload is damaged: {compression} says {detail}")]
    DamagedPayload {
        /// How it is packed.
        compression: &'static str,
        /// What the decompressor says.
        detail: String,
    },
    /// More bytes than [`KERNEL_BYTES_MAX`].
    #[error("kernel of {0} bytes is larger than {KERNEL_BYTES_MAX}")]
    TooLarge(u64),
    /// A table of the ELF file is longer than its limit.
    #[error("kernel has {count} {what}, more than {max}")]
    TooMany {
        /// Which table.
        what: &'static str,
        /// How many entries it has, as far as counted.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A program header contradicts itself.
    #[error("kernel has a bad segment at {paddr}: {reason}")]
    BadSegment {
        /// Where it wants to be loaded.
        paddr: Gpa,
        /// What is wrong.
        reason: &'static str,
    },
    /// A note that must hold a number holds something else.
    #[error("xen note {name} has {bytes} bytes, not 4 or 8")]
    BadNote {
        /// Its name in `elfnote.h`.
        name: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The kernel was configured without `CONFIG_XEN_PV`.
    #[error(
        "kernel has no Xen PV notes (CONFIG_XEN_PV is off): it cannot start as a PV guest; Debian's linux-image-cloud-amd64 can"
    )]
    NoXenNotes,
}

/// A kernel that can start as a 64-bit Xen PV guest.
#[derive(Debug, Clone)]
pub struct KernelImage<'a> {
    elf: Cow<'a, [u8]>,
    segments: Vec<Segment>,
    xen: XenNotes,
    build_id: Option<Vec<u8>>,
    version: Option<String>,
}

/// One `PT_LOAD` segment. What `mem_bytes` has over the file's range is zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it goes in guest memory.
    pub paddr: Gpa,
    /// Where the kernel is linked to run.
    pub vaddr: Gva,
    /// Its bytes in [`KernelImage::elf`]; lies inside, and is no longer than `mem_bytes`.
    pub file: Range<usize>,
    /// Bytes that it takes in memory.
    pub mem_bytes: u64,
}

/// What the kernel says to a Xen domain builder (`XEN_ELFNOTE_*` of elfnote.h).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XenNotes {
    /// `ENTRY`: the first instruction.
    pub entry: Gva,
    /// `VIRT_BASE`: where physical address `paddr_offset` is mapped at start.
    pub virt_base: Gva,
    /// `PADDR_OFFSET`.
    pub paddr_offset: u64,
    /// `HYPERCALL_PAGE`: the page to fill with hypercall stubs; `None` if the kernel makes its hypercalls inline.
    pub hypercall_page: Option<Gva>,
    /// `INIT_P2M`: where the kernel wants its p2m list mapped.
    pub init_p2m: Option<Gva>,
    /// `HV_START_LOW`: the lowest address that the hypervisor may use.
    pub hv_start_low: Option<Gva>,
    /// `MOD_START_PFN`: the ramdisk may lie outside the initial mapping, named by its pfn.
    pub mod_start_pfn: bool,
    /// `SUSPEND_CANCEL`: the kernel can go on after a suspend that did not happen.
    pub suspend_cancel: bool,
    /// `L1_MFN_VALID`: mask and value of a present page-table entry.
    pub l1_mfn_valid: Option<(u64, u64)>,
    /// `SUPPORTED_FEATURES`: one bit per `XENFEAT_*`.
    pub supported_features: u64,
    /// `FEATURES` as text, `!writable_page_tables|pae_pgdir_above_4gb`.
    pub features: String,
    /// `GUEST_OS`, `linux`.
    pub guest_os: String,
    /// `GUEST_VERSION`, `2.6`.
    pub guest_version: String,
    /// `XEN_VERSION`, `xen-3.0`.
    pub xen_version: String,
    /// `LOADER`, `generic`.
    pub loader: String,
    /// `PAE_MODE`, `yes`.
    pub pae_mode: String,
}

impl<'a> KernelImage<'a> {
    /// Reads a bzImage, whose payload is unpacked, or an ELF file, which is borrowed.
    ///
    /// # Errors
    /// [`KernelImageError`]: one sentence for whoever named the file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, KernelImageError> {
        if elf::is_elf(bytes) {
            return Self::from_elf(Cow::Borrowed(bytes), None);
        }
        let bzimage = bzimage::BzImage::parse(bytes)?;
        let elf = payload::unpack(bzimage.payload)?;
        Self::from_elf(elf, bzimage.version)
    }

    fn from_elf(elf: Cow<'a, [u8]>, version: Option<String>) -> Result<Self, KernelImageError> {
        let elf::ElfParts { segments, xen, build_id } = elf::read(&elf)?;
        Ok(Self { elf, segments, xen, build_id, version })
    }

    /// The ELF file that the segments' ranges point into.
    #[must_use]
    pub fn elf(&self) -> &[u8] {
        &self.elf
    }

    /// All segments, in the file's order; at least one.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The bytes of one of [`KernelImage::segments`]; empty for a segment of another image that does not fit.
    #[must_use]
    pub fn segment_bytes(&self, segment: &Segment) -> &[u8] {
        self.elf.get(segment.file.clone()).unwrap_or_default()
    }

    /// What the kernel says to Xen.
    #[must_use]
    pub fn xen(&self) -> &XenNotes {
        &self.xen
    }

    /// The linker's build id, by which debug symbols are found.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// The version line of the bzImage's header, `6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) #1 SMP …`.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The kernel's own banner, `Linux version 6.1.0-56-cloud-amd64 …`. Searches the whole image: some 10 ms.
    #[must_use]
    pub fn banner(&self) -> Option<&str> {
        elf::banner(&self.elf)
    }

    /// The end of the highest segment in guest memory: the domain needs more RAM than this.
    #[must_use]
    pub fn end(&self) -> Gpa {
        // No overflow: `elf::read` bounds both.
        self.segments.iter().map(|s| Gpa(s.paddr.0 + s.mem_bytes)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
