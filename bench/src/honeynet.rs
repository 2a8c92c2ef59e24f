//! Ours: the product as its users start it, `target/release/honeynet`, with a state directory and a namespace of the bench's
//! own. Taken down when dropped.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;

use crate::cleanup::{self, Cleanup};
use crate::decoy::{Decoy, ip_word};
use crate::lines::Lines;
use crate::project;
use crate::qemu::MEMORY_MIB;

/// How long any command may take; a case holds the domain's RAM and disks.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// How long `down` may take.
const DOWN_LIMIT: Duration = Duration::from_secs(60);
/// A bench may have two honeynets.
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// The gateway of the default network.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Room for hundreds of clones; the guests believe in a smaller one.
const SUBNET: &str = "10.77.0.0/16";
/// Where the decoy of a bench is.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);
const MAC: &str = "00:16:3e:77:00:0a";
/// What udev calls the first vif.
const INTERFACE: &str = "enX0";
/// The name that smaps gives to a domain's RAM.
pub const RAM_MAPPING: &str = "/memfd:ram";

/// A honeynet that is up and has no domain yet.
pub struct Honeynet {
    // First, so that the honeynet is down before anything else of it goes.
    _down: Cleanup,
    program: PathBuf,
    folder: PathBuf,
    /// Name of its network namespace.
    pub namespace: String,
}

/// A running domain; destroyed when dropped.
pub struct Domain<'a> {
    honeynet: &'a Honeynet,
    name: String,
    /// When `honeynet create` was about to start.
    pub started: Instant,
    /// Its console.
    pub lines: Lines,
}

impl Honeynet {
    /// Starts the supervisor and its services.
    pub fn start() -> anyhow::Result<Honeynet> {
        Honeynet::start_program(project::root().join("target/release/honeynet"))
    }

    /// Two of them, each the other's peer for migrations, by the names `a` and `b`.
    pub fn pair() -> anyhow::Result<[Honeynet; 2]> {
        let program = project::root().join("target/release/honeynet");
        let made = [Honeynet::prepare(program.clone())?, Honeynet::prepare(program)?];
        let ports = [free_port()?, free_port()?];
        for (index, other) in [(0, 1), (1, 0)] {
            let print = made[other].run(&["fingerprint"], COMMAND_LIMIT)?;
            let text = format!(
                "[migration]\nlisten = \"127.0.0.1:{}\"\n[[migration.peer]]\nname = {:?}\naddress = \"127.0.0.1:{}\"\nfingerprint = {:?}\n",
                ports[index],
                ["a", "b"][other],
                ports[other],
                print.trim()
            );
            let path = made[index].folder.join("honeynet.toml");
            std::fs::write(&path, std::fs::read_to_string(&path)? + &text)?;
        }
        for honeynet in &made {
            honeynet.run(&["up"], COMMAND_LIMIT)?;
        }
        Ok(made)
    }

    /// Starts those of another build.
    pub fn start_program(program: PathBuf) -> anyhow::Result<Honeynet> {
        let honeynet = Honeynet::prepare(program)?;
        honeynet.run(&["up"], COMMAND_LIMIT)?;
        Ok(honeynet)
    }

    fn prepare(program: PathBuf) -> anyhow::Result<Honeynet> {
        let folder = tempfile::Builder::new().prefix("hn-bench-").tempdir()?;
        let path = folder.path().to_owned();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("hn-bench-{}-{number}", std::process::id());
        let port = free_port()?;
        let text = format!(
            "rules = {:?}\n[network]\nnamespace = \"{namespace}\"\nsubnet = \"{SUBNET}\"\n[dashboard]\nlisten = \"127.0.0.1:{port}\"\n",
            project::root().join("rules")
        );
        std::fs::write(path.join("honeynet.toml"), text)?;
        let taken_down = program.clone();
        let down = cleanup::at_end(move || take_down(&taken_down, folder));
        Ok(Honeynet { _down: down, program, folder: path, namespace })
    }

    /// `honeynet create` with this domain file; its console is read from then on.
    pub fn create(&self, name: &str, domain_file: &str) -> anyhow::Result<Domain<'_>> {
        let file = format!("{name}.cfg");
        std::fs::write(self.folder.join(&file), format!("name = \"{name}\"\n{domain_file}"))?;
        let console = self.folder.join("state/domains").join(name).join("console.log");
        let lines = Lines::of_file(console);
        let started = Instant::now();
        self.run(&["create", &file], COMMAND_LIMIT)?;
        Ok(Domain { honeynet: self, name: name.to_owned(), started, lines })
    }

    /// Runs `honeynet WORDS`.
    pub fn run(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<String> {
        run(&self.program, &self.folder, arguments, limit)
    }

    /// Its state directory.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }
}

