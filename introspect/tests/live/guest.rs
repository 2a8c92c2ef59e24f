//! A guest with a shell, run in this process, whose RAM is a memfd that the test also looks at.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use decoys::initramfs;
use decoys::kernel::{self, Kernel};
use decoys::progress::Silent;
use honeyvmm::kernel_image::KernelImage;
use honeyvmm::machine::{Boot, Machine, Origin, Parts, VcpuCounts};
use honeyvmm::memory::{Gpa, ReadOnlyRam, Region};
use honeyvmm::shim::{Entries, Layout, SHIM_GPA};
use introspect::symbols::Symbols;
use introspect::view::View;
use introspect::walk::log::{self, Log};
use introspect::walk::tasks::Tasks;
use rustix::fs::{MemfdFlags, Mode, OFlags};

use super::shell::Shell;

const RAM_BYTES: u64 = 256 << 20;
/// More than one, so that what belongs to a vcpu is told apart.
pub const VCPUS: u32 = 2;

/// A shell, and a view of what it runs in.
pub struct Guest {
    /// The kernel's symbols.
    pub symbols: Symbols,
    /// The guest's memory.
    pub view: View,
    /// The same memory for a test that plays the rootkit.
    pub ram: Region,
    /// The shim's memory.
    pub shim: Region,
    /// The kernel file.
    pub vmlinux: Vec<u8>,
    shell: Shell,
}

/// The guest that all tests share, one after the other.
pub fn guest() -> MutexGuard<'static, Guest> {
    static GUEST: OnceLock<Mutex<Guest>> = OnceLock::new();
    GUEST.get_or_init(|| Mutex::new(Guest::start())).lock().unwrap_or_else(PoisonError::into_inner)
}

/// What tests download and build once.
pub fn cache() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/honeynet")
}

/// The kernel that all guests run.
pub fn debian_kernel() -> Kernel {
    kernel::fetch(&cache(), &Silent).unwrap()
}

/// A memfd, and the same opened again for reading only.
fn memfd(bytes: u64) -> (OwnedFd, OwnedFd) {
    let memfd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memfd, bytes).unwrap();
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    let read_only = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (memfd, read_only)
}

impl Guest {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// What each vcpu has registered with the hypervisor.
    pub fn entries(&self) -> Vec<Entries> {
        (0..VCPUS).map(|vcpu| Entries::registered(&self.shim, vcpu).unwrap()).collect()
    }

    /// A guest of its own, with one more archive unpacked into its root.
    pub fn start_with(more: &[u8]) -> Self {
        let kernel = debian_kernel();
        let vmlinux = std::fs::read(&kernel.vmlinux).unwrap();
        let image = KernelImage::parse(&vmlinux).unwrap();
        let symbols = Symbols::of_kernel(&image).unwrap();
        let mut archive =
            initramfs::with_shell("/bin/busybox".as_ref(), &kernel.modules_dir, &initramfs::MODULES).unwrap();
        archive.extend_from_slice(more);
        let (memfd, read_only) = memfd(RAM_BYTES);
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        let (theirs, console) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let ram = Region::from_memfd(memfd, Gpa(0), RAM_BYTES).unwrap();
        let shim_bytes = Layout { ram_bytes: RAM_BYTES, vcpus: VCPUS }.shim_bytes();
        let shim = Region::from_memfd(self::memfd(shim_bytes).0, SHIM_GPA, shim_bytes).unwrap();
        let machine = Machine::start(Parts {
            kvm_fd: kvm.as_raw_fd(),
            backend: honeyvmm::kvm::probe(kvm.as_raw_fd()).unwrap(),
            vcpus: VcpuCounts::all_online(VCPUS),
            ram: ram.clone(),
            shim: shim.clone(),
            trace_bell: None,
            domid: 1,
            name: "guest",
            uuid: [7; 16],
            origin: Origin::Boot(Boot {
                kernel: &image,
                ramdisk: Some(&archive),
                cmdline: "console=hvc0 quiet",
            }),
            console: theirs.into(),
            devices: Vec::new(),
            dirty_log: None,
        })
        .unwrap();
        thread::spawn(move || machine.wait());
        let view = View::new(ReadOnlyRam::from_memfd(read_only).unwrap(), &symbols).unwrap();
        let shell = Shell::new(console.try_clone().unwrap(), console);
        drop(image);
        let mut guest = Self { symbols, view, ram, shim, vmlinux, shell };
        guest.wait_for("shell\r\n");
        // busybox's line editor takes the end of a background job for the end of its input; one that runs a script does not edit.
        guest.shell.send("stty -echo; PS1=; PS2=; echo rea''dy; exec sh /dev/hvc0\n");
        guest.wait_for("ready\r\n");
        guest.run("true");
        guest
    }

    /// Runs a command; answers what it printed, whatever it ended with.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        let answer = self.shell.run(command);
        answer.unwrap_or_else(|why| panic!("{why}; {}", self.state()))
    }

    /// Types a program in, in octal numbers: there is no other way into this guest.
    pub fn put_program(&mut self, path: &str, program: &[u8]) {
        // A terminal's line has 4096 bytes.
        for part in program.chunks(800) {
            let octal: String = part.iter().map(|byte| format!("\\{byte:03o}")).collect();
            self.run(&format!("printf '{octal}' >> {path}"));
        }
        self.run(&format!("chmod +x {path}"));
    }

    /// What a guest that does not answer is at.
    fn state(&self) -> String {
        let look = self.view.look(log::STEPS_MAX);
        let tasks = Tasks::of(&self.symbols).unwrap();
        let current = tasks.current(&look, 0).and_then(|at| tasks.task(&look, at));
        let log = Log::of(&self.symbols).unwrap().list(&look).items;
        format!("it runs {current:?} and has logged {:#?}", &log[log.len().saturating_sub(20)..])
    }

    #[track_caller]
    fn wait_for(&mut self, wanted: &str) -> String {
        let shown = self.shell.wait_for(wanted);
        shown.unwrap_or_else(|why| panic!("{why}; {}", self.state()))
    }
}
