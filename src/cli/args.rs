//! Words and options of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::state::STATE_DEFAULT;

/// A honeynet in one box: decoys that are real machines, watched from outside.
#[derive(Debug, Parser)]
#[command(
    name = "honeynet",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done, 1 not done, 2 wrong usage, 3 no such domain or case.
Start with: honeynet doctor; honeynet up"
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// State directory.
    #[arg(long, global = true, value_name = "DIR", default_value = STATE_DEFAULT)]
    pub state: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// The honeynet file.
    #[arg(long, global = true, value_name = "FILE", default_value = "honeynet.toml")]
    pub file: PathBuf,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build and start a domain from a domain file (xl.cfg syntax).
    #[command(after_help = "Example: honeynet create -c /etc/honeynet/master.cfg")]
    Create(Create),
    /// List domains, as xl does: r running, b blocked, p paused, s shut down, c crashed, d dying.
    #[command(visible_alias = "ls", after_help = "Example: honeynet list --json")]
    List {
        /// Name or number.
        name: Option<String>,
    },
    /// Attach to a domain's console; Ctrl-] leaves.
    #[command(after_help = "Example: honeynet console ssh-server")]
    Console {
        /// Name or number.
        name: String,
    },
    /// Stop a domain's vcpus.
    #[command(after_help = "Example: honeynet pause ssh-server")]
    Pause {
        /// Name or number.
        name: String,
    },
    /// Let a paused domain run again.
    #[command(after_help = "Example: honeynet unpause ssh-server")]
    Unpause {
        /// Name or number.
        name: String,
    },
    /// Ask a domain to power off.
    #[command(after_help = "Example: honeynet shutdown -w ssh-server")]
    Shutdown {
        /// Name or number.
        name: String,
        /// Wait until it is gone.
        #[arg(short, long)]
        wait: bool,
    },
    /// Ask a domain to reboot.
    #[command(after_help = "Example: honeynet reboot ssh-server")]
    Reboot {
        /// Name or number.
        name: String,
    },
    /// Take a domain down at once.
    #[command(after_help = "Example: honeynet destroy ssh-server")]
    Destroy {
        /// Name or number.
        name: String,
    },
    /// Say how the honeynet, or one domain, is.
    #[command(after_help = "Example: honeynet info ssh-server")]
    Info {
        /// Name or number.
        name: Option<String>,
    },
    /// Print the supervisor's messages, or the kernel's log of a domain, read from its memory.
    #[command(after_help = "Example: honeynet dmesg ssh-server")]
    Dmesg {
        /// Name or number.
        name: Option<String>,
        /// What the domain's VMM wrote instead.
        #[arg(long, requires = "name")]
        vmm: bool,
    },
    /// Print the xenstore as a domain sees it.
    #[command(after_help = "Example: honeynet xenstore-ls ssh-server")]
    XenstoreLs {
        /// Name or number.
        name: String,
    },
    /// Have a domain use so many of its vcpus, as xl does: its kernel takes the others offline.
    #[command(after_help = "Example: honeynet vcpu-set ssh-server 2")]
    VcpuSet {
        /// Name or number.
        name: String,
        /// How many; at most the domain file's maxvcpus.
        vcpus: u32,
    },
    /// List the vcpus of all domains, or of one, as xl does.
    #[command(after_help = "Example: honeynet vcpu-list ssh-server")]
    VcpuList {
        /// Name or number.
        name: Option<String>,
    },
    /// Print a domain's system calls as they happen, in strace's style; nothing in the guest shows it.
    #[command(
        after_help = "Example: honeynet trace ssh-server -e openat,execve\n         honeynet trace ssh-server --scap ssh.scap --seconds 60; sysdig -r ssh.scap proc.name=sshd"
    )]
    Trace(Trace),
    /// List a guest's processes, read from its memory; rootkits hide nothing from it.
    #[command(after_help = "Example: honeynet ps ssh-server")]
    Ps {
        /// Name or number.
        name: String,
    },
    /// List a guest's open files, read from its memory.
    #[command(after_help = "Example: honeynet lsof ssh-server -p 214")]
    Lsof {
        /// Name or number.
        name: String,
        /// Only of this process.
        #[arg(short, value_name = "PID")]
        pid: Option<u32>,
    },
    /// List a guest's sockets and who has them, read from its memory.
    #[command(after_help = "Example: honeynet netstat ssh-server")]
    Netstat {
        /// Name or number.
        name: String,
    },
    /// List the modules that a guest's kernel has loaded, read from its memory.
    #[command(visible_alias = "lsmod", after_help = "Example: honeynet modules ssh-server")]
    Modules {
        /// Name or number.
        name: String,
    },
    /// List intruders' sessions.
    #[command(
        after_help = "Example: honeynet sessions --domain ssh-server --json\n         honeynet sessions 65a1b2c300010001 --cowrie"
    )]
    Sessions(Sessions),
    /// Play what a session's terminal showed.
    #[command(after_help = "Example: honeynet play 65a1b2c300010001 --speed 2 --idle 1")]
    Play(Play),
    /// Print the switch's counters.
    #[command(after_help = "Example: honeynet net --json")]
    Net,
    /// List the pools of clones, and who has which clone.
    #[command(after_help = "Example: honeynet pools --json")]
    Pools,
    /// Write memory and disks of a domain into a case, while it runs on; or those of a snapshot.
    #[command(
        after_help = "Example: honeynet pull ssh-server --reason 'odd process'\n         honeynet pull ssh-server/20260102T030405678"
    )]
    Pull {
        /// Name or number, or DOMAIN/ID of a snapshot.
        name: String,
        /// Why; goes into the manifest.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take a snapshot of a domain, from which it can go on later; it runs on.
    #[command(after_help = "Example: honeynet snapshot ssh-server --diff --reason 'before the reboot'")]
    Snapshot {
        /// Name or number.
        name: String,
        /// Only what differs from its last snapshot, or from the one that it went on from. The first of all is full.
        #[arg(long)]
        diff: bool,
        /// Why; goes into the manifest.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Snapshots, and what goes on from them.
    #[command(flatten)]
    OfSnapshots(SnapshotWord),
    /// Write a domain down, to go on later where it stands, and take it down.
    #[command(after_help = "Example: honeynet save ssh-server /srv/saved/ssh-server")]
    Save {
        /// Name or number.
        name: String,
        /// The folder that is made.
        folder: PathBuf,
    },
    /// Move a running domain to another honeynet; it stands still for a moment, and its connections live on.
    #[command(after_help = "Example: honeynet migrate ssh-server backup")]
    Migrate {
        /// Name or number.
        name: String,
        /// Where to: a [[migration.peer]] of the honeynet file.
        host: String,
    },
    /// Print what other honeynets know this one by: the fingerprint for their [[migration.peer]].
    #[command(after_help = "Example: honeynet fingerprint")]
    Fingerprint,
    /// File integrity: what changed on a decoy's disk.
    #[command(subcommand, after_help = "Example: honeynet fim check ssh-server")]
    Fim(Fim),
    /// Say whether a case is as it was written; works offline.
    #[command(after_help = "Example: honeynet verify /var/lib/honeynet/evidence/CASE")]
    Verify {
        /// The case's id or folder.
        case: String,
        /// Public key that it must be signed with, in hexadecimal.
        #[arg(long)]
        key: Option<String>,
    },
    /// List the cases.
    #[command(after_help = "Example: honeynet evidence --json")]
    Evidence,
    /// Say what a kernel tells of itself, which is all that introspection knows of it; or write it for Volatility 3.
    #[command(
        after_help = "Example: honeynet symbols /boot/vmlinuz-6.1.0-56-cloud-amd64 --isf linux.json.xz"
    )]
    Symbols(Symbols),
    /// Print events.
    #[command(after_help = "Example: honeynet events --type alert --follow")]
    Events(Events),
    /// Say what this host lacks, and the remedy.
    #[command(after_help = "Example: honeynet doctor")]
    Doctor,
    /// Build what honeynet.toml describes and start it.
    #[command(after_help = "Example: honeynet up --file honeynet.toml")]
    Up,
    /// Take everything down; evidence and state stay.
    #[command(after_help = "Example: honeynet down")]
    Down,
    /// Run the supervisor in the foreground; `up` and `create` start it by themselves.
    #[command(after_help = "Example: honeynet supervisor --state /srv/honeynet")]
    Supervisor,
    /// One domain's process.
    #[command(hide = true)]
    Honeyvmm(Child),
    /// Who looks at one domain.
    #[command(hide = true)]
    Observer(Child),
    /// The switch.
    #[command(hide = true)]
    Netwatch(Child),
    /// The sink.
    #[command(hide = true)]
    Logsink(Child),
    /// The web pages.
    #[command(hide = true)]
    Dashboard(Child),
    /// Who carries a migration.
    #[command(hide = true)]
    Carrier(Child),
}

