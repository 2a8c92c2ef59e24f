//! `symbols`: what a kernel tells of itself, and the same for Volatility.

use std::io::{self, BufWriter};
use std::path::Path;

use honeyvmm::kernel_image::KernelImage;
use introspect::symbols::Symbols;
use introspect::symbols::isf::Isf;
use serde_json::json;

use super::Failure;
use super::args;
use super::domains::Printer;

/// Prints what is known of a kernel, or writes it.
pub fn symbols(out: &Printer, wanted: &args::Symbols) -> Result<(), Failure> {
    let refused =
        |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", wanted.kernel.display()));
    let bytes = std::fs::read(&wanted.kernel).map_err(|error| refused(&error))?;
    let image = KernelImage::parse(&bytes).map_err(|error| refused(&error))?;
    let symbols = Symbols::of_kernel(&image).map_err(|error| refused(&events::sentence(&error)))?;
    match &wanted.isf {
        Some(path) => {
            let isf = Isf::new(&symbols).map_err(|error| refused(&events::sentence(error)))?;
            write(&isf, path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
            out.done(&json!({ "isf": path, "build_id": hex::encode(symbols.build_id()) }))
        }
        None => out.tree(&report(&symbols)),
    }
}

fn report(symbols: &Symbols) -> serde_json::Value {
    let layouts = symbols.layouts();
    let gaps: Vec<String> = match layouts {
        Ok(_) => symbols.gaps().iter().map(ToString::to_string).collect(),
        Err(error) => vec![events::sentence(error)],
    };
    json!({
        "build_id": hex::encode(symbols.build_id()),
        "banner": symbols.banner(),
        "symbols": symbols.symbols().len(),
        "types": layouts.map_or(0, introspect::symbols::btf::Btf::len),
        "not_shown": gaps,
    })
}

/// Writes the file whole or not at all.
fn write(isf: &Isf<'_>, path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = tempfile::Builder::new().permissions(permissions()).tempfile_in(folder)?;
    match path.extension().is_some_and(|extension| extension == "xz") {
        true => isf.write_xz(BufWriter::new(file.as_file()))?,
        false => isf.write(BufWriter::new(file.as_file()))?,
    }
    file.persist(path)?;
    Ok(())
}

/// Those of a file that anybody may read: it holds nothing that the kernel's package does not.
fn permissions() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
