//! A supervisor in the test: speaks the line protocol, and takes real cases of a domain that is only a piece of memory.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use events::{Emitter, Event, EventId};
use forensics::{Acquisition, CaseKey, CaseOptions, DomainInfo, RamRange};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::snapshots::Snapshots;

/// RAM of its domains.
const MEMORY_BYTES: u64 = 8 << 20;

#[derive(Default)]
struct Shared {
    paused: Mutex<bool>,
    asked: Mutex<Vec<Value>>,
    // Long requests wait while this is held.
    held: Mutex<bool>,
    released: Condvar,
    // Nothing is answered any more.
    mute: Mutex<bool>,
}

/// The supervisor; its threads end with the test.
pub struct Supervisor {
    shared: Arc<Shared>,
    /// The public key of its cases.
    pub case_key: String,
}

#[derive(Clone)]
struct Post {
    shared: Arc<Shared>,
    evidence: PathBuf,
    keys: PathBuf,
    emitter: Emitter,
    begun: Instant,
    snapshots: Snapshots,
}

impl Supervisor {
    pub fn start(path: &Path, evidence: &Path, emitter: Emitter) -> Supervisor {
        let shared = Arc::new(Shared::default());
        let keys = path.with_file_name("keys");
        let case_key = CaseKey::load_or_create(&keys).unwrap().public();
        let post = Post {
            shared: Arc::clone(&shared),
            evidence: evidence.to_owned(),
            keys,
            emitter,
            begun: Instant::now(),
            snapshots: Snapshots,
        };
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let post = post.clone();
                std::thread::spawn(move || post.serve(socket));
            }
        });
        Supervisor { shared, case_key }
    }

    /// Long requests wait from now on, or go on.
    pub fn hold(&self, held: bool) {
        *self.shared.held.lock().unwrap() = held;
        self.shared.released.notify_all();
    }

    /// From now on it takes requests and says nothing.
    pub fn fall_silent(&self) {
        *self.shared.mute.lock().unwrap() = true;
    }

    /// Requests so far with this op.
    pub fn asked(&self, op: &str) -> Vec<Value> {
        self.shared.asked.lock().unwrap().iter().filter(|request| request["op"] == op).cloned().collect()
    }
}

impl Post {
    fn serve(&self, socket: UnixStream) {
        let mut line = String::new();
        if BufReader::new(&socket).read_line(&mut line).is_err() {
            return;
        }
        let request: Value = serde_json::from_str(&line).unwrap();
        self.shared.asked.lock().unwrap().push(request.clone());
        if *self.shared.mute.lock().unwrap() {
            // Until the other side gives up.
            let _ = BufReader::new(&socket).read_line(&mut line);
            return;
        }
        let reply = match self.answer(&request) {
            Ok(ok) => json!({ "ok": ok }),
            Err(error) => json!({ "error": error, "code": 1 }),
        };
        let _ = writeln!(&socket, "{reply}");
    }

    fn answer(&self, request: &Value) -> Result<Value, String> {
        let name = request["name"].as_str().unwrap_or_default();
        let known = ["web-server", "ssh-server"].contains(&name) || request["op"] == "snapshot-restore";
        if !name.is_empty() && !known {
            return Err(format!("there is no domain {name}"));
        }
        match request["op"].as_str().unwrap() {
            "list" => Ok(self.list()),
            "info" => Ok(json!({
                "version": "0.1.0", "pid": 1, "state": "/var/lib/honeynet", "domains": 2,
                "memory_available_mib": 12000,
                "services": [
                    { "service": "dashboard", "pid": 812, "restarts": 0 },
                    { "service": "logsink", "pid": 809, "restarts": 1 },
                    { "service": "netwatch", "pid": 810, "restarts": 0 },
                ],
            })),
            "net" => Ok(json!({ "ports": [], "flows": 0, "events_dropped": 0 })),
            "pause" | "unpause" => {
                *self.shared.paused.lock().unwrap() = request["op"] == "pause";
                Ok(json!({}))
            }
            "pull" => {
                self.wait();
                self.snapshot(name, request["reason"].as_str())
            }
            "snapshot" | "snapshots" | "pools" => Ok(self.snapshots.answer(request)),
            "snapshot-verify" | "snapshot-diff" | "snapshot-restore" => {
                self.wait();
                Ok(self.snapshots.answer(request))
            }
            "snapshot-pull" => self.snapshot("web-server", request["reason"].as_str()),
            "fim-check" => {
                self.wait();
                Ok(self.check(name))
            }
            other => Err(format!("{other} is not for the dashboard")),
        }
    }

