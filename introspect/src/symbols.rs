//! Where things are in a kernel: addresses from its kallsyms, layouts from its BTF, both found in the image that we boot.

use honeyvmm::memory::Gva;

/// A kernel's symbols.
#[derive(Debug)]
pub struct Symbols {}

/// A member of a struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Offset in bytes from the outer struct's first byte.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

impl Symbols {
    /// The address of a symbol; the first one where a name is there twice.
    pub fn address(&self, _name: &str) -> Option<Gva> {
        None
    }
}