impl Domain<'_> {
    /// Runs `honeynet WORD NAME`.
    pub fn tell(&self, word: &str) -> anyhow::Result<String> {
        self.honeynet.run(&[word, &self.name], COMMAND_LIMIT)
    }

    /// Runs `honeynet WORD NAME --json`.
    pub fn tell_json(&self, word: &str) -> anyhow::Result<String> {
        self.honeynet.run(&[word, &self.name, "--json"], COMMAND_LIMIT)
    }

    /// `honeynet WORDS` that goes on until it is killed.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.honeynet.program);
        command.args(options(&self.honeynet.folder)).args(words);
        command
    }

    /// Where it runs.
    pub fn honeynet(&self) -> &Honeynet {
        self.honeynet
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process that runs it.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let rows = self.honeynet.run(&["list", &self.name, "--json"], COMMAND_LIMIT)?;
        let rows: Value = serde_json::from_str(&rows)?;
        let pid = rows[0]["pid"].as_u64().with_context(|| format!("list names no pid: {rows}"))?;
        Ok(u32::try_from(pid)?)
    }

    /// Pulls a case; answers how long the domain stood still.
    pub fn pull_pause_s(&self) -> anyhow::Result<f64> {
        let answer = self.honeynet.run(&["pull", &self.name, "--json"], COMMAND_LIMIT)?;
        let answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["pause_ms"].as_f64().with_context(|| format!("no pause: {answer}"))? / 1e3)
    }
}

impl Drop for Domain<'_> {
    fn drop(&mut self) {
        // One that has powered off is gone already; whatever is left goes with the honeynet.
        let _ = self.tell("destroy");
    }
}

/// What `honeynet up` puts on a decoy's command line to spare its start a second. The peer has its kernel's defaults, as the figures that
/// it is known by were taken.
const START_OPTIONS: &str = "noreplace-smp cryptomgr.notests init_on_alloc=0 mitigations=off";

/// A domain whose init is one static program.
pub fn init_domain(kernel: &Path, initramfs: &Path, cmdline: &str) -> String {
    format!(
        "memory = {MEMORY_MIB}\nkernel = {kernel:?}\nramdisk = {initramfs:?}\nextra = \"console=hvc0 {START_OPTIONS} {cmdline}\"\n\
         on_crash = \"destroy\"\n"
    )
}

/// A domain as `honeynet up` makes it from a recipe; `more` goes to the kernel's command line, `disks` are images behind the
/// first one, with a copy-on-write layer as that has.
pub fn decoy_domain(decoy: &Decoy, more: &str, disks: &[&Path]) -> String {
    let images = std::iter::once(decoy.image.path.as_path()).chain(disks.iter().copied());
    let disks: Vec<String> = images
        .zip(["xvda", "xvdb", "xvdc"])
        .map(|(path, vdev)| format!("\"{},raw,{vdev},w\"", path.display()))
        .collect();
    format!(
        "memory = {MEMORY_MIB}\nkernel = {:?}\nramdisk = {:?}\nroot = \"/dev/xvda rw\"\n\
         extra = \"console=hvc0 quiet {START_OPTIONS} {} {more}\"\nvif = [ \"mac={MAC},ip={ADDRESS}\" ]\ndisk = [ {} ]\n\
         on_crash = \"destroy\"\nhn_layer = 1\nhn_address = \"{ADDRESS}\"\n",
        decoy.kernel.vmlinux,
        decoy.image.initramfs,
        ip_word(ADDRESS, GATEWAY, INTERFACE),
        disks.join(", "),
    )
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn run(program: &Path, folder: &Path, arguments: &[&str], limit: Duration) -> anyhow::Result<String> {
    // The domain file's path is the only argument that is a path, and it lies in the honeynet's folder.
    let arguments = arguments.iter().map(|argument| match argument.ends_with(".cfg") {
        true => folder.join(argument).to_string_lossy().into_owned(),
        false => (*argument).to_owned(),
    });
    let all: Vec<String> = options(folder).into_iter().chain(arguments).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    project::output_of(program, &all, limit)
}

fn options(folder: &Path) -> [String; 4] {
    let path = |name| folder.join(name).to_string_lossy().into_owned();
    ["--state".to_owned(), path("state"), "--file".to_owned(), path("honeynet.toml")]
}

/// Also when a bench was interrupted. The folder goes only after `down`, which needs it.
fn take_down(program: &Path, folder: TempDir) {
    if let Err(error) = run(program, folder.path(), &["down"], DOWN_LIMIT) {
        eprintln!("bench: {error:#}");
    }
}
