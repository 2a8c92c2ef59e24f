//! An initramfs of our own: the disk's and the network's frontends, then the real root.
//!
//! The archive is cpio's "newc" (Linux' Documentation/driver-api/early-userspace/buffer-format.rst), not compressed:
//! the domain builder copies it once, and nothing in the guest has to unpack it.

use std::path::Path;

use thiserror::Error;

/// Modules that a domain needs to reach its disk and its network. They depend on nothing else.
pub const MODULES: [&str; 2] = ["drivers/block/xen-blkfront.ko", "drivers/net/xen-netfront.ko"];
/// Directory of the modules in the archive.
const MODULE_FOLDER: &str = "modules";
const FOLDER_MODE: u32 = 0o040_755;
const PROGRAM_MODE: u32 = 0o100_755;
const CHARACTER_DEVICE_MODE: u32 = 0o020_600;
/// Takes `root=`, `ro` and `rw` from the command line; waits at most five seconds for the device.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t proc proc /proc
for module in /modules/*.ko; do
    case "$module" in
        # 1 MiB in one request; the default is 128 KiB.
        *xen-blkfront*) /bin/busybox insmod "$module" max_indirect_segments=256 ;;
        *) /bin/busybox insmod "$module" ;;
    esac
done
root=/dev/xvda mode=ro
for word in $(/bin/busybox cat /proc/cmdline); do
    case "$word" in
        root=*) root="${word#root=}" ;;
        ro|rw) mode="$word" ;;
    esac
done
tries=0
while [ ! -b "$root" ] && [ "$tries" -lt 500 ]; do
    /bin/busybox usleep 10000
    tries=$((tries + 1))
done
if ! /bin/busybox mount -t ext4 -o "$mode" "$root" /disk; then
    echo "initramfs: cannot mount $root" >&2
    exec /bin/busybox poweroff -f
fi
/bin/busybox umount /proc
/bin/busybox mount -o move /dev /disk/dev
exec /bin/busybox switch_root /disk /sbin/init
"#;

/// A shell on the console.
const SHELL: &str = r#"#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
for module in /modules/*.ko; do
    case "$module" in
        *xen-blkfront*) insmod "$module" max_indirect_segments=256 ;;
        *) insmod "$module" ;;
    esac
done
echo shell
exec setsid sh -c 'exec sh </dev/hvc0 >/dev/hvc0 2>&1'
"#;

/// Why no initramfs could be made.
#[derive(Debug, Error)]
pub enum InitramfsError {
    /// A file for it cannot be read.
    #[error("cannot read {path} for the initramfs")]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// More bytes than cpio's 32-bit fields hold.
    #[error("{name} has {bytes} bytes, too many for cpio")]
    TooLarge {
        /// The entry.
        name: String,
        /// Its length.
        bytes: usize,
    },
}

/// The initramfs of a decoy: busybox loads the modules and goes over to `root=`.
///
/// # Errors
/// busybox (Debian's busybox-static) or a module is not there.
pub fn for_decoys(busybox: &Path, modules_dir: &Path) -> Result<Vec<u8>, InitramfsError> {
    for_disk(busybox, modules_dir, &MODULES)
}

/// The same for a machine that needs other modules, loaded in this order; paths under `modules_dir`/kernel.
///
/// # Errors
/// busybox or a module is not there.
pub fn for_disk(busybox: &Path, modules_dir: &Path, modules: &[&str]) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Archive::default();
    archive.folders(&["bin", "dev", "proc", "disk"])?;
    archive.entry("bin/busybox", PROGRAM_MODE, &read(busybox)?, (0, 0))?;
    archive.entry("init", PROGRAM_MODE, INIT.as_bytes(), (0, 0))?;
    archive.modules(modules_dir, modules)?;
    archive.finish()
}

/// An initramfs whose init is one static program, for benches and tests; `modules` are paths under `modules_dir`/kernel.
///
/// # Errors
/// The program or a module is not there.
pub fn with_init(init: &Path, modules_dir: &Path, modules: &[&str]) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Archive::default();
    archive.folders(&["dev", "proc", "sys", "tmp"])?;
    archive.entry("init", PROGRAM_MODE, &read(init)?, (0, 0))?;
    archive.modules(modules_dir, modules)?;
    archive.finish()
}

/// An initramfs that offers busybox's shell on the console: for tests, and to look at a disk from inside. `modules` as in [`with_init`].
///
/// # Errors
/// busybox or a module is not there.
pub fn with_shell(busybox: &Path, modules_dir: &Path, modules: &[&str]) -> Result<Vec<u8>, InitramfsError> {
    let mut archive = Archive::default();
    archive.folders(&["bin", "dev", "proc", "sys", "tmp", "mnt"])?;
    archive.entry("bin/busybox", PROGRAM_MODE, &read(busybox)?, (0, 0))?;
    archive.entry("init", PROGRAM_MODE, SHELL.as_bytes(), (0, 0))?;
    archive.modules(modules_dir, modules)?;
    archive.finish()
}

fn read(path: &Path) -> Result<Vec<u8>, InitramfsError> {
    std::fs::read(path).map_err(|source| InitramfsError::Read { path: path.to_owned(), source })
}

/// A newc archive that grows.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn folders(&mut self, names: &[&str]) -> Result<(), InitramfsError> {
        for name in names {
            self.entry(name, FOLDER_MODE, &[], (0, 0))?;
        }
        // Linux opens it for init before anything of ours has run: major 5, minor 1.
        self.entry("dev/console", CHARACTER_DEVICE_MODE, &[], (5, 1))
    }

    /// Names are numbered so that the shell's glob keeps the order.
    fn modules(&mut self, modules_dir: &Path, modules: &[&str]) -> Result<(), InitramfsError> {
        self.entry(MODULE_FOLDER, FOLDER_MODE, &[], (0, 0))?;
        for (index, module) in modules.iter().enumerate() {
            let content = read(&modules_dir.join("kernel").join(module))?;
            let file = module.rsplit('/').next().unwrap_or(module);
            self.entry(&format!("{MODULE_FOLDER}/{index:02}-{file}"), 0o100_644, &content, (0, 0))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        content: &[u8],
        device: (u32, u32),
    ) -> Result<(), InitramfsError> {
        let length = u32::try_from(content.len())
            .map_err(|_| InitramfsError::TooLarge { name: name.to_owned(), bytes: content.len() })?;
        self.inode += 1;
        let (links, name_bytes) = (1, name.len() + 1);
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{links:08x}{:08x}{length:08x}{:08x}{:08x}{:08x}{:08x}{name_bytes:08x}{:08x}",
            self.inode, 0, 0, 0, 0, 0, device.0, device.1, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Result<Vec<u8>, InitramfsError> {
        self.entry("TRAILER!!!", 0, &[], (0, 0))?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_is_read_back_by_cpio_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("kernel/drivers/a.ko");
        std::fs::create_dir_all(module.parent().unwrap()).unwrap();
        std::fs::write(&module, b"module").unwrap();
        let init = folder.path().join("program");
        std::fs::write(&init, b"odd").unwrap();
        let archive = with_init(&init, folder.path(), &["drivers/a.ko"]).unwrap();
        let file = folder.path().join("archive");
        std::fs::write(&file, archive).unwrap();
        let list = std::process::Command::new("/bin/busybox")
            .args(["cpio", "-t", "-F"])
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(list.stdout).unwrap(),
            "dev\nproc\nsys\ntmp\ndev/console\ninit\nmodules\nmodules/00-a.ko\n"
        );
    }

    #[test]
    fn missing_program_is_named() {
        let error = with_init(Path::new("/nowhere/init"), Path::new("/"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/init for the initramfs");
    }
}
