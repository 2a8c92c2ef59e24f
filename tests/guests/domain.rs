//! A domain of a test's own: started from bytes, watched, and ended in bounded time whatever its guest does.

use std::fs::File;
use std::io::Read;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use honeyvmm::kernel_image::KernelImage;
use honeyvmm::machine::{Boot, Handle, Machine, Offered, Origin, Parts, VcpuCounts};
use honeyvmm::memory::{Gpa, Region};
use honeyvmm::run_loop::{End, VcpuSnapshot};
use honeyvmm::shim::{Layout, SHIM_GPA};

/// How long a domain that is told to end may take; a broken `destroy` would take for ever.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(30);

/// What runs in a domain.
pub struct Guest<'a> {
    /// Kernel file.
    pub kernel: &'a [u8],
    /// Initramfs.
    pub ramdisk: Option<&'a [u8]>,
    /// Kernel command line.
    pub cmdline: &'a str,
    /// RAM.
    pub memory_mib: u64,
    /// All are online from the start.
    pub vcpus: u32,
}

/// How a domain came to its end.
#[derive(Debug)]
pub struct Outcome {
    /// Its end.
    pub end: End,
    /// Everything on its console.
    pub console: String,
    /// It was destroyed because its time was over.
    pub destroyed: bool,
}

/// A running domain.
pub struct Domain {
    handle: Handle,
    ours: UnixStream,
    ended: Receiver<End>,
    chunks: Receiver<Vec<u8>>,
    reader: JoinHandle<()>,
    console: Vec<u8>,
}

/// Hands on what comes from the console, until its stream is shut down.
fn read_console(mut stream: UnixStream, chunks: Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if chunks.send(buffer[..count].to_vec()).is_err() {
            return;
        }
    }
}

impl Domain {
    /// Starts it without any device.
    pub fn start(guest: &Guest<'_>) -> Domain {
        Domain::start_with(guest, Vec::new())
    }

    /// Starts it with these devices.
    pub fn start_with(guest: &Guest<'_>, devices: Vec<Offered>) -> Domain {
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        let kernel = KernelImage::parse(guest.kernel).unwrap();
        let (theirs, ours) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let layout = Layout { ram_bytes: guest.memory_mib << 20, vcpus: guest.vcpus };
        let machine = Machine::start(Parts {
            kvm_fd: kvm.as_raw_fd(),
            backend: honeyvmm::kvm::probe(kvm.as_raw_fd()).unwrap(),
            vcpus: VcpuCounts::all_online(guest.vcpus),
            ram: Region::anonymous(Gpa(0), guest.memory_mib << 20).unwrap(),
            shim: Region::anonymous(SHIM_GPA, layout.shim_bytes()).unwrap(),
            trace_bell: None,
            domid: 1,
            name: "guest",
            uuid: [7; 16],
            origin: Origin::Boot(Boot { kernel: &kernel, ramdisk: guest.ramdisk, cmdline: guest.cmdline }),
            console: theirs.into(),
            devices,
            dirty_log: None,
        })
        .unwrap();
        let handle = machine.handle();
        let (end, ended) = channel();
        thread::spawn(move || end.send(machine.wait()));
        let (chunk, chunks) = channel();
        let stream = ours.try_clone().unwrap();
        let reader = thread::spawn(move || read_console(stream, chunk));
        Domain { handle, ours, ended, chunks, reader, console: Vec::new() }
    }

    /// Waits for this text on the console; how often it has come so far.
    pub fn wait_for_another(&mut self, text: &str, timeout: Duration) -> usize {
        let until = Instant::now() + timeout;
        let seen = self.count(text);
        while self.count(text) <= seen {
            let left = until.saturating_duration_since(Instant::now());
            let chunk = self.chunks.recv_timeout(left).unwrap_or_else(|error| panic!("no {text:?}: {error}"));
            self.console.extend(chunk);
        }
        self.count(text)
    }

    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.console).matches(text).count()
    }

    /// Ends it from outside.
    pub fn destroy(&self) {
        self.handle.destroy();
    }

    /// From outside, as `honeynet pause` and `honeynet unpause`; where the vcpus stood.
    pub fn pause_and_unpause(&self) -> Vec<VcpuSnapshot> {
        let vcpus = self.handle.pause();
        self.handle.unpause();
        vcpus
    }

    /// From outside, as `honeynet vcpu-set`.
    pub fn set_vcpus(&self, online: u32) {
        self.handle.set_vcpus(online).unwrap();
    }

    /// Waits for its end; destroys it when `limit` is over.
    pub fn finish(mut self, limit: Duration) -> Outcome {
        let (end, destroyed) = match self.ended.recv_timeout(limit) {
            Ok(end) => (end, false),
            Err(RecvTimeoutError::Timeout) => {
                self.handle.destroy();
                (self.ended.recv_timeout(DESTROY_TIMEOUT).expect("destroy ends the domain"), true)
            }
            Err(RecvTimeoutError::Disconnected) => panic!("the domain's thread panicked"),
        };
        self.ours.shutdown(Shutdown::Both).unwrap();
        self.reader.join().unwrap();
        self.console.extend(self.chunks.try_iter().flatten());
        Outcome { end, console: String::from_utf8_lossy(&self.console).replace('\r', ""), destroyed }
    }
}
