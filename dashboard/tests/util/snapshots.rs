//! Snapshots and pools as the supervisor would tell of them; one has a reason that an intruder might have chosen.

use serde_json::{Value, json};

/// A chain of two, and one that is damaged; a pool with two attackers.
#[derive(Clone, Default)]
pub struct Snapshots;

pub const HOSTILE: &str = "<img src=x onerror=\"window.hacked=1\">\u{202e}gpj";

impl Snapshots {
    pub fn answer(&self, request: &Value) -> Value {
        match request["op"].as_str().unwrap() {
            "snapshots" => rows(),
            "pools" => pools(),
            "snapshot" => {
                json!({ "id": "20261201T080000000", "kind": "full", "pause_ms": 1.8, "folder": "/x" })
            }
            "snapshot-verify" => json!({ "snapshot": request["id"], "whole": true, "chain": 2 }),
            "snapshot-restore" => json!({ "name": request["name"], "address": "10.77.0.254", "domid": 9 }),
            "snapshot-diff" => json!({
                "notes": [],
                "processes": { "added": [format!("4242 (of 1, uid 0, pts/0) {HOSTILE}")], "removed": [] },
                "sockets": { "added": ["tcp 0.0.0.0:4444 - LISTEN inode 9182"], "removed": [] },
                "modules": { "added": [], "removed": ["dm_mod at 0xffffffffc0123000"] },
                "files": { "xvda": {
                    "added": [{ "path": "/tmp/.x/kworker" }], "removed": [],
                    "changed": [{ "path": "/etc/passwd", "attributes": [] }], "problems": [],
                } },
            }),
            other => json!({ "error": other }),
        }
    }
}

fn rows() -> Value {
    let row = |domain: &str, id: &str, kind: &str, parent: Option<&str>, mib: u64, reason: Option<&str>| {
        json!({
            "domain": domain, "id": id, "kind": kind, "parent": parent, "bytes": mib << 20, "memory_mib": 256,
            "pause_ms": 1.8, "reason": reason, "taken": "2026-12-01T07:00:00Z", "event_seq": 7, "build": "0.1.0",
        })
    };
    json!([
        row("web-server", "20261201T070000000", "full", None, 96, Some("before the weekend")),
        row("web-server", "20261201T071500000", "diff", Some("20261201T070000000"), 7, Some(HOSTILE)),
        { "domain": "web-server", "id": "20261201T072000000", "bytes": 4096, "error": "ram.img is not as it was written" },
        row("ssh-server", "20261201T073000000", "full", None, 88, None),
    ])
}

fn pools() -> Value {
    let clone = |source: &str, name: &str, age: f64| json!({ "source": source, "clone": name, "age_s": age, "idle_s": age / 7.0 });
    json!([{
        "pool": "farm", "address": "10.77.0.20", "snapshot": "5f0f9c1e-0000-4000-8000-000000000000",
        "taken": 2, "parked": 1, "clones_max": 8, "idle_max_s": 600, "shared": "farm-shared",
        "clones": [clone("198.51.100.3", "farm-1", 431.0), clone("203.0.113.77", "farm-2", 12.0)],
    }])
}
