//! What was found, and the event that tells it: `integrity.changed`, `integrity.hidden` and `integrity.credentials` of EVENTS.md.

use std::collections::HashSet;

use events::{Event, EventId};
use honeyvmm::memory::Gva;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

/// The most findings of one check; a kernel that is overwritten altogether says no more with a thousand of them.
pub const FINDINGS_MAX: usize = 128;
/// Bytes that are shown of a change.
pub(super) const SHOWN_BYTES_MAX: usize = 64;

/// What of the kernel has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The kernel's text.
    Text,
    /// Data that is only read after boot.
    ReadOnlyData,
    /// An entry of a system call table.
    SystemCall,
    /// A handler of an exception or of `int 0x80`, as registered with the hypervisor.
    Trap,
    /// Page tables: text or read-only data is writable, or other memory was put in its place.
    Mapping,
    /// A module that nobody signed.
    Module,
    /// A module that has left the list of modules, and is still there.
    HiddenModule,
    /// A function that is called at the begin of others.
    Ftrace,
    /// A breakpoint or jump that was put into text by the kernel's own means.
    Kprobe,
    /// An eBPF program that sees more than a group of processes.
    Bpf,
}

impl What {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::ReadOnlyData => "read_only_data",
            Self::SystemCall => "system_call",
            Self::Trap => "trap",
            Self::Mapping => "mapping",
            Self::Module => "module",
            Self::HiddenModule => "hidden_module",
            Self::Ftrace => "ftrace",
            Self::Kprobe => "kprobe",
            Self::Bpf => "bpf",
        }
    }
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "id")]
pub enum Finding {
    /// The kernel is not as it was.
    #[serde(rename = "integrity.changed")]
    Changed {
        /// What of it.
        what: What,
        /// `do_sys_open+0x4`, `sys_call_table[62]`, the name of a module.
        symbol: String,
        /// Where.
        #[serde(serialize_with = "as_hex")]
        address: Gva,
        /// How it was: bytes in hexadecimal, or a name.
        before: String,
        /// How it is.
        after: String,
    },
    /// A task that one of the kernel's books hides.
    #[serde(rename = "integrity.hidden")]
    Hidden {
        /// Number.
        pid: u32,
        /// Name, if its `task_struct` can be read.
        comm: String,
        /// Where it was seen.
        seen_by: &'static str,
        /// Where it is not.
        missing_from: &'static str,
    },
    /// A task with rights that nobody gave it.
    #[serde(rename = "integrity.credentials")]
    Credentials {
        /// Number.
        pid: u32,
        /// Name.
        comm: String,
        /// The rights that it had.
        before: String,
        /// The rights that it has.
        after: String,
    },
}

impl Finding {
    /// The process that it is about.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Changed { .. } => None,
            Self::Hidden { pid, .. } | Self::Credentials { pid, .. } => Some(*pid),
        }
    }

    /// The event that tells it.
    #[must_use]
    pub fn event(&self, at: Timestamp) -> Event {
        match self {
            Self::Changed { what, symbol, address, before, after } => {
                Event::new(EventId::IntegrityChanged, at)
                    .with("what", what.as_str())
                    .with("symbol", symbol.as_str())
                    .with("address", format!("{:#x}", address.0))
                    .with("before", before.as_str())
                    .with("after", after.as_str())
            }
            Self::Hidden { pid, comm, seen_by, missing_from } => Event::new(EventId::IntegrityHidden, at)
                .with("pid", *pid)
                .with("comm", comm.as_str())
                .with("seen_by", *seen_by)
                .with("missing_from", *missing_from),
            Self::Credentials { pid, comm, before, after } => Event::new(EventId::IntegrityCredentials, at)
                .with("pid", *pid)
                .with("comm", comm.as_str())
                .with("before", before.as_str())
                .with("after", after.as_str()),
        }
    }
}

/// Whether one look is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// No moment of an honest guest looks like that.
    Sure,
    /// A moment of an honest guest may: only what is still there at the next look counts.
    SeenTwice,
}

