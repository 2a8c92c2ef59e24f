//! The kernel of the decoys: Debian's cloud kernel, taken out of its package and unpacked once.
//!
//! The package is downloaded with the host's own apt and never installed. Cached by package version.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use honeyvmm::kernel_image::{KernelImage, KernelImageError};
use thiserror::Error;

use crate::command::{CommandError, run};
use crate::progress::Progress;

/// The package that always depends on the newest cloud kernel of the suite.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// Why there is no kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// apt or dpkg failed.
    #[error("cannot get the package of {META_PACKAGE}")]
    Command(#[from] CommandError),
    /// apt knows no such package.
    #[error("apt knows no kernel package behind {META_PACKAGE}; run apt-get update")]
    NoPackage,
    /// The package holds no kernel where one should be.
    #[error("package {package} has no {missing}")]
    Incomplete {
        /// Its name.
        package: String,
        /// What is missing.
        missing: &'static str,
    },
    /// The kernel cannot start a domain.
    #[error("kernel of {package} cannot be used")]
    Image {
        /// Its name.
        package: String,
        /// Why.
        #[source]
        source: KernelImageError,
    },
    /// The cache cannot be written or read.
    #[error("cannot use the kernel cache at {path}")]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A kernel in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// `6.1.0-56-cloud-amd64`: the name of its module folder.
    pub release: String,
    /// The bzImage.
    pub vmlinuz: PathBuf,
    /// The same, unpacked: an ELF file.
    pub vmlinux: PathBuf,
    /// `lib/modules/RELEASE`, with `modules.dep` and its companions.
    pub modules_dir: PathBuf,
    /// The configuration that it was built with.
    pub config: PathBuf,
}

/// The newest cloud kernel that the host's apt offers, from the cache if it has been there before.
///
/// # Errors
/// [`KernelError`]; nothing half done stays in the cache.
pub fn fetch(cache_dir: &Path, progress: &dyn Progress) -> Result<Kernel, KernelError> {
    let package = package()?;
    let version = run(Command::new("apt-cache").args(["show", "--no-all-versions", &package]))?;
    let version =
        version.lines().find_map(|line| line.strip_prefix("Version: ")).ok_or(KernelError::NoPackage)?;
    let kernels = cache_dir.join("kernels");
    // A version may have an epoch's colon and a tilde, both harmless in a path; it has no slash by Debian's policy.
    let folder = kernels.join(format!("{package}_{}", version.replace('/', "-")));
    if !folder.is_dir() {
        progress.step("kernel");
        store(&package, &kernels, &folder, progress)?;
    }
    open(&package, &folder)
}

/// The package that the meta package depends on.
fn package() -> Result<String, KernelError> {
    let depends = run(Command::new("apt-cache").args(["depends", "--important", META_PACKAGE]))?;
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .ok_or(KernelError::NoPackage)
}

/// Makes the folder in a temporary one beside it, which a rename then makes visible whole.
fn store(package: &str, kernels: &Path, folder: &Path, progress: &dyn Progress) -> Result<(), KernelError> {
    let cache = |source| KernelError::Cache { path: kernels.to_owned(), source };
    fs::create_dir_all(kernels).map_err(cache)?;
    let work = tempfile::Builder::new().prefix(".new-").tempdir_in(kernels).map_err(cache)?;
    run(Command::new("apt-get").args(["download", "-q", package]).current_dir(work.path()))?;
    progress.percent(50);
    let deb = first(work.path(), |name| name.ends_with(".deb"))
        .ok_or_else(|| incomplete(package, "downloaded package"))?;
    let tree = work.path().join("tree");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&tree))?;
    let release = release(package, &tree)?;
    run(Command::new("depmod").arg("-b").arg(&tree).arg(&release))?;
    progress.percent(80);
    unpack(package, &tree, &release)?;
    match fs::rename(&tree, folder) {
        // Another build was faster; its folder is as good.
        Err(_) if folder.is_dir() => Ok(()),
        result => result.map_err(cache),
    }
}

fn unpack(package: &str, tree: &Path, release: &str) -> Result<(), KernelError> {
    let cache = |source| KernelError::Cache { path: tree.to_owned(), source };
    let bzimage = fs::read(tree.join(format!("boot/vmlinuz-{release}"))).map_err(cache)?;
    let image = KernelImage::parse(&bzimage)
        .map_err(|source| KernelError::Image { package: package.to_owned(), source })?;
    fs::write(tree.join(format!("boot/vmlinux-{release}")), image.elf()).map_err(cache)
}

fn open(package: &str, folder: &Path) -> Result<Kernel, KernelError> {
    let release = release(package, folder)?;
    let boot = |name: &str| folder.join(format!("boot/{name}-{release}"));
    Ok(Kernel {
        vmlinuz: boot("vmlinuz"),
        vmlinux: boot("vmlinux"),
        config: boot("config"),
        modules_dir: folder.join("lib/modules").join(&release),
        release,
    })
}

/// The name of the only folder below `lib/modules`.
fn release(package: &str, tree: &Path) -> Result<String, KernelError> {
    first(&tree.join("lib/modules"), |_| true)
        .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .ok_or_else(|| incomplete(package, "lib/modules"))
}

fn first(folder: &Path, fits: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    entries.flatten().find(|entry| fits(&entry.file_name().to_string_lossy())).map(|entry| entry.path())
}

fn incomplete(package: &str, missing: &'static str) -> KernelError {
    KernelError::Incomplete { package: package.to_owned(), missing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn debian_kernel_is_fetched_once_and_is_a_pv_kernel() {
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/decoy-cache");
        let kernel = fetch(&cache, &Silent).unwrap();
        let vmlinux = fs::read(&kernel.vmlinux).unwrap();
        let image = KernelImage::parse(&vmlinux).unwrap();
        assert_eq!(image.xen().guest_os, "linux");
        assert!(image.banner().unwrap().starts_with(&format!("Linux version {} ", kernel.release)));
        assert!(kernel.modules_dir.join("kernel/drivers/block/xen-blkfront.ko").is_file());
        assert_eq!(fetch(&cache, &Silent).unwrap(), kernel);
    }
}
