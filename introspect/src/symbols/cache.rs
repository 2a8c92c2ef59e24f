//! The kernels whose symbols were decoded in this process, by build id.

use std::sync::Arc;

use honeyvmm::kernel_image::KernelImage;

use super::{Symbols, SymbolsError};

/// The most kernels that are kept, 12 MB each. A honeynet has one or two.
pub const KERNELS_MAX: usize = 4;

/// Symbols of the last [`KERNELS_MAX`] kernels, so that each is decoded once.
#[derive(Debug, Default)]
pub struct SymbolsCache {
    /// The one that was asked for last is the last one.
    kernels: Vec<Arc<Symbols>>,
}

impl SymbolsCache {
    /// The symbols of a kernel, decoded unless its build id is known. A kernel without a build id is decoded each time.
    ///
    /// # Errors
    /// As [`Symbols::of_kernel`]; what cannot be decoded is not kept.
    pub fn of_kernel(&mut self, image: &KernelImage<'_>) -> Result<Arc<Symbols>, SymbolsError> {
        let Some(build_id) = image.build_id() else {
            return Ok(Arc::new(Symbols::of_kernel(image)?));
        };
        let symbols = match self.kernels.iter().position(|symbols| symbols.build_id() == build_id) {
            Some(at) => self.kernels.remove(at),
            None => Arc::new(Symbols::of_kernel(image)?),
        };
        if self.kernels.len() == KERNELS_MAX {
            self.kernels.remove(0);
        }
        self.kernels.push(Arc::clone(&symbols));
        Ok(symbols)
    }
}
