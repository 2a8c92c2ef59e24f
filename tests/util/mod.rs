//! A honeynet of the test's own: state directory, namespace and honeynet file; taken down when dropped.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub mod busy;
pub mod guest;
pub mod hosts;
pub mod shell;

/// How long a test waits for what comes by itself; the machines are shared.
const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until there is something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(100));
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// One honeynet.
pub struct Honeynet {
    folder: TempDir,
    /// Name of its network namespace.
    pub namespace: String,
    /// The network namespace of the host that it is on, if not the test's own.
    pub host: Option<PathBuf>,
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Done {
    /// It ended with 0.
    #[track_caller]
    pub fn good(self) -> Done {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// It ended with this code and one sentence.
    #[track_caller]
    pub fn fails(self, code: i32, sentence: &str) -> Done {
        assert_eq!(
            (self.code, self.stderr.trim_end()),
            (code, format!("honeynet: {sentence}").as_str()),
            "{self:?}"
        );
        self
    }

    /// It ended with 1 and one line that has this in it.
    #[track_caller]
    pub fn fails_with(self, part: &str) -> Done {
        assert!(self.code == 1 && self.stderr.lines().count() == 1 && self.stderr.contains(part), "{self:?}");
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl Honeynet {
    /// A honeynet whose file goes on with `more`.
    pub fn new(more: &str) -> Honeynet {
        let folder = tempfile::tempdir().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("hn-t{}-{number}", std::process::id());
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
        // Every honeynet of a test has a dashboard, so each takes a port that is free.
        let dashboard = "dashboard = { listen = \"127.0.0.1:0\" }";
        let text = format!("rules = {rules:?}\n{dashboard}\n[network]\nnamespace = \"{namespace}\"\n{more}");
        std::fs::write(folder.path().join("honeynet.toml"), text).unwrap();
        Honeynet { folder, namespace, host: None }
    }

    /// Its folder: honeynet.toml, domain files, and `state`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file beside honeynet.toml.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The binary, on its host.
    pub fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_honeynet");
        match &self.host {
            None => Command::new(binary),
            Some(host) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", host.display())).arg(binary);
                command
            }
        }
    }

    /// Runs the binary in its folder.
    pub fn run(&self, arguments: &[&str]) -> Done {
        let mut command = self.command();
        command
            .current_dir(self.folder.path())
            .args(["--state", "state"])
            .args(arguments)
            .stdin(Stdio::null());
        let Output { status, stdout, stderr } = command.output().unwrap();
        Done {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Starts its supervisor without any domain.
    pub fn start_supervisor(&self) {
        // A domain file that cannot be built starts the supervisor all the same.
        self.write("nothing.cfg", "name='nothing'\nmemory=64\nkernel='/nonexistent'\n");
        self.run(&["create", "nothing.cfg"])
            .fails(1, "kernel /nonexistent cannot be opened: No such file or directory (os error 2)");
    }

    /// Pid of one of its services, when it has another than `before`.
    pub fn service_pid(&self, role: &str, before: Option<i64>) -> i64 {
        for _ in 0..500 {
            let info = self.run(&["info", "--json"]).good().json();
            let rows = info["services"].as_array().unwrap().clone();
            let pid = rows.iter().find(|row| row["service"] == role).and_then(|row| row["pid"].as_i64());
            match pid {
                Some(pid) if Some(pid) != before => return pid,
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        panic!("{role} does not run");
    }
}

impl Drop for Honeynet {
    fn drop(&mut self) {
        self.run(&["down"]);
    }
}

/// The row of `list`, once it is as wanted.
pub fn row_when(honeynet: &Honeynet, name: &str, wanted: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
    let begun = Instant::now();
    loop {
        let rows = honeynet.run(&["list", "--json"]).good().json();
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name);
        if wanted(row) {
            return row.cloned();
        }
        let lines = || honeynet.run(&["dmesg"]).stdout;
        assert!(begun.elapsed() < Duration::from_secs(60), "{name} is {row:?}: {}", lines());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the log of the supervisor has an event of this id with this text.
pub fn told(honeynet: &Honeynet, id: &str, text: &str) -> bool {
    honeynet.run(&["dmesg"]).good().stdout.lines().any(|line| line.contains(id) && line.contains(text))
}

/// Whether this named network namespace exists.
pub fn namespace_exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

/// Ends a process of the test's own honeynet at once.
pub fn kill(pid: i64) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