/// Words about snapshots and saved domains.
#[derive(Debug, Subcommand)]
pub enum SnapshotWord {
    /// List the snapshots.
    #[command(after_help = "Example: honeynet snapshots ssh-server --json")]
    Snapshots {
        /// Only of this domain.
        name: Option<String>,
    },
    /// Say what differs between two snapshots: files, processes, sockets, modules.
    #[command(after_help = "Example: honeynet snapshot-diff 20260102T030405678 20260102T031500000")]
    SnapshotDiff {
        /// The earlier one.
        before: String,
        /// The later one.
        after: String,
    },
    /// Compare a snapshot, and those it lies over, with what was written.
    #[command(after_help = "Example: honeynet snapshot-verify ssh-server/20260102T030405678")]
    SnapshotVerify {
        /// ID, or DOMAIN/ID.
        id: String,
    },
    /// Make a diff stand alone.
    #[command(after_help = "Example: honeynet snapshot-compact ssh-server/20260102T030405678")]
    SnapshotCompact {
        /// ID, or DOMAIN/ID.
        id: String,
    },
    /// Remove a snapshot that no other one and no domain needs.
    #[command(after_help = "Example: honeynet snapshot-remove ssh-server/20260102T030405678")]
    SnapshotRemove {
        /// ID, or DOMAIN/ID.
        id: String,
    },
    /// Write the memory of a domain, or of a snapshot, to an ELF core for crash, gdb and Volatility.
    #[command(after_help = "Example: honeynet dump-core ssh-server ssh-server.core")]
    DumpCore {
        /// Name or number of a domain, or a snapshot.
        what: String,
        /// The file that is made.
        file: PathBuf,
    },
    /// Let a saved domain, or one from a snapshot, go on.
    #[command(
        after_help = "Example: honeynet restore /srv/saved/ssh-server\n         honeynet restore ssh-server/20260102T030405678 --name ssh-again"
    )]
    Restore {
        /// The folder that `save` made, or a snapshot: ID, or DOMAIN/ID.
        what: String,
        /// Under another name.
        #[arg(long)]
        name: Option<String>,
        /// Leave it paused.
        #[arg(short, long)]
        paused: bool,
        /// Compare all of it with its sums first; else that is done while it runs.
        #[arg(long)]
        verify: bool,
    },
    /// Let a saved domain go on several times side by side, each with a random state and an identity of its own.
    #[command(after_help = "Example: honeynet clone /srv/saved/ssh-server --count 10 --parked")]
    Clone {
        /// A snapshot's id, or what `save` made.
        snapshot: String,
        /// How many.
        #[arg(long, default_value_t = 1, value_name = "N")]
        count: u32,
        /// Their name; several get a number behind it.
        #[arg(long)]
        name: Option<String>,
        /// Leave them standing until they are unpaused.
        #[arg(long)]
        parked: bool,
    },
}