    fn wait(&self) {
        let held = self.shared.held.lock().unwrap();
        drop(self.shared.released.wait_while(held, |held| *held).unwrap());
    }

    fn list(&self) -> Value {
        let seconds = self.begun.elapsed().as_secs_f64();
        let paused = *self.shared.paused.lock().unwrap();
        let row = |name: &str, domid: u32, state: &str, load: f64| {
            json!({
                "name": name, "domid": domid, "mem_mib": 256, "vcpus": 1, "state": state, "pid": 4242,
                "time_s": seconds * load + (seconds * 1.7).sin().abs() * load, "uptime_s": 90_061.0 + seconds,
                "uuid": "00000000-0000-4000-8000-000000000000", "macs": ["00:16:3e:1b:02:03"],
                "address": format!("10.77.0.{}", 9 + domid),
            })
        };
        let web = if paused { "--p---" } else { "r-----" };
        json!([row("ssh-server", 1, "-b----", 0.031), row("web-server", 2, web, 0.42)])
    }

    fn snapshot(&self, name: &str, reason: Option<&str>) -> Result<Value, String> {
        let memory = tempfile::tempfile().unwrap();
        memory.set_len(MEMORY_BYTES).unwrap();
        let now = Timestamp::now();
        let acquisition = Acquisition {
            domain: DomainInfo {
                name: name.into(),
                domid: 2,
                uuid: "00000000-0000-4000-8000-000000000000".into(),
                memory_bytes: MEMORY_BYTES,
                vcpus: 1,
            },
            memory,
            memory_at: 0,
            ranges: vec![RamRange { gpa: 0, file_offset: 0, bytes: MEMORY_BYTES }],
            vcpus: Vec::new(),
            disks: Vec::new(),
            kernel: None,
            notes: reason.map(str::to_owned).into_iter().collect(),
        };
        let key = CaseKey::load_or_create(&self.keys).unwrap();
        let frozen = forensics::copy_paused(acquisition, &self.evidence, now).map_err(|e| e.to_string())?;
        let options =
            CaseOptions { who: "supervisor", tool: "honeynet test", chain_head: None, key: Some(&key), now };
        let case = forensics::finish(frozen, &self.evidence, &options, &|_| {}).map_err(|e| e.to_string())?;
        let created = Event::new(EventId::CaseCreated, Timestamp::now()).domain(name, Some(2));
        self.emitter.emit(created.with("case", case.clone()).with("reason", reason.unwrap_or_default()));
        Ok(json!({ "case": case, "folder": self.evidence.join(&case) }))
    }

    fn check(&self, name: &str) -> Value {
        let attributes = json!([{ "attribute": "p", "before": "-rwxr-xr-x", "after": "-rwsr-xr-x" },
                                { "attribute": "s", "before": "68208", "after": "70112" }]);
        let change = Event::new(EventId::FimChange, Timestamp::now()).domain(name, Some(2));
        let change = change.with("change", "changed").with("path", "/usr/bin/passwd").with("kind", "file");
        self.emitter.emit(change.severity(events::Severity::Error).with("attributes", attributes));
        let checked = Event::new(EventId::FimChecked, Timestamp::now()).domain(name, Some(2));
        let checked = checked.with("entries", 18_211).with("added", 0).with("removed", 0).with("changed", 1);
        self.emitter.emit(checked);
        json!({ "clean": false, "text": "", "report":
            { "added": [], "removed": [], "changed": [{ "path": "/usr/bin/passwd" }], "problems": [] } })
    }
}
