//! A real guest: Debian's kernel, busybox's shell on the console, driven through `honeynet console`.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use decoys::initramfs;
use decoys::kernel::{self, Kernel};
use decoys::progress::Silent;

use super::Honeynet;

/// How long a guest may take to answer; the machines are shared.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Debian's kernel, from the cache of this user.
pub fn debian_kernel() -> Kernel {
    static KERNEL: OnceLock<Kernel> = OnceLock::new();
    KERNEL.get_or_init(|| kernel::fetch(&cache(), &Silent).unwrap()).clone()
}

/// Where kernels and images are kept between runs.
pub fn cache() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache/honeynet")
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
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    seen: String,
    commands: u32,
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
        let commands = self.commands;
        drop(self);
        let mut console = Command::new(env!("CARGO_BIN_EXE_honeynet"));
        console.args(["--state", "state", "console", name]);
        let mut guest = Guest::open(honeynet, console);
        guest.commands = commands;
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
        let mut stdout = console.stdout.take().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count) = stdout.read(&mut bytes) {
                if count == 0 || sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let input = console.stdin.take();
        Guest { console, input, output, seen: String::new(), commands: 0 }
    }

    /// Runs a command; answers what it printed, whatever it ended with.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        self.commands += 1;
        // In two parts, so that an echo of the command is no end of it.
        let (begin, end) = (format!("<begin {}>", self.commands), format!("<end {}>", self.commands));
        self.send(&format!(
            "echo '<beg''in {0}>'; {{ {command}\n}} 2>&1; echo '<e''nd {0}>'\n",
            self.commands
        ));
        let text = self.wait_for(&end);
        let begun = text.find(&begin).unwrap_or_else(|| panic!("no {begin} in {text}"));
        text[begun + begin.len()..text.len() - end.len()].replace('\r', "").trim().to_owned()
    }

    /// Types this.
    pub fn send(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until the console shows this; answers all up to it.
    #[track_caller]
    pub fn wait_for(&mut self, wanted: &str) -> String {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.seen.find(wanted) {
                let rest = self.seen.split_off(at + wanted.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = ANSWER_TIMEOUT.saturating_sub(begun.elapsed());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => panic!("no {wanted:?} on the console: {}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("console ended before {wanted:?}: {}", self.seen)
                }
            }
        }
    }

    /// Waits until the console ends: the domain is gone.
    pub fn wait_end(mut self) -> String {
        while let Ok(bytes) = self.output.recv_timeout(ANSWER_TIMEOUT) {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.console.kill();
        let _ = self.console.wait();
    }
}