/// Options of `create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The domain file.
    pub domain_file: PathBuf,
    /// Leave it paused.
    #[arg(short, long)]
    pub paused: bool,
    /// Attach to its console at once.
    #[arg(short, long)]
    pub console: bool,
}

/// Options of `trace`.
#[derive(Debug, Args)]
pub struct Trace {
    /// Name or number.
    pub name: String,
    /// Only these calls, with commas between; `all` for every one. Without it: what shows who did what.
    #[arg(short, value_name = "CALLS")]
    pub expression: Option<String>,
    /// Only this process of the guest.
    #[arg(short, value_name = "PID")]
    pub pid: Option<u32>,
    /// Write a capture to this file instead, for sysdig, Falco and Stratoshark.
    #[arg(long, value_name = "FILE")]
    pub scap: Option<PathBuf>,
    /// End after so many seconds.
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
}

/// Options of `sessions`.
#[derive(Debug, Args)]
pub struct Sessions {
    /// Only this one, whole.
    pub session: Option<String>,
    /// Only of this domain.
    #[arg(long)]
    pub domain: Option<String>,
    /// As Cowrie's JSON log has it: an object with `eventid` a line.
    #[arg(long)]
    pub cowrie: bool,
}

/// Options of `play`.
#[derive(Debug, Args)]
pub struct Play {
    /// The session.
    pub session: String,
    /// Which of its recordings; the one that shows most if none is named.
    #[arg(long, value_name = "N")]
    pub tty: Option<usize>,
    /// So many times as fast.
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,
    /// Longer pauses take so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub idle: f64,
}

/// Words of `fim`.
#[derive(Debug, Subcommand)]
pub enum Fim {
    /// Note how a domain's files are, or were when its image was built.
    #[command(after_help = "Example: honeynet fim baseline ssh-server")]
    Baseline {
        /// Name or number.
        name: String,
    },
    /// Say what differs from the baseline.
    #[command(after_help = "Example: honeynet fim check ssh-server --json")]
    Check {
        /// Name or number.
        name: String,
    },
}

/// Options of `symbols`.
#[derive(Debug, Args)]
pub struct Symbols {
    /// The kernel: bzImage or ELF file.
    pub kernel: PathBuf,
    /// Write Volatility 3's ISF to this file; compressed if its name ends in .xz.
    #[arg(long, value_name = "FILE")]
    pub isf: Option<PathBuf>,
}

/// Options of `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Only this type: alert, domain, flow, fim, guest, ...
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Only this id: alert.rule, domain.crashed, ...
    #[arg(long)]
    pub id: Option<String>,
    /// Only of this domain.
    #[arg(long)]
    pub domain: Option<String>,
    /// Only with this text in it.
    #[arg(long)]
    pub text: Option<String>,
    /// How many of the past.
    #[arg(short, long, default_value_t = 20)]
    pub number: u32,
    /// Go on with those to come.
    #[arg(short, long)]
    pub follow: bool,
}

/// How the supervisor starts a process of the house.
#[derive(Debug, Args)]
pub struct Child {
    /// Descriptor that holds the configuration as JSON.
    #[arg(long, value_name = "N")]
    pub config_fd: i32,
}
