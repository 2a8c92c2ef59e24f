//! The tests' own rootkit, built from `sources/rootkit.c` against the headers of the very kernel that guests run, which come from Debian
//! by the host's own apt and are not installed. Cached by the headers' version and the source.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::guest::{cache, debian_kernel};

const SOURCE: &str = include_str!("sources/rootkit.c");

/// An archive with `/extra/rootkit.ko` and a module of the kernel's own, `/extra/dummy.ko`.
pub fn archive() -> Vec<u8> {
    let kernel = debian_kernel();
    let folder = tempfile::tempdir().unwrap();
    let extra = folder.path().join("extra");
    fs::create_dir(&extra).unwrap();
    fs::copy(rootkit(&kernel.release), extra.join("rootkit.ko")).unwrap();
    fs::copy(kernel.modules_dir.join("kernel/drivers/net/dummy.ko"), extra.join("dummy.ko")).unwrap();
    let pack = "find extra | /bin/busybox cpio -o -H newc > archive";
    run(Command::new("/bin/busybox").args(["sh", "-c", pack]).current_dir(folder.path()));
    fs::read(folder.path().join("archive")).unwrap()
}

/// The module, built if it was not before.
fn rootkit(release: &str) -> PathBuf {
    let modules = cache().join("test-modules");
    fs::create_dir_all(&modules).unwrap();
    let mut hasher = DefaultHasher::new();
    (SOURCE, release).hash(&mut hasher);
    let built = modules.join(format!("rootkit-{:016x}.ko", hasher.finish()));
    if !built.is_file() {
        let work = tempfile::tempdir_in(&modules).unwrap();
        let headers = headers(release, work.path());
        let source = work.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("rootkit.c"), SOURCE).unwrap();
        fs::write(source.join("Makefile"), "obj-m := rootkit.o\n").unwrap();
        run(Command::new("make")
            .arg("-C")
            .arg(headers)
            .arg(format!("M={}", source.display()))
            .arg("modules"));
        run(Command::new("strip").arg("-g").arg(source.join("rootkit.ko")));
        // What is renamed into its place is whole.
        fs::rename(source.join("rootkit.ko"), &built).unwrap();
    }
    built
}

/// The folder to build in: headers, and the programs that building takes, unpacked below `work`.
fn headers(release: &str, work: &Path) -> PathBuf {
    let package = format!("linux-headers-{release}");
    let depends = Command::new("apt-cache").args(["depends", "--important", &package]).output().unwrap();
    let depends = String::from_utf8(depends.stdout).unwrap();
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    // The common headers, and the programs that building takes.
    let others =
        names.filter(|name| ["linux-headers-", "linux-kbuild-"].iter().any(|kind| name.starts_with(kind)));
    let packages: Vec<&str> = std::iter::once(package.as_str()).chain(others).collect();
    run(Command::new("apt-get").args(["download", "-q"]).args(&packages).current_dir(work));
    let tree = work.join("tree");
    for file in fs::read_dir(work).unwrap().flatten().map(|entry| entry.path()) {
        if file.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&tree));
        }
    }
    let folder = tree.join(format!("usr/src/linux-headers-{release}"));
    // It names its companion by the path where a package manager would have put it.
    let makefile = fs::read_to_string(folder.join("Makefile")).unwrap();
    let here = format!("include {}/usr/src/", tree.display());
    fs::write(folder.join("Makefile"), makefile.replace("include /usr/src/", &here)).unwrap();
    folder
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
