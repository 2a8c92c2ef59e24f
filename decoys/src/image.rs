//! The builder: a recipe becomes an ext4 disk image, cached by the content of all that made it.
//!
//! Debian's mmdebstrap makes the tree (with the apt sources of the host), mke2fs copies it into the image; nothing is
//! mounted by us. The image knows no address: `ip=` and `systemd.hostname=` of the kernel's command line, both
//! standard, are read by systemd's own network generator.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::command::{CommandError, run};
use crate::initramfs::{self, InitramfsError};
use crate::kernel::Kernel;
use crate::progress::Progress;
use crate::recipe::Recipe;

/// Raised whenever the builder makes other images of the same recipe.
const BUILDER_VERSION: &str = "2";
/// What every decoy has. `libnss-myhostname` resolves `_gateway`, where the log goes.
const BASE_PACKAGES: &[&str] = &[
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "iproute2",
    "iputils-ping",
    "procps",
    "netbase",
    "libnss-myhostname",
    "rsyslog",
];
/// Units that a decoy has no use for: they cost start-up time or call out.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-networkd-wait-online.service",
    "getty@tty1.service",
    "systemd-pcrphase.service",
];
/// Disk writes reach the disk within two seconds, so that it can be read from outside.
const SYSCTL: &str = "vm.dirty_expire_centisecs = 100\nvm.dirty_writeback_centisecs = 50\n";
const FSTAB: &str = "/dev/xvda / ext4 defaults,noatime,commit=1 0 1\n";
/// Everything to the gateway: TCP with octet counting, UDP where that fails.
const RSYSLOG: &str = r#"*.* action(type="omfwd" target="_gateway" port="601" protocol="tcp" tcp_framing="octet-counted"
    template="RSYSLOG_SyslogProtocol23Format" action.resumeRetryCount="0" action.resumeInterval="10")
& action(type="omfwd" target="_gateway" port="514" protocol="udp" template="RSYSLOG_SyslogProtocol23Format"
    action.execOnlyWhenPreviousIsSuspended="on")
"#;
/// Copies the prepared files over the new tree and finishes inside it.
const HOOK: &str = r#"--customize-hook=cp -a "$HONEYNET_OVERLAY/." "$1/" && chroot "$1" /bin/sh /.finish && rm "$1/.finish""#;

/// Why an image could not be built.
#[derive(Debug, Error)]
pub enum ImageError {
    /// mmdebstrap, mke2fs or apt failed.
    #[error("cannot build image of recipe {recipe}")]
    Command {
        /// Which recipe.
        recipe: String,
        /// What failed.
        #[source]
        source: CommandError,
    },
    /// A file of the cache or beside the recipe.
    #[error("cannot use {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No initramfs.
    #[error("cannot make the initramfs")]
    Initramfs(#[from] InitramfsError),
}

/// An image in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The disk, raw, sparse.
    pub path: PathBuf,
    /// The initramfs that goes with it.
    pub initramfs: PathBuf,
    /// Hash of all that made it.
    pub id: String,
    /// Length of the disk.
    pub bytes: u64,
}

/// Builds the image of a recipe, or finds it in the cache. Needs root. `recipe_dir` is where `source` files lie.
///
/// # Errors
/// [`ImageError`]; nothing half done stays in the cache under its final name.
pub fn build(
    recipe: &Recipe,
    recipe_dir: &Path,
    kernel: &Kernel,
    cache_dir: &Path,
    progress: &dyn Progress,
) -> Result<Image, ImageError> {
    let id = id(recipe, recipe_dir, kernel)?;
    let images = cache_dir.join("images");
    let folder = images.join(&id);
    if !folder.is_dir() {
        fs::create_dir_all(&images).map_err(at(&images))?;
        let work = tempfile::Builder::new().prefix(".new-").tempdir_in(&images).map_err(at(&images))?;
        make(recipe, recipe_dir, kernel, work.path(), progress)?;
        match fs::rename(work.path().join("out"), &folder) {
            // Another build was faster; its folder is as good.
            Err(_) if folder.is_dir() => {}
            result => result.map_err(at(&folder))?,
        }
    }
    let path = folder.join("disk.img");
    let bytes = fs::metadata(&path).map_err(at(&path))?.len();
    let initramfs = store_initramfs(&images, kernel)?;
    Ok(Image { path, initramfs, id, bytes })
}

