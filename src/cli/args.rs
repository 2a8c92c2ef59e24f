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
    /// Print the supervisor's messages, or those of one domain's VMM.
    #[command(after_help = "Example: honeynet dmesg")]
    Dmesg {
        /// Name or number.
        name: Option<String>,
    },
    /// Print the xenstore as a domain sees it.
    #[command(after_help = "Example: honeynet xenstore-ls ssh-server")]
    XenstoreLs {
        /// Name or number.
        name: String,
    },
    /// Print the switch's counters.
    #[command(after_help = "Example: honeynet net --json")]
    Net,
    /// Write memory and disks of a running domain into a case.
    #[command(after_help = "Example: honeynet snapshot ssh-server --reason 'odd process'")]
    Snapshot {
        /// Name or number.
        name: String,
        /// Why; goes into the manifest.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take everything down; evidence and state stay.
    #[command(after_help = "Example: honeynet down")]
    Down,
    /// Run the supervisor in the foreground; `up` and `create` start it by themselves.
    #[command(after_help = "Example: honeynet supervisor --state /srv/honeynet")]
    Supervisor,
    /// One domain's process.
    #[command(hide = true)]
    Honeyvmm(Child),
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

/// How the supervisor starts a process of the house.
#[derive(Debug, Args)]
pub struct Child {
    /// Descriptor that holds the configuration as JSON.
    #[arg(long, value_name = "N")]
    pub config_fd: i32,
}
