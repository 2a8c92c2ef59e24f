//! A real guest: Debian's kernel, busybox's shell on the console, driven through `honeynet console`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use decoys::initramfs;
use decoys::kernel::{self, Kernel};
use decoys::progress::Silent;
use decoys::recipe::Recipe;

use super::Honeynet;
use super::shell::Shell;

/// Debian's kernel, from the cache of this user.
pub fn debian_kernel() -> Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| kernel::fetch(&cache(), &Silent).unwrap()).clone()
}

/// Where kernels and images are kept between runs.
pub fn cache() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/honeynet")
}

/// Has `honeynet up` find Debian's kernel and the images of these recipes of the project in the cache of this user.
pub fn give_images(honeynet: &Honeynet, recipes: &[&str]) {
    let folder = recipes_folder();
    for name in recipes {
        let recipe = Recipe::load(&folder.join(format!("{name}.toml"))).unwrap();
        decoys::image::build(&recipe, &folder, &debian_kernel(), &cache(), &Silent).unwrap();
    }
    std::fs::create_dir_all(honeynet.path("state")).unwrap();
    for folder in ["kernels", "images"] {
        std::os::unix::fs::symlink(cache().join(folder), honeynet.path("state").join(folder)).unwrap();
    }
}

/// Where the project's recipes are.
pub fn recipes_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("decoys/recipes")
}

/// Writes `k` (the kernel) and `i` (an initramfs with a shell) beside the honeynet file.
pub fn write_kernel_and_shell(honeynet: &Honeynet) {
    static ONCE: Mutex<()> = Mutex::new(());
    let _guard = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    let kernel = debian_kernel();
    if !honeynet.path("k").exists() {
        std::os::unix::fs::symlink(&kernel.vmlinux, honeynet.path("k")).unwrap();
    }
    let archive =
        initramfs::with_shell("/bin/busybox".as_ref(), &kernel.modules_dir, &initramfs::MODULES).unwrap();
    honeynet.write("i", archive);
}

/// A shell in a domain.
pub struct Guest {
    console: Child,
    shell: Shell,
}

impl Guest {
    /// Creates a domain from a file that says `name`, `memory` and these keys, and attaches to its shell.
    pub fn create(honeynet: &Honeynet, name: &str, keys: &str) -> Guest {
        write_kernel_and_shell(honeynet);
        let file = format!("{name}.cfg");
        honeynet.write(
            &file,
            format!(
                "name='{name}'\nmemory=128\nkernel='k'\nramdisk='i'\nextra='console=hvc0 quiet'\n{keys}\n"
            ),
        );
        honeynet.run(&["create", &file]).good();
        Guest::attach(honeynet, name)
    }

    /// Attaches to the shell of a domain that was just created.
    pub fn attach(honeynet: &Honeynet, name: &str) -> Guest {
        let mut console = Command::new(env!("CARGO_BIN_EXE_honeynet"));
        console.args(["--state", "state", "console", name]);
        Guest::attach_by(honeynet, console)
    }

    /// Attaches to it by a command of the test's own.
    pub fn attach_by(honeynet: &Honeynet, console: Command) -> Guest {
        let mut guest = Guest::open(honeynet, console);
        guest.wait_for("shell\r\n");
        guest.send("stty -echo; PS1=; PS2=\n");
        guest.run("true");
        guest
    }

    /// Attaches to the shell of a domain that goes on where it was saved: this one, which was attached then, says what it has come to.
    pub fn go_on(self, honeynet: &Honeynet, name: &str) -> Guest {
        let commands = self.commands();
        drop(self);
        Guest::take_up(honeynet, name, commands)
    }

    /// How many commands its shell has run.
    pub fn commands(&self) -> u32 {
        self.shell.commands
    }

    /// Attaches to the shell of a domain that goes on where it had run so many commands.
    pub fn take_up(honeynet: &Honeynet, name: &str, commands: u32) -> Guest {
        let mut console = Command::new(env!("CARGO_BIN_EXE_honeynet"));
        console.args(["--state", "state", "console", name]);
        let mut guest = Guest::open(honeynet, console);
        guest.shell.commands = commands;
        guest
    }

    fn open(honeynet: &Honeynet, mut console: Command) -> Guest {
        let mut console = console
            .current_dir(honeynet.path("."))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let shell = Shell::new(console.stdin.take().unwrap(), console.stdout.take().unwrap());
        Guest { console, shell }
    }

    /// Runs a command; answers what it printed, whatever it ended with.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        self.shell.run(command).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Types this.
    pub fn send(&mut self, text: &str) {
        self.shell.send(text);
    }

    /// Waits until the console shows this; answers all up to it.
    #[track_caller]
    pub fn wait_for(&mut self, wanted: &str) -> String {
        self.shell.wait_for(wanted).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Waits until the console ends: the domain is gone.
    pub fn wait_end(mut self) -> String {
        self.shell.wait_end()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.shell.hang_up();
        let _ = self.console.kill();
        let _ = self.console.wait();
    }
}
