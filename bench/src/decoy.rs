//! Decoys as both sides start them: kernel and image from the cache, and the command line by which a guest knows its address.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use decoys::image::Image;
use decoys::initramfs;
use decoys::kernel::{self, Kernel};
use decoys::progress::Silent;
use decoys::recipe::Recipe;
use netwatch::netns;

use crate::peer_network::PeerNetwork;
use crate::project;
use crate::qemu;

/// How long one attempt to connect may take.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);
/// Time between two attempts.
const CONNECT_INTERVAL: Duration = Duration::from_millis(10);
/// Linux asks for a neighbour's address once a second. While a guest boots nobody answers, so a bench would see it up to a
/// second late, on either side.
const NEIGHBOUR_INTERVAL_MS: &str = "50";

/// Debian's cloud kernel.
pub fn kernel() -> anyhow::Result<Kernel> {
    Ok(kernel::fetch(&project::cache(), &Silent)?)
}

/// A decoy, built.
pub struct Decoy {
    /// Its kernel.
    pub kernel: Kernel,
    /// Its image, with the initramfs for our devices.
    pub image: Image,
    /// The initramfs for the peer's devices.
    pub peer_initramfs: PathBuf,
}

/// Builds the decoy of this recipe, or finds it in the cache.
pub fn build(recipe: &Path) -> anyhow::Result<Decoy> {
    let folder = recipe.parent().context("a recipe lies in a folder")?;
    let parsed = Recipe::load(recipe)?;
    let kernel = kernel()?;
    eprintln!("bench: image of {}", parsed.name);
    let image = decoys::image::build(&parsed, folder, &kernel, &project::cache(), &Silent)?;
    let archive = initramfs::for_disk(Path::new("/bin/busybox"), &kernel.modules_dir, &qemu::MODULES)?;
    let peer_initramfs = project::output()?.join("peer-disk.cpio");
    std::fs::write(&peer_initramfs, archive)?;
    Ok(Decoy { kernel, image, peer_initramfs })
}

impl Decoy {
    /// The decoy in a QEMU: the image is the same file. Its fstab and its console's getty name devices that only our domains
    /// have; waiting for them would slow the peer down.
    pub fn in_qemu<'a>(&self, network: &'a PeerNetwork, more: &str) -> qemu::Machine<'a> {
        let ip = ip_word(network.address, network.gateway, "eth0");
        qemu::Machine {
            kernel: self.kernel.vmlinuz.clone(),
            initramfs: self.peer_initramfs.clone(),
            cmdline: format!(
                "root=/dev/vda rw quiet {ip} net.ifnames=0 fstab=no systemd.mask=serial-getty@hvc0.service {more}"
            ),
            disks: vec![(self.image.path.clone(), qemu::Access::Forgotten)],
            network: Some(network),
            ..qemu::Machine::default()
        }
    }
}

/// Linux' Documentation/admin-guide/nfs/nfsroot.rst: `ip=<client>::<gateway>:<netmask>:<hostname>:<device>:<autoconf>`.
pub fn ip_word(address: Ipv4Addr, gateway: Ipv4Addr, device: &str) -> String {
    format!("ip={address}::{gateway}:255.255.255.0::{device}:none")
}

/// Waits inside a namespace until an SSH server there has said who it is; answers when.
pub fn wait_for_banner(namespace: &str, address: Ipv4Addr, limit: Duration) -> anyhow::Result<Instant> {
    netns::within(namespace, || {
        ask_neighbours_often()?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if banner(SocketAddr::from((address, 22))).is_some_and(|banner| banner.starts_with(b"SSH-")) {
                return Ok(Instant::now());
            }
            std::thread::sleep(CONNECT_INTERVAL);
        }
        bail!("no SSH banner from {address} within {} s", limit.as_secs())
    })?
}

fn banner(service: SocketAddr) -> Option<[u8; 4]> {
    let mut stream = TcpStream::connect_timeout(&service, CONNECT_LIMIT).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut begin = [0; 4];
    stream.read_exact(&mut begin).ok()?;
    Some(begin)
}

/// For all devices of the namespace that the calling thread is in.
fn ask_neighbours_often() -> anyhow::Result<()> {
    for device in std::fs::read_dir("/proc/sys/net/ipv4/neigh")? {
        std::fs::write(device?.path().join("retrans_time_ms"), NEIGHBOUR_INTERVAL_MS)?;
    }
    Ok(())
}
