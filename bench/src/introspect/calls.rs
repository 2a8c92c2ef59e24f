//! One call, with and without somebody who records it. The guest's program times thousands of them in short batches, of which the middle one
//! counts; the four take turns, and what is added is taken within a round, so that what else the host does in that minute is in both.

use std::time::Duration;

use super::{COMMAND_LIMIT, Looker, Watch};
use crate::honeynet::Domain;
use crate::sample::Samples;
use crate::shell::Shell;

const ROUNDS: usize = 9;
/// Calls in one repetition, and repetitions, of the fast ones and of the peers.
const COUNTS: &str = "10000 5";
const COUNTS_SLOW: &str = "2000 3";
/// The observer looks at its askers every 5 ms.
const ARMED_AFTER: Duration = Duration::from_millis(300);

/// Adds what each looker adds to a call, in microseconds, and what the call takes without.
pub fn measure(domain: &Domain, shell: &mut Shell, samples: &mut Samples) -> anyhow::Result<()> {
    for round in 1..=ROUNDS {
        eprintln!("bench: calls, round {round} of {ROUNDS}");
        for call in ["getppid", "openat"] {
            let bare = one(domain, shell, Looker::Nobody, call)?;
            samples.add(&Looker::Nobody.sample(call), bare);
            for looker in [Looker::Ours, Looker::Strace, Looker::Audit] {
                let took = one(domain, shell, looker, call)?;
                samples.add(&looker.sample(call), took - bare);
            }
        }
    }
    for call in ["getppid", "openat"] {
        eprintln!("bench: {call} takes {:.3} us", samples.median(&Looker::Nobody.sample(call))?);
    }
    Ok(())
}

fn one(domain: &Domain, shell: &mut Shell, looker: Looker, call: &str) -> anyhow::Result<f64> {
    let (mut watch, mut before, mut counts) = (None, String::new(), COUNTS);
    match looker {
        Looker::Nobody => {}
        Looker::Ours => {
            watch = Some(Watch::start(domain, call)?);
            std::thread::sleep(ARMED_AFTER);
        }
        Looker::Strace => {
            before = format!("strace -f -o /dev/null -e trace={call} ");
            counts = COUNTS_SLOW;
        }
        Looker::Audit => {
            shell.run(&format!("bench-audit on {call}"), COMMAND_LIMIT)?;
            counts = COUNTS_SLOW;
        }
    }
    let took = shell.measure(&format!("{before}calls {call} {counts}"), "us", COMMAND_LIMIT)?.median(call);
    if looker == Looker::Audit {
        shell.run("bench-audit off", COMMAND_LIMIT)?;
    }
    drop(watch);
    std::thread::sleep(ARMED_AFTER);
    took
}
