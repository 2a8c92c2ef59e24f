//! Real ext4 images for the tests: made by mke2fs from a folder, changed by debugfs. Nothing is mounted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A folder with images, removed at the end of the test.
pub struct Workshop {
    folder: TempDir,
}

impl Workshop {
    pub fn new() -> Workshop {
        Workshop { folder: TempDir::new().unwrap() }
    }

    /// An image of a small decoy; `options` go to mke2fs.
    pub fn decoy(&self, name: &str, options: &[&str]) -> PathBuf {
        let tree = self.folder.path().join(format!("{name}.tree"));
        plant(&tree);
        let image = self.folder.path().join(name);
        let mut make = Command::new("/usr/sbin/mke2fs");
        make.args(["-q", "-F"]).args(options).arg("-d").arg(&tree).arg(&image).arg("32M");
        run(&mut make);
        image
    }

    pub fn copy(&self, image: &Path, name: &str) -> PathBuf {
        let copy = self.folder.path().join(name);
        fs::copy(image, &copy).unwrap();
        copy
    }

    /// A file for debugfs to read.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Changes an image with debugfs commands.
    pub fn change(&self, image: &Path, commands: &str) {
        let script = self.file("commands", commands);
        run(Command::new("/usr/sbin/debugfs").arg("-w").arg("-f").arg(script).arg(image));
    }
}

/// What debugfs prints for one command.
pub fn debugfs(image: &Path, command: &str) -> String {
    run(Command::new("/usr/sbin/debugfs").args(["-R", command]).arg(image))
}

fn plant(tree: &Path) {
    for folder in ["etc/ssh", "usr/bin", "home/ann", "var/log", "tmp", "many"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
        .unwrap();
    fs::write(tree.join("etc/ssh/sshd_config"), "PermitRootLogin no\n").unwrap();
    let program: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(tree.join("usr/bin/tool"), program).unwrap();
    fs::set_permissions(tree.join("usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(tree.join("var/log/syslog"), "boot\n").unwrap();
    fs::hard_link(tree.join("usr/bin/tool"), tree.join("usr/bin/tool2")).unwrap();
    symlink("tool", tree.join("usr/bin/short")).unwrap();
    symlink(format!("/{}", "long/".repeat(30)), tree.join("usr/bin/long")).unwrap();
    for i in 0..700 {
        fs::write(tree.join(format!("many/a-name-that-takes-some-room-{i:04}")), i.to_string()).unwrap();
    }
}

fn run(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
