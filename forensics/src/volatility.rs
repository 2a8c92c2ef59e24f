//! What Volatility 3 needs to open a case's memory: the kernel's symbols, and a configuration that names them.
//!
//! Both are made from the kernel image that the domain was built from. Left alone, Volatility looks for the page tables by a note in
//! guest memory, which a guest can forge; the configuration pins them. Its paths are relative: it is used inside the case's folder,
//! `vol -c volatility.json linux.pslist`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use honeyvmm::kernel_image::{KERNEL_BYTES_MAX, KernelImage, KernelImageError};
use honeyvmm::memory::Gva;
use introspect::symbols::isf::Isf;
use introspect::symbols::{Symbols, SymbolsError};
use serde_json::json;

/// Name of the configuration in its case.
pub const CONFIG_NAME: &str = "volatility.json";
/// Where Linux is linked to see physical address 0: `__START_KERNEL_map`. Our kernels start without KASLR, with `phys_base` 0.
const START_KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Bits of an address that four levels of page tables translate; without the mask Volatility finds no symbol by its address.
const ADDRESS_MASK: u64 = (1 << 48) - 1;
/// The kernel's own top-level page table.
const PAGE_TABLE: &str = "init_top_pgt";

/// Why a case has no symbols.
#[derive(Debug, thiserror::Error)]
pub enum VolatilityError {
    /// The kernel's file.
    #[error("kernel cannot be read")]
    Read(#[from] io::Error),
    /// More than [`KERNEL_BYTES_MAX`].
    #[error("kernel of {0} bytes is larger than {KERNEL_BYTES_MAX}")]
    TooLarge(u64),
    /// It is no kernel.
    #[error("kernel cannot be taken apart")]
    Image(#[from] KernelImageError),
    /// It has no symbols.
    #[error(transparent)]
    Symbols(#[from] SymbolsError),
    /// It has no types, and why.
    #[error("{0}")]
    Layouts(String),
    /// Its page table has no name.
    #[error("kernel has no {PAGE_TABLE}")]
    NoPageTable,
}

/// Two files for a case.
pub(crate) struct Aids {
    /// `linux-<build id>.json.xz`.
    pub isf_name: String,
    /// ISF, compressed.
    pub isf: Vec<u8>,
    /// The configuration, JSON.
    pub config: Vec<u8>,
}

/// Makes both from the kernel that a domain runs.
pub(crate) fn aids(kernel: &File) -> Result<Aids, VolatilityError> {
    let bytes = read(kernel)?;
    let image = KernelImage::parse(&bytes)?;
    let symbols = Symbols::of_kernel(&image)?;
    let isf = Isf::new(&symbols).map_err(|error| VolatilityError::Layouts(events::sentence(error)))?;
    let table = symbols.address(PAGE_TABLE).ok_or(VolatilityError::NoPageTable)?;
    let isf_name = format!("linux-{}.json.xz", hex::encode(symbols.build_id()));
    let config = config(table, &isf_name);
    let mut packed = Vec::new();
    isf.write_xz(&mut packed)?;
    Ok(Aids { isf_name, isf: packed, config })
}

fn read(kernel: &File) -> Result<Vec<u8>, VolatilityError> {
    let length = kernel.metadata()?.len();
    if length > KERNEL_BYTES_MAX as u64 {
        return Err(VolatilityError::TooLarge(length));
    }
    // The descriptor is shared with whoever opened it, so its position is not touched.
    let mut bytes = vec![0; length as usize];
    kernel.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// As Volatility's `--save-config` writes it, of which a plugin takes what lies below `kernel`.
fn config(page_table: Gva, isf_name: &str) -> Vec<u8> {
    let config = json!({
        "kernel.class": "volatility3.framework.contexts.Module",
        "kernel.offset": 0,
        "kernel.layer_name.class": "volatility3.framework.layers.intel.LinuxIntel32e",
        "kernel.layer_name.kernel_virtual_offset": 0,
        "kernel.layer_name.page_map_offset": page_table.0.wrapping_sub(START_KERNEL_MAP),
        "kernel.layer_name.swap_layers": true,
        "kernel.layer_name.swap_layers.number_of_elements": 0,
        "kernel.layer_name.memory_layer.class": "volatility3.framework.layers.elf.Elf64Layer",
        "kernel.layer_name.memory_layer.base_layer.class": "volatility3.framework.layers.physical.FileLayer",
        "kernel.layer_name.memory_layer.base_layer.location": "file:memory.elf",
        "kernel.symbol_table_name.class": "volatility3.framework.symbols.linux.LinuxKernelIntermedSymbols",
        "kernel.symbol_table_name.isf_url": format!("file:{isf_name}"),
        "kernel.symbol_table_name.symbol_mask": ADDRESS_MASK,
    });
    let mut text = format!("{config:#}").into_bytes();
    text.push(b'\n');
    text
}
