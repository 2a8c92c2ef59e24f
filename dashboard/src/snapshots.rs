//! Snapshots of domains, and pools of clones: looked at, and what a page may have done with one.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::actions::{Reason, begun, domain_name, reason};
use crate::answer::Refusal;
use crate::app::App;
use crate::jobs::Kind;
use crate::supervisor::LOOK;

/// Longest id of a snapshot.
const ID_BYTES_MAX: usize = 64;
/// Lines of each list of a difference that are kept and shown; how many there are is said.
const LINES_MAX: usize = 300;

type Place = Result<Path<(String, String)>, PathRejection>;

/// Two snapshots.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    before: String,
    after: String,
}

/// What a new domain is called.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    name: String,
}

/// Which snapshot is taken.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    reason: Option<String>,
    #[serde(default)]
    diff: bool,
}

/// `GET /api/snapshots`
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({ "snapshots": app.supervisor.ask(&json!({ "op": "snapshots" }), LOOK).await? })))
}

/// `GET /api/pools`
pub async fn pools(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    Ok(Json(json!({ "pools": app.supervisor.ask(&json!({ "op": "pools" }), LOOK).await? })))
}

/// `POST /api/domains/{name}/snapshot` with `{"reason": …, "diff": …}`; answers the job's number.
pub async fn take(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Json<Wanted>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let name = domain_name(path)?;
    let wrong = Refusal::Value("the body is not {\"reason\": \"…\", \"diff\": true or false}");
    let Ok(Json(Wanted { reason: why, diff })) = body else { return Err(wrong) };
    let reason = reason(why)?;
    let job = app.jobs.begin(Kind::Snapshot, &name)?;
    let request = json!({ "op": "snapshot", "name": name, "diff": diff, "reason": reason });
    Ok(begun(
        app,
        job,
        request,
        |answer| json!({ "id": answer["id"], "kind": answer["kind"], "pause_ms": answer["pause_ms"] }),
    ))
}

/// `POST /api/snapshots/{domain}/{id}/verify`; answers the job's number.
pub async fn verify(State(app): State<Arc<App>>, path: Place) -> Result<(StatusCode, Json<Value>), Refusal> {
    let id = id(path)?;
    let job = app.jobs.begin(Kind::SnapshotVerify, &id)?;
    let request = json!({ "op": "snapshot-verify", "id": id });
    Ok(begun(app, job, request, |answer| json!({ "chain": answer["chain"] })))
}

/// `POST /api/snapshots/{domain}/{id}/pull` with `{"reason": …}`; answers the job's number.
pub async fn pull(
    State(app): State<Arc<App>>,
    path: Place,
    body: Result<Json<Reason>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let id = id(path)?;
    let reason = reason(Reason::read(body)?)?;
    let job = app.jobs.begin(Kind::Pull, &id)?;
    let request = json!({ "op": "snapshot-pull", "id": id, "reason": reason });
    Ok(begun(app, job, request, |answer| json!({ "case": answer["case"] })))
}

/// `POST /api/snapshots/{domain}/{id}/restore` with `{"name": …}`: a clone of it; answers the job's number.
pub async fn restore(
    State(app): State<Arc<App>>,
    path: Place,
    body: Result<Json<Named>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let id = id(path)?;
    let Json(Named { name }) = body.map_err(|_| Refusal::Value("the body is not {\"name\": \"…\"}"))?;
    let job = app.jobs.begin(Kind::Restore, &id)?;
    let request = json!({ "op": "snapshot-restore", "id": id, "name": name });
    Ok(begun(app, job, request, |answer| json!({ "name": answer["name"], "address": answer["address"] })))
}

/// `POST /api/snapshots/diff` with `{"before": "DOMAIN/ID", "after": "DOMAIN/ID"}`; answers the job's number.
pub async fn diff(
    State(app): State<Arc<App>>,
    body: Result<Json<Pair>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let wrong = Refusal::Value("the body is not {\"before\": \"DOMAIN/ID\", \"after\": \"DOMAIN/ID\"}");
    let Ok(Json(Pair { before, after })) = body else { return Err(wrong) };
    let both = [before, after].map(|text| match text.split_once('/') {
        Some((domain, number)) => checked(domain, number),
        None => Err(Refusal::Missing("snapshot")),
    });
    let [before, after] = both;
    let (before, after) = (before?, after?);
    let job = app.jobs.begin(Kind::Diff, &format!("{before} and {after}"))?;
    let request = json!({ "op": "snapshot-diff", "before": before, "after": after });
    Ok(begun(
        app,
        job,
        request,
        move |answer| json!({ "before": before, "after": after, "diff": shortened(answer) }),
    ))
}

/// The difference with as many lines as are shown, and how many there are.
fn shortened(found: &Value) -> Value {
    let lines = |list: &Value| {
        let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
        json!({ "count": all.len(), "lines": &all[..all.len().min(LINES_MAX)] })
    };
    let mut short = json!({ "notes": lines(&found["notes"])["lines"] });
    for what in ["processes", "sockets", "modules"] {
        short[what] =
            json!({ "added": lines(&found[what]["added"]), "removed": lines(&found[what]["removed"]) });
    }
    let files = found["files"].as_object().into_iter().flatten().map(|(vdev, report)| {
        let mut disk = json!({ "vdev": vdev });
        for key in ["added", "removed", "changed", "problems"] {
            disk[key] = lines(&report[key]);
        }
        disk
    });
    short["files"] = files.collect();
    short
}

/// `DOMAIN/ID`, which the supervisor looks for among its own.
fn id(path: Place) -> Result<String, Refusal> {
    let Path((domain, number)) = path.map_err(|_| Refusal::Missing("snapshot"))?;
    checked(&domain, &number)
}

fn checked(domain: &str, number: &str) -> Result<String, Refusal> {
    let plain = |text: &str| {
        let fits = (1..=ID_BYTES_MAX).contains(&text.len()) && !text.starts_with('.');
        fits && !text.chars().any(|character| character.is_control() || character == '/')
    };
    match plain(domain) && plain(number) {
        true => Ok(format!("{domain}/{number}")),
        false => Err(Refusal::Missing("snapshot")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_lead_elsewhere_are_none() {
        assert_eq!(checked("web", "20260102T030405678").unwrap(), "web/20260102T030405678");
        for (domain, number) in
            [("", "x"), ("web", ""), ("..", "x"), ("web", ".."), ("a/b", "x"), ("web", "x/y"), ("w\n", "x")]
        {
            assert!(checked(domain, number).is_err(), "{domain:?} {number:?}");
        }
        assert!(checked("web", &"1".repeat(65)).is_err());
    }

    #[test]
    fn a_long_difference_is_shortened_and_its_length_is_told() {
        let many: Vec<String> = (0..1000).map(|line| line.to_string()).collect();
        let found = json!({
            "notes": ["n"], "processes": { "added": many, "removed": [] },
            "files": { "xvda": { "added": many, "removed": [], "changed": [] } },
        });
        let short = shortened(&found);
        assert_eq!((&short["processes"]["added"]["count"], &short["notes"]), (&json!(1000), &json!(["n"])));
        assert_eq!(short["processes"]["added"]["lines"].as_array().unwrap().len(), LINES_MAX);
        assert_eq!(short["files"][0]["added"]["count"], 1000);
        assert_eq!(short["sockets"]["added"], json!({ "count": 0, "lines": [] }));
    }
}