/// The initramfs goes with the kernel, not with the tree: under a name of its own, so that another one needs no new image.
fn store_initramfs(images: &Path, kernel: &Kernel) -> Result<PathBuf, ImageError> {
    let archive = initramfs::for_decoys(Path::new("/bin/busybox"), &kernel.modules_dir)?;
    let path = images.join(format!("initramfs-{}", &blake3::hash(&archive).to_hex()[..32]));
    if !path.is_file() {
        let mut fresh = tempfile::NamedTempFile::new_in(images).map_err(at(images))?;
        fresh.write_all(&archive).map_err(at(images))?;
        fresh.persist(&path).map_err(|error| at(&path)(error.error))?;
    }
    Ok(path)
}

/// Recipe, files that it names, kernel, versions that apt offers now, and the builder itself.
fn id(recipe: &Recipe, recipe_dir: &Path, kernel: &Kernel) -> Result<String, ImageError> {
    let mut hasher = blake3::Hasher::new();
    for part in [BUILDER_VERSION, &format!("{recipe:?}"), &kernel.release, HOOK, RSYSLOG, &finish(recipe)] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    for source in recipe.files.iter().filter_map(|file| file.source.as_ref()) {
        let path = recipe_dir.join(source);
        let content = fs::read(&path).map_err(at(&path))?;
        hasher.update(&(content.len() as u64).to_le_bytes()).update(&content);
    }
    let versions =
        run(Command::new("apt-cache").arg("madison").args(packages(recipe))).map_err(of(recipe))?;
    hasher.update(versions.as_bytes());
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

fn packages(recipe: &Recipe) -> impl Iterator<Item = &str> {
    BASE_PACKAGES.iter().copied().chain(recipe.packages.iter().map(String::as_str))
}

/// The machine's own kernel and modules, where an administrator, or an intruder with a module of his own, looks for them. The domain
/// is not started from these.
fn add_kernel(kernel: &Kernel, tree: &Path) -> Result<(), CommandError> {
    let modules = tree.join("usr/lib/modules");
    run(Command::new("mkdir").arg("-p").arg(&modules))?;
    run(Command::new("cp").arg("-a").arg(&kernel.modules_dir).arg(&modules))?;
    run(Command::new("cp").arg("-a").args([&kernel.vmlinuz, &kernel.config]).arg(tree.join("boot")))?;
    Ok(())
}

fn make(
    recipe: &Recipe,
    recipe_dir: &Path,
    kernel: &Kernel,
    work: &Path,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    let [overlay, tree, out] = ["overlay", "tree", "out"].map(|name| work.join(name));
    for folder in [&overlay, &out] {
        fs::create_dir(folder).map_err(at(folder))?;
    }
    fs::set_permissions(&overlay, fs::Permissions::from_mode(0o755)).map_err(at(&overlay))?;
    write_overlay(recipe, recipe_dir, &overlay)?;
    progress.step("packages");
    let include: Vec<&str> = packages(recipe).collect();
    run(Command::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--quiet", "--format=directory"])
        .arg(format!("--include={}", include.join(",")))
        .args(["--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"])
        .arg(HOOK)
        .arg(&recipe.suite)
        .arg(&tree)
        .env("HONEYNET_OVERLAY", &overlay))
    .map_err(of(recipe))?;
    progress.percent(70);
    add_kernel(kernel, &tree).map_err(of(recipe))?;
    progress.percent(80);
    progress.step("disk image");
    let disk = out.join("disk.img");
    run(Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-L", "root", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"])
        .arg(&tree)
        .arg(&disk)
        .arg(format!("{}M", recipe.image_mib)))
    .map_err(of(recipe))?;
    progress.percent(100);
    Ok(())
}

