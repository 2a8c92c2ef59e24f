//! A kernel image's bytes by the address at which the kernel is linked to see them.

use honeyvmm::kernel_image::KernelImage;
use honeyvmm::memory::Gva;

/// The loaded bytes of a kernel, as runs of address space. Zeros that the file does not hold (`.bss`) are not in it.
#[derive(Debug, Clone, Default)]
pub struct Segments<'a> {
    runs: Vec<Run<'a>>,
}

/// Bytes that follow each other.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Address of the first byte.
    pub start: Gva,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl<'a> Segments<'a> {
    /// The segments of a kernel image.
    #[must_use]
    pub fn of_kernel(image: &'a KernelImage<'_>) -> Self {
        let runs = image.segments().iter();
        Self { runs: runs.map(|s| Run { start: s.vaddr, bytes: image.segment_bytes(s) }).collect() }
    }

    /// Runs given by hand.
    #[must_use]
    pub fn new(runs: Vec<Run<'a>>) -> Self {
        Self { runs }
    }

    /// All runs.
    pub fn runs(&self) -> impl Iterator<Item = Run<'a>> {
        self.runs.iter().copied()
    }

    /// The bytes from `at` to the end of its run; `None` outside.
    #[must_use]
    pub fn from(&self, at: Gva) -> Option<&'a [u8]> {
        self.runs.iter().find_map(|run| {
            let offset = usize::try_from(at.0.checked_sub(run.start.0)?).ok()?;
            run.bytes.get(offset..).filter(|bytes| !bytes.is_empty())
        })
    }

    /// The bytes of `[start, end)`; `None` unless one run holds them all.
    #[must_use]
    pub fn between(&self, start: Gva, end: Gva) -> Option<&'a [u8]> {
        self.from(start)?.get(..usize::try_from(end.0.checked_sub(start.0)?).ok()?)
    }
}
