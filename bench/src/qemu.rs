//! The peer: QEMU emulating a PC with its TCG, which is what a host without virtualisation extensions is left with.
//! The kernel is loaded directly, devices are virtio, nothing else is in the machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cleanup::{self, Cleanup};
use crate::lines::Lines;
use crate::peer_network::PeerNetwork;

/// RAM of every machine that is measured, ours and theirs.
pub const MEMORY_MIB: u64 = 256;
/// The name that smaps gives to the RAM of such a QEMU.
pub const RAM_MAPPING: &str = "/memfd:memory-backend-memfd";
/// virtio in the kernel's tree, each after those that it needs: Debian's cloud kernel has all of it as modules.
pub const MODULES: [&str; 9] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

/// How a disk may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Writes are forgotten when QEMU ends; the image stays as it is, as it does below a layer of ours.
    Forgotten,
    /// Reads only.
    Read,
    /// A qcow2 of its own, which is written.
    Own,
}

/// What the machine is made of.
#[derive(Default)]
pub struct Machine<'a> {
    /// vmlinuz.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The kernel's command line; `console=ttyS0` goes before it.
    pub cmdline: String,
    /// Raw images, `/dev/vda` first.
    pub disks: Vec<(PathBuf, Access)>,
    /// Where its card is plugged in.
    pub network: Option<&'a PeerNetwork>,
    /// Where its monitor listens.
    pub monitor: Option<PathBuf>,
    /// The snapshot that it goes on from.
    pub loadvm: Option<String>,
    /// The port of its own loopback where it waits for another one's memory and devices.
    pub incoming: Option<u16>,
}

/// A running QEMU; killed when dropped.
pub struct Qemu {
    /// When its process was about to start.
    pub started: Instant,
    /// Its serial console.
    pub lines: Lines,
    /// Its process.
    pub pid: u32,
    _end: Cleanup,
}

impl Qemu {
    /// Starts the machine.
    pub fn start(machine: &Machine) -> anyhow::Result<Qemu> {
        let mut command = command(machine);
        let started = Instant::now();
        let mut child = command.spawn().context("qemu-system-x86_64 cannot be run")?;
        let pid = child.id();
        let output = child.stdout.take();
        let end = cleanup::at_end(move || {
            // It may have ended by itself; it is not reaped before, so the number is still its own.
            let _ = child.kill();
            let _ = child.wait();
        });
        let lines = Lines::of_reader(output.context("qemu has no standard output")?);
        Ok(Qemu { started, lines, pid, _end: end })
    }

    /// Stops its process, so that it takes nothing from the other side's measurement.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid)?);
        kill(pid, signal).with_context(|| format!("{signal} cannot be sent to qemu"))
    }
}

/// A qcow2 over an image, for [`Access::Own`].
pub fn overlay(image: &Path, disk: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(image).arg(disk);
    let status = command.status().context("qemu-img cannot be run")?;
    ensure!(status.success(), "qemu-img: {status}");
    Ok(())
}

fn command(machine: &Machine) -> Command {
    let mut command = match machine.network {
        // iproute2 becomes the program that it starts, so the child's pid is QEMU's.
        Some(network) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &network.namespace, "qemu-system-x86_64"]);
            command
        }
        None => Command::new("qemu-system-x86_64"),
    };
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-nographic", "-serial", "stdio", "-m", &MEMORY_MIB.to_string()])
        .args(["-object", &format!("memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on")])
        .args(["-machine", "pc,memory-backend=ram"])
        .arg("-kernel")
        .arg(&machine.kernel)
        .arg("-initrd")
        .arg(&machine.initramfs)
        .args(["-append", &format!("console=ttyS0 {}", machine.cmdline)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    for (path, access) in &machine.disks {
        let access = match access {
            Access::Forgotten => "format=raw,snapshot=on",
            Access::Read => "format=raw,readonly=on",
            Access::Own => "format=qcow2",
        };
        // cache=writeback is the host's page cache, as our backend reads.
        let drive = format!("file={},if=virtio,cache=writeback,{access}", path.display());
        command.args(["-drive", &drive]);
    }
    if let Some(monitor) = &machine.monitor {
        command.args(["-monitor", &format!("unix:{},server,nowait", monitor.display())]);
    }
    if let Some(loadvm) = &machine.loadvm {
        command.args(["-loadvm", loadvm]);
    }
    if let Some(port) = machine.incoming {
        command.args(["-incoming", &format!("tcp:127.0.0.1:{port}")]);
    }
    if let Some(network) = machine.network {
        command
            .args(["-netdev", &format!("tap,id=net,ifname={},script=no,downscript=no", network.tap)])
            .args(["-device", &format!("virtio-net-pci,netdev=net,mac={}", network.mac)]);
    }
    command
}
