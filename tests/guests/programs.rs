//! What the guests run: compiled with gcc from `sources/`, packed with busybox's cpio, and Debian's kernel from the cache of kernels.
//!
//! In the emulated host all of it is there already, in the folder that the environment names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use decoys::kernel::{self, Kernel};
use decoys::progress::Silent;
use tempfile::TempDir;

/// Names the folder of ready-made files; set in the emulated host.
pub const FOLDER_VARIABLE: &str = "HONEYNET_TEST_GUESTS";
/// Debian's kernel, as its package has it.
pub const DEBIAN_KERNEL: &str = "vmlinuz";
/// Initramfs with the ordinary program.
pub const EXERCISE: &str = "exercise.cpio";
/// Initramfs with the hostile program.
pub const INTRUDER: &str = "intruder.cpio";
/// Initramfs with the program of many threads.
pub const CROWD: &str = "crowd.cpio";
/// The hostile kernel.
pub const HOSTILE_KERNEL: &str = "hostile";

const KERNEL_FLAGS: [&str; 12] = [
    "-O1",
    "-Wall",
    "-Werror",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-pic",
    "-mcmodel=kernel",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-fcf-protection=none",
    "-nostdlib",
    "-static",
];

/// Where a source is.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/sources").join(name)
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Debian's kernel, from the cache of this user.
pub fn debian_kernel() -> Kernel {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    kernel::fetch(&home.join(".cache/honeynet"), &Silent).unwrap()
}

/// Packs a folder as an initramfs.
pub fn pack(folder: &Path, archive: &Path) {
    fs::create_dir_all(folder.join("dev")).unwrap();
    run(Command::new("mknod").arg(folder.join("dev/console")).args(["c", "5", "1"]));
    let script = "busybox find . | busybox cpio -o -H newc";
    let output = fs::File::create(archive).unwrap();
    let status = Command::new("sh")
        .args(["-c", script])
        .current_dir(folder)
        .stdout(output)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{} could not be packed", folder.display());
}

/// Copies a file as a program.
pub fn install(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

fn compile_init(work: &Path, name: &str) {
    let root = work.join(format!("{name}.root"));
    fs::create_dir_all(&root).unwrap();
    // No red zone: its assembly calls and pushes.
    let flags = ["-O1", "-Wall", "-Werror", "-mno-red-zone", "-static", "-pthread", "-o"];
    run(Command::new("gcc").args(flags).arg(root.join("init")).arg(source(&format!("{name}.c"))));
    run(Command::new("gcc")
        .args(["-m32", "-nostdlib", "-static", "-o"])
        .arg(root.join("hello32"))
        .arg(source("hello32.S")));
    pack(&root, &work.join(format!("{name}.cpio")));
}

fn build(work: &Path) {
    compile_init(work, "exercise");
    compile_init(work, "intruder");
    compile_init(work, "crowd");
    run(Command::new("gcc")
        .args(KERNEL_FLAGS)
        .arg("-Wl,-z,noexecstack,--build-id=none,--no-warn-rwx-segments")
        .arg("-T")
        .arg(source("kernel.ld"))
        .arg("-o")
        .arg(work.join(HOSTILE_KERNEL))
        .args([source("start.S"), source("kernel.c"), source("devices.c"), source("vcpus.c")]));
    install(&debian_kernel().vmlinuz, &work.join(DEBIAN_KERNEL));
}

/// The folder with all of them, made once a test run.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<(PathBuf, Option<TempDir>)> = OnceLock::new();
    let (folder, _) = FOLDER.get_or_init(|| match std::env::var_os(FOLDER_VARIABLE) {
        Some(ready) => (ready.into(), None),
        None => {
            let work = tempfile::tempdir().unwrap();
            build(work.path());
            (work.path().to_owned(), Some(work))
        }
    });
    folder
}

/// One of them.
pub fn read(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