/// Files as they will lie in the image; owners, modes and times are set by [`finish`], which runs inside.
fn write_overlay(recipe: &Recipe, recipe_dir: &Path, overlay: &Path) -> Result<(), ImageError> {
    let sysctl: String = recipe.sysctl.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    let ours = [
        ("/etc/fstab", FSTAB.to_owned()),
        ("/etc/hostname", format!("{}\n", recipe.hostname)),
        ("/etc/hosts", format!("127.0.0.1 localhost\n127.0.1.1 {}\n::1 localhost\n", recipe.hostname)),
        ("/etc/sysctl.d/60-site.conf", format!("{SYSCTL}{sysctl}")),
        ("/etc/rsyslog.d/60-remote.conf", RSYSLOG.to_owned()),
        ("/.finish", finish(recipe)),
    ];
    for (path, content) in ours {
        write_file(overlay, path, content.as_bytes())?;
    }
    for file in &recipe.files {
        match (&file.content, &file.source) {
            (Some(content), _) => {
                write_file(overlay, &file.path, content.strip_prefix('\n').unwrap_or(content).as_bytes())?;
            }
            (None, Some(source)) => {
                let path = recipe_dir.join(source);
                write_file(overlay, &file.path, &fs::read(&path).map_err(at(&path))?)?;
            }
            // `Recipe::check` lets no such file pass.
            (None, None) => {}
        }
    }
    Ok(())
}

fn write_file(overlay: &Path, path: &str, content: &[u8]) -> Result<(), ImageError> {
    let path = overlay.join(path.trim_start_matches('/'));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(at(folder))?;
    }
    fs::write(&path, content).map_err(at(&path))
}

/// The shell script that finishes the tree from inside.
fn finish(recipe: &Recipe) -> String {
    let mut script = String::from("set -e\n");
    for user in &recipe.users {
        let (name, uid, shell) = (&user.name, user.uid, &user.shell);
        script += &format!("useradd -u {uid} -U -M -s {shell} -d /home/{name} {name}\n");
        for group in &user.groups {
            script += &format!("usermod -aG {group} {name}\n");
        }
        script += &password(name, &user.password);
        script += &format!("mkdir -p /home/{name}; cp -n -r /etc/skel/. /home/{name}/\n");
        script += &format!("chown -R {name}:{name} /home/{name}; chmod 0755 /home/{name}\n");
    }
    match &recipe.root_password {
        Some(text) => script += &password("root", text),
        None => script += "passwd -l root\n",
    }
    script += "systemctl enable systemd-networkd systemd-network-generator serial-getty@hvc0\n";
    let services = recipe.services.iter().map(|name| format!("systemctl enable {name}\n"));
    script.extend(services);
    let masked = MASKED.iter().copied().chain(recipe.masked.iter().map(String::as_str));
    script.extend(masked.map(|unit| format!("systemctl mask {unit}\n")));
    script += "rm -rf /var/log/apt /var/log/dpkg.log /var/log/bootstrap.log /var/cache/apt/*.bin\n";
    for file in &recipe.files {
        let (path, owner, mode) = (quoted(&file.path), &file.owner, &file.mode);
        script += &format!("chown {owner}:{owner} {path}; chmod {mode} {path}\n");
        if let Some(mtime) = &file.mtime {
            script += &format!("touch -d {} {path}\n", quoted(mtime));
        }
    }
    script
}

fn password(name: &str, password: &str) -> String {
    format!("printf '%s\\n' {} | chpasswd\n", quoted(&format!("{name}:{password}")))
}

/// One word of the shell, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::File { path, source }
}

fn of(recipe: &Recipe) -> impl FnOnce(CommandError) -> ImageError {
    let recipe = recipe.name.clone();
    move |source| ImageError::Command { recipe, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_one_word_of_the_shell() {
        for text in ["a b", "it's", "$(id)`id`\\", "'"] {
            let script = format!("printf %s {}", quoted(text));
            assert_eq!(run(Command::new("sh").args(["-c", &script])).unwrap(), text);
        }
    }
}
