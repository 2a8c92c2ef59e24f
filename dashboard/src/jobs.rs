//! What takes long: cases, checks, verifications. A page asks for one, gets its number, and looks again. Kept in memory only.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::answer::Refusal;

/// Jobs under way at one time.
const RUNNING_MAX: usize = 4;
/// Jobs that are remembered, those under way included.
const JOBS_MAX: usize = 64;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Memory and disks of a domain, or of a snapshot, into a case.
    Pull,
    /// A snapshot of a domain.
    Snapshot,
    /// A snapshot against its sums.
    SnapshotVerify,
    /// Two snapshots against each other.
    Diff,
    /// A snapshot becomes a domain.
    Restore,
    /// A domain's disk against its baseline.
    FimCheck,
    /// A case against its manifest.
    Verify,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It is being done.
    Running,
    /// It was done.
    Done,
    /// It was not.
    Failed,
}

#[derive(Debug)]
struct Job {
    id: u64,
    kind: Kind,
    subject: String,
    begun: Timestamp,
    ended: Option<Timestamp>,
    stage: Stage,
    answer: Value,
    progress: Arc<Progress>,
}

/// How far a job is, in bytes; nothing is known where `total` is 0.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// So much is to be done.
    pub fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    /// So much more was done.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn view(&self) -> Value {
        match self.total.load(Ordering::Relaxed) {
            0 => Value::Null,
            total => json!({ "done": self.done.load(Ordering::Relaxed).min(total), "total": total }),
        }
    }
}

/// All jobs.
#[derive(Debug, Default)]
pub struct Jobs {
    // Locked for short looks and changes only.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    last_id: u64,
    jobs: VecDeque<Job>,
}

/// A job that is under way; ended as failed when it is dropped without an answer.
pub struct Running {
    jobs: Arc<Jobs>,
    /// Its number.
    pub id: u64,
    /// How far it is.
    pub progress: Arc<Progress>,
}

impl Jobs {
    /// Begins a job; not twice for the same, and not too many.
    pub fn begin(self: &Arc<Jobs>, kind: Kind, subject: &str) -> Result<Running, Refusal> {
        let mut table = self.table();
        let running = || table.jobs.iter().filter(|job| job.stage == Stage::Running);
        if running().any(|job| job.kind == kind && job.subject == subject) {
            return Err(Refusal::Busy("this is being done already"));
        }
        if running().count() >= RUNNING_MAX {
            return Err(Refusal::Busy("four long jobs are under way already: wait for one"));
        }
        if table.jobs.len() >= JOBS_MAX {
            let oldest = table.jobs.iter().position(|job| job.stage != Stage::Running);
            oldest.and_then(|oldest| table.jobs.remove(oldest));
        }
        table.last_id += 1;
        let (id, progress) = (table.last_id, Arc::new(Progress::default()));
        table.jobs.push_back(Job {
            id,
            kind,
            subject: subject.to_owned(),
            begun: Timestamp::now(),
            ended: None,
            stage: Stage::Running,
            answer: Value::Null,
            progress: Arc::clone(&progress),
        });
        Ok(Running { jobs: Arc::clone(self), id, progress })
    }

    /// All jobs, newest first.
    pub fn view(&self) -> Value {
        let table = self.table();
        let view = |job: &Job| {
            json!({
                "id": job.id, "kind": job.kind, "subject": job.subject, "begun": job.begun, "ended": job.ended,
                "stage": job.stage, "answer": job.answer, "progress": job.progress.view(),
            })
        };
        json!({ "jobs": table.jobs.iter().rev().map(view).collect::<Vec<_>>() })
    }

    fn end(&self, id: u64, stage: Stage, answer: Value) {
        let mut table = self.table();
        let job = table.jobs.iter_mut().find(|job| job.id == id && job.stage == Stage::Running);
        if let Some(job) = job {
            job.stage = stage;
            job.answer = answer;
            job.ended = Some(Timestamp::now());
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// It was done, and this came of it; or it was not, for this reason.
    pub fn end(self, result: Result<Value, String>) {
        match result {
            Ok(answer) => self.jobs.end(self.id, Stage::Done, answer),
            Err(error) => self.jobs.end(self.id, Stage::Failed, json!({ "error": error })),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.jobs.end(self.id, Stage::Failed, json!({ "error": "it was broken off" }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_runs_and_ends_with_its_answer() {
        let jobs = Arc::new(Jobs::default());
        let running = jobs.begin(Kind::Verify, "case-1").unwrap();
        running.progress.expect(10);
        running.progress.add(4);
        let view = jobs.view();
        assert_eq!(view["jobs"][0]["stage"], "running");
        assert_eq!(view["jobs"][0]["progress"], json!({ "done": 4, "total": 10 }));
        running.end(Ok(json!({ "intact": true })));
        let view = jobs.view();
        assert_eq!(
            (&view["jobs"][0]["stage"], &view["jobs"][0]["answer"]["intact"]),
            (&json!("done"), &json!(true))
        );
    }

    #[test]
    fn the_same_is_not_done_twice_at_once() {
        let jobs = Arc::new(Jobs::default());
        let first = jobs.begin(Kind::Snapshot, "web").unwrap();
        assert!(jobs.begin(Kind::Snapshot, "web").is_err());
        assert!(jobs.begin(Kind::FimCheck, "web").is_ok());
        drop(first);
        assert!(jobs.begin(Kind::Snapshot, "web").is_ok());
    }

    #[test]
    fn a_dropped_job_has_failed() {
        let jobs = Arc::new(Jobs::default());
        drop(jobs.begin(Kind::Snapshot, "web").unwrap());
        assert_eq!(jobs.view()["jobs"][0]["stage"], "failed");
    }

    #[test]
    fn there_are_never_too_many() {
        let jobs = Arc::new(Jobs::default());
        let running: Vec<_> =
            (0..RUNNING_MAX).map(|n| jobs.begin(Kind::Verify, &n.to_string()).unwrap()).collect();
        assert!(matches!(jobs.begin(Kind::Verify, "x"), Err(Refusal::Busy(_))));
        drop(running);
        for n in 0..3 * JOBS_MAX {
            jobs.begin(Kind::Verify, &n.to_string()).unwrap().end(Err("no".into()));
        }
        assert_eq!(jobs.view()["jobs"].as_array().unwrap().len(), JOBS_MAX);
    }
}
