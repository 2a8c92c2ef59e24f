//! Calls, made of their beginnings and ends.

use std::collections::HashMap;

use super::calls::{self, Call};
use super::record::{Chunk, Phase, Record};

/// Calls that have begun and not ended; a guest has about one a task.
const OPEN_MAX: usize = 16 * 1024;

/// A call, from beginning to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// Its beginning.
    pub enter: Record,
    /// Its result; a call such as `exit_group` has none.
    pub result: Option<i64>,
    /// How long it took, nanoseconds.
    pub duration_ns: u64,
    /// What its arguments named afterwards.
    pub after: Vec<Chunk>,
    /// Its task's name at the end, which execve changes.
    pub comm: String,
}

impl Traced {
    /// Which call it is, for 32-bit ones too.
    pub fn call(&self) -> Option<&'static Call> {
        calls::of(self.enter.number, self.enter.compat)
    }

    /// Its arguments.
    pub fn arguments(&self) -> [u64; 6] {
        match self.enter.phase {
            Phase::Enter(arguments) => arguments,
            Phase::Leave(_) => [0; 6],
        }
    }

    /// The string that this argument named; a later look replaces one that faulted.
    pub fn string(&self, argument: u8) -> Option<String> {
        let chunk = self.named(argument)?;
        Some(String::from_utf8_lossy(&chunk.bytes).into_owned())
    }

    /// What this argument named, as far as it could be read.
    pub fn named(&self, argument: u8) -> Option<&Chunk> {
        let of = |chunks: &'_ [Chunk]| {
            chunks.iter().position(|chunk| chunk.argument == argument && chunk.index != 255)
        };
        let after = of(&self.after).map(|index| &self.after[index]);
        let before = of(&self.enter.chunks).map(|index| &self.enter.chunks[index]);
        match (before, after) {
            (Some(before), Some(after)) if before.faulted => Some(after),
            (before, after) => before.or(after),
        }
    }

    /// All bytes that went through this argument.
    pub fn bytes(&self, argument: u8) -> Vec<u8> {
        let take = |chunks: &[Chunk]| -> Vec<u8> {
            let of = chunks.iter().filter(|chunk| chunk.argument == argument && chunk.index != 255);
            of.flat_map(|chunk| chunk.bytes.iter().copied()).collect()
        };
        let after = take(&self.after);
        if after.is_empty() { take(&self.enter.chunks) } else { after }
    }

    /// A message's or call's socket address.
    pub fn address(&self, argument: u8) -> Option<&Chunk> {
        let of = |chunk: &&Chunk| chunk.argument == argument;
        self.after.iter().find(of).or_else(|| self.enter.chunks.iter().find(of))
    }
}

/// Joins them, from all vcpus: a task may have moved from one to another during its call.
#[derive(Default)]
pub struct Pairing {
    open: HashMap<u64, Record>,
}

impl Pairing {
    /// Takes the next record; answers the call that it ends.
    pub fn take(&mut self, record: Record) -> Option<Traced> {
        let key = record.seq;
        match record.phase {
            Phase::Enter(_) if has_no_end(&record) => Some(ended(record, None)),
            Phase::Enter(_) => {
                if self.open.len() >= OPEN_MAX {
                    // Ends that never came: the guest killed the tasks, or lied.
                    self.open.clear();
                }
                self.open.insert(key, record);
                None
            }
            Phase::Leave(_) => {
                let enter = self.open.remove(&key)?;
                // A stale end of another task, after the table of the shim was written over.
                (enter.pid == record.pid && enter.number == record.number).then(|| ended(enter, Some(record)))
            }
        }
    }
}

fn has_no_end(enter: &Record) -> bool {
    calls::of(enter.number, enter.compat).is_some_and(|call| matches!(call.name, "exit" | "exit_group"))
}

fn ended(enter: Record, leave: Option<Record>) -> Traced {
    let Some(leave) = leave else {
        let comm = enter.comm.clone();
        return Traced { enter, result: None, duration_ns: 0, after: Vec::new(), comm };
    };
    let result = match leave.phase {
        Phase::Leave(result) => Some(result),
        Phase::Enter(_) => None,
    };
    let duration_ns = leave.time_ns.saturating_sub(enter.time_ns);
    Traced { enter, result, duration_ns, after: leave.chunks, comm: leave.comm }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(phase: Phase, seq: u64, number: u16) -> Record {
        Record {
            phase,
            compat: false,
            kind: None,
            file: 0,
            number,
            time_ns: 10 * seq,
            seq,
            task: 1,
            pid: 7,
            tgid: 7,
            uid: 0,
            vcpu: 0,
            comm: "sh".to_owned(),
            chunks: Vec::new(),
        }
    }

    #[test]
    fn an_end_finds_its_beginning() {
        let mut pairing = Pairing::default();
        assert_eq!(pairing.take(record(Phase::Enter([3, 0, 0, 0, 0, 0]), 1, 3)), None);
        assert_eq!(pairing.take(record(Phase::Leave(0), 2, 3)), None);
        let call = pairing.take(record(Phase::Leave(-9), 1, 3)).unwrap();
        assert_eq!((call.result, call.arguments()[0], call.call().unwrap().name), (Some(-9), 3, "close"));
    }

    #[test]
    fn the_end_of_a_process_needs_no_result() {
        assert_eq!(Pairing::default().take(record(Phase::Enter([0; 6]), 1, 231)).unwrap().result, None);
    }

    #[test]
    fn an_end_of_another_task_is_dropped() {
        let mut pairing = Pairing::default();
        pairing.take(record(Phase::Enter([0; 6]), 1, 3));
        let mut stale = record(Phase::Leave(0), 1, 3);
        stale.pid = 8;
        assert_eq!(pairing.take(stale), None);
    }
}
