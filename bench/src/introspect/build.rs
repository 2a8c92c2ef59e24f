//! A build of a small C project, not recorded and recorded. Ours records it as it would an intruder's: it runs in his session, with the
//! default set, the session's report and its events. The peers are asked for the same calls, without those of which ours
//! keeps only what goes through terminals and sockets: they cannot tell, and would have more to do.

use std::time::Duration;

use anyhow::{Context, ensure};
use introspect::trace::calls;
use introspect::trace::selection::Selection;

use super::terminal::ssh;
use super::{COMMAND_LIMIT, Looker};
use crate::honeynet::Honeynet;
use crate::sample::{self, Samples};
use crate::shell::Shell;

const ROUNDS: usize = 9;
/// The peers are far off, and slow: they need fewer.
const PEERS_EVERY: usize = 4;
const BUILD: &str = "make -s -C /opt/project clean program";
/// A login's environment is another than the console's, and gcc looks for its parts in every folder of PATH.
const ENVIRONMENT: &str = "env -i PATH=/usr/local/bin:/usr/bin";
/// After a session's end.
const UNARMED_AFTER: Duration = Duration::from_secs(2);
const NOT_PEERS: [&str; 7] = ["read", "readv", "pread64", "ioctl", "close", "dup2", "dup3"];

/// Adds by how many percent a recorded build is slower than the one before it, and the seconds.
pub fn measure(honeynet: &Honeynet, shell: &mut Shell, samples: &mut Samples) -> anyhow::Result<()> {
    let names: Vec<&str> =
        Selection::default_set().names().into_iter().filter(|name| !NOT_PEERS.contains(name)).collect();
    // Once for the page cache.
    one(honeynet, shell, Looker::Nobody, &names)?;
    for round in 1..=ROUNDS {
        let mut bare = 0.0;
        let peers = round % PEERS_EVERY == 1;
        for looker in Looker::ALL.into_iter().take(if peers { Looker::ALL.len() } else { 2 }) {
            let seconds = one(honeynet, shell, looker, &names)?;
            eprintln!("bench: build, round {round} of {ROUNDS}: {looker:?} {seconds:.3} s");
            samples.add(&looker.sample("build seconds"), seconds);
            match looker {
                Looker::Nobody => bare = seconds,
                _ => samples.add(&looker.sample("build"), (seconds / bare - 1.0) * 100.0),
            }
        }
    }
    Ok(())
}

fn one(honeynet: &Honeynet, shell: &mut Shell, looker: Looker, names: &[&str]) -> anyhow::Result<f64> {
    if looker == Looker::Ours {
        let output = ssh(honeynet, &[], &format!("{ENVIRONMENT} calls time build {BUILD}")).output()?;
        ensure!(
            output.status.success(),
            "ssh: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        std::thread::sleep(UNARMED_AFTER);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, seconds) = sample::parse(printed.trim(), "s").context("the session printed no time")?;
        return Ok(seconds);
    }
    if looker == Looker::Audit {
        // By number: it has names of its own for some.
        let number = |name: &&str| calls::by_name(name).map(|call| call.number.to_string());
        let numbers: Vec<String> = names.iter().filter_map(number).collect();
        shell.run(&format!("bench-audit on {}", numbers.join(" ")), COMMAND_LIMIT)?;
    }
    let before = match looker {
        Looker::Strace => format!("strace -f -o /dev/null -e trace={} ", names.join(",")),
        _ => String::new(),
    };
    let took = shell
        .measure(&format!("{ENVIRONMENT} calls time build {before}{BUILD}"), "s", COMMAND_LIMIT)?
        .median("build");
    if looker == Looker::Audit {
        shell.run("bench-audit off", COMMAND_LIMIT)?;
    }
    took
}