/// What one check has found so far.
#[derive(Debug, Default)]
pub struct Findings {
    found: Vec<(Finding, Certainty)>,
}

impl Findings {
    /// One more; beyond [`FINDINGS_MAX`] it is left out.
    pub fn push(&mut self, certainty: Certainty, finding: Finding) {
        if self.found.len() < FINDINGS_MAX {
            self.found.push((finding, certainty));
        }
    }
}

/// Waits for the second look where one is not enough.
#[derive(Debug, Default)]
pub struct Confirmation {
    waiting: HashSet<Finding>,
}

impl Confirmation {
    /// What counts of a look's findings.
    pub fn confirmed(&mut self, findings: Findings) -> Vec<Finding> {
        let mut waiting = HashSet::new();
        let mut confirmed = Vec::new();
        for (finding, certainty) in findings.found {
            let counts = certainty == Certainty::Sure || self.waiting.contains(&finding);
            if certainty == Certainty::SeenTwice {
                waiting.insert(finding.clone());
            }
            if counts && !confirmed.contains(&finding) {
                confirmed.push(finding);
            }
        }
        self.waiting = waiting;
        confirmed
    }

    /// Whether something was seen by the last look.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

/// Findings that were told: each is told once, until it changes or goes and comes back.
#[derive(Debug, Default)]
pub struct Told(HashSet<Finding>);

impl Told {
    /// What of a check is news.
    pub fn news(&mut self, findings: Vec<Finding>) -> Vec<Finding> {
        let news = findings.iter().filter(|finding| !self.0.contains(finding)).cloned().collect();
        self.0 = findings.into_iter().collect();
        news
    }
}

fn as_hex<S: Serializer>(address: &Gva, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{:#x}", address.0))
}

/// Bytes of a change, cut to what is shown.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut text = hex::encode(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]);
    if bytes.len() > SHOWN_BYTES_MAX {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(pid: u32) -> Finding {
        Finding::Hidden { pid, comm: "x".to_owned(), seen_by: "numbers", missing_from: "list" }
    }

    fn look(seen: &[(u32, Certainty)]) -> Findings {
        let mut findings = Findings::default();
        seen.iter().for_each(|(pid, certainty)| findings.push(*certainty, hidden(*pid)));
        findings
    }

    #[test]
    fn what_may_be_a_moment_counts_at_the_second_look() {
        let mut confirmation = Confirmation::default();
        let first = look(&[(1, Certainty::Sure), (2, Certainty::SeenTwice), (3, Certainty::SeenTwice)]);
        assert_eq!(confirmation.confirmed(first), [hidden(1)]);
        assert!(confirmation.is_waiting());
        assert_eq!(confirmation.confirmed(look(&[(2, Certainty::SeenTwice)])), [hidden(2)]);
        assert_eq!(confirmation.confirmed(look(&[(3, Certainty::SeenTwice)])), []);
        assert_eq!(confirmation.confirmed(look(&[])), []);
        assert!(!confirmation.is_waiting());
    }

    #[test]
    fn a_finding_is_told_once_until_it_was_gone() {
        let mut told = Told::default();
        assert_eq!(told.news(vec![hidden(1)]), [hidden(1)]);
        assert_eq!(told.news(vec![hidden(1), hidden(2)]), [hidden(2)]);
        assert_eq!(told.news(vec![hidden(2)]), []);
        assert_eq!(told.news(vec![hidden(1)]), [hidden(1)]);
    }

    #[test]
    fn findings_of_one_check_have_a_limit() {
        let mut findings = Findings::default();
        (0..1000).for_each(|pid| findings.push(Certainty::Sure, hidden(pid)));
        assert_eq!(Confirmation::default().confirmed(findings).len(), FINDINGS_MAX);
    }

    #[test]
    fn a_change_is_told_with_a_bounded_number_of_bytes() {
        assert_eq!(shown(&[0xde, 0xad]), "dead");
        assert_eq!(shown(&[0; 65]).chars().count(), 129);
    }
}
