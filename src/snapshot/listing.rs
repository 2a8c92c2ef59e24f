//! A snapshot as it is listed: on the command line, and by the supervisor for the dashboard.

use serde_json::{Value, json};

use super::store::Entry;

/// One row.
pub fn row(entry: &Entry) -> Value {
    let mut row = json!({ "domain": entry.domain, "id": entry.id, "bytes": entry.bytes });
    match &entry.manifest {
        Err(error) => row["error"] = events::sentence(error).into(),
        Ok(manifest) => {
            let parent = manifest.parent.as_ref().map(|parent| {
                // Of one of the same domain the id says enough.
                let name = parent.folder.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            });
            row["taken"] = json!(manifest.taken);
            row["kind"] = json!(manifest.kind);
            row["parent"] = json!(parent);
            row["memory_mib"] = json!(manifest.domain.memory_mib);
            row["pause_ms"] = json!(manifest.pause_ms);
            row["reason"] = json!(manifest.reason);
            row["capture"] = json!(manifest.capture);
            row["event_seq"] = json!(manifest.event_seq);
            row["build"] = json!(manifest.build);
        }
    }
    row
}
