//! Boots a kernel with an initramfs and shows its console: `boot KERNEL INITRAMFS CMDLINE [MIB [VCPUS]]`.
//! A tool for work on the VMM; `honeynet create` is the product.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write, stderr, stdout};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use honeyvmm::kernel_image::KernelImage;
use honeyvmm::machine::{Boot, Machine, Origin, Parts, VcpuCounts};
use honeyvmm::memory::{Gpa, Region};
use honeyvmm::shim::{Layout, SHIM_GPA};

fn main() -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let mut args = std::env::args().skip(1);
    let mut next = |what: &'static str| args.next().ok_or(what);
    let kernel = std::fs::read(next("no kernel named")?)?;
    let ramdisk = std::fs::read(next("no initramfs named")?)?;
    let cmdline = next("no command line")?;
    let mib: u64 = next("256").map_or(Ok(256), |text| text.parse())?;
    let vcpus: u32 = next("1").map_or(Ok(1), |text| text.parse())?;
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    let kernel = KernelImage::parse(&kernel)?;
    let (console, mut ours) = UnixStream::pair()?;
    console.set_nonblocking(true)?;
    let layout = Layout { ram_bytes: mib << 20, vcpus };
    let machine = Machine::start(Parts {
        kvm_fd: kvm.as_raw_fd(),
        backend: honeyvmm::kvm::probe(kvm.as_raw_fd())?,
        vcpus: VcpuCounts::all_online(vcpus),
        ram: Region::anonymous(Gpa(0), mib << 20)?,
        shim: Region::anonymous(SHIM_GPA, layout.shim_bytes())?,
        trace_bell: None,
        domid: 1,
        name: "boot",
        uuid: [0; 16],
        origin: Origin::Boot(Boot { kernel: &kernel, ramdisk: Some(&ramdisk), cmdline: &cmdline }),
        console: console.into(),
        devices: Vec::new(),
        dirty_log: None,
    })?;
    writeln!(stderr(), "started after {:?}", begun.elapsed())?;
    let handle = machine.handle();
    std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let n = ours.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            stdout().write_all(&buffer[..n])?;
            stdout().flush()?;
        }
    });
    let end = machine.wait();
    std::thread::sleep(std::time::Duration::from_millis(50));
    writeln!(stderr(), "{end:?} after {:?}; shim {:?}", begun.elapsed(), handle.shim_counts())?;
    Ok(())
}
