//! The same tests on SVM: QEMU emulates the processor, Debian's kvm-amd runs in it, and this test program runs on that.
//!
//! Its initramfs holds busybox, three modules, this program with its shared libraries, and what the guests run.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::programs::{self, FOLDER_VARIABLE};

/// A minute or two alone on the machine.
const LIMIT: Duration = Duration::from_secs(900);
const MODULES: [&str; 3] = ["virt/lib/irqbypass.ko", "arch/x86/kvm/kvm.ko", "arch/x86/kvm/kvm-amd.ko"];
const PASSED: &str = "ALL TESTS PASSED ON SVM";
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t proc proc /proc
for module in irqbypass kvm kvm-amd; do /bin/busybox insmod /modules/$module.ko; done
export RUST_BACKTRACE=1 VARIABLE=/guests
/tests --test-threads=1 linux:: crowd:: hostile:: devices:: && echo PASSED
/bin/busybox poweroff -f
"#;

/// QEMU, killed when the test is over, however it ends.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        // Both fail if it has ended, which is as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The shared libraries of a program, and its loader, as absolute paths.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn copy_into(root: &Path, file: &Path) {
    programs::install(file, &root.join(file.strip_prefix("/").unwrap()));
}

fn pack_host(work: &Path) -> PathBuf {
    let (root, archive) = (work.join("root"), work.join("host.cpio"));
    let kernel = programs::debian_kernel();
    let program = std::env::current_exe().unwrap();
    copy_into(&root, "/bin/busybox".as_ref());
    libraries(&program).iter().for_each(|library| copy_into(&root, library));
    programs::run(Command::new("objcopy").arg("--strip-debug").arg(&program).arg(root.join("tests")));
    for module in MODULES {
        let name = Path::new(module).file_name().unwrap();
        programs::install(&kernel.modules_dir.join("kernel").join(module), &root.join("modules").join(name));
    }
    for name in [
        programs::DEBIAN_KERNEL,
        programs::EXERCISE,
        programs::INTRUDER,
        programs::CROWD,
        programs::HOSTILE_KERNEL,
    ] {
        programs::install(&programs::folder().join(name), &root.join("guests").join(name));
    }
    for folder in ["proc", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    let init = work.join("init");
    fs::write(&init, INIT.replace("VARIABLE", FOLDER_VARIABLE).replace("PASSED", PASSED)).unwrap();
    programs::install(&init, &root.join("init"));
    programs::pack(&root, &archive);
    archive
}

fn emulate(kernel: &Path, initramfs: &Path) -> Emulator {
    let machine: [&str; 15] = [
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max,+svm,+npt",
        // With two emulated processors QEMU stood still for good now and then, at no load at all and with the emulated host's own timers
        // in it. Guests with several vcpus share the one.
        "-smp",
        "1",
        "-m",
        "1536",
        "-nodefaults",
        "-nographic",
        "-no-reboot",
        "-serial",
        "stdio",
        "-append",
        // All of the emulated processors have one counter; a kernel that does not believe it makes each vcpu's lag behind.
        "console=ttyS0 panic=-1 quiet tsc=reliable",
    ];
    let mut command = Command::new("qemu-system-x86_64");
    command.args(machine.map(OsString::from)).arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    Emulator(child.unwrap_or_else(|error| panic!("{command:?}: {error} (Debian: qemu-system-x86)")))
}

#[test]
fn the_same_tests_pass_on_svm() {
    let work = tempfile::tempdir().unwrap();
    let initramfs = pack_host(work.path());
    let mut emulator = emulate(&programs::folder().join(programs::DEBIAN_KERNEL), &initramfs);
    let mut output = emulator.0.stdout.take().unwrap();
    let (done, console) = channel();
    thread::spawn(move || {
        let mut text = Vec::new();
        let _ = output.read_to_end(&mut text);
        done.send(String::from_utf8_lossy(&text).into_owned())
    });
    let console = console.recv_timeout(LIMIT).unwrap_or_else(|error| {
        drop(emulator);
        panic!(
            "the emulated host did not power off within {LIMIT:?}: {error}: {}",
            console.recv().unwrap_or_default()
        )
    });
    let isolated = "linux::a_hostile_program_reaches_neither_shim_nor_kernel ... ok";
    assert!(console.contains(PASSED) && console.contains(isolated), "{console}");
}
