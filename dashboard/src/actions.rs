//! What a page may ask the supervisor to do with a domain: pause, go on, a case, a check.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::Refusal;
use crate::app::App;
use crate::jobs::{Kind, Running};
use crate::supervisor::{ACT, TAKE};

/// Longest name of a domain, in bytes (as the domain file has it).
const NAME_BYTES_MAX: usize = 64;
/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 500;

/// Why a case is taken.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    reason: Option<String>,
}

impl Reason {
    /// Of a body.
    pub fn read(body: Result<Json<Reason>, JsonRejection>) -> Result<Option<String>, Refusal> {
        let Json(Reason { reason }) =
            body.map_err(|_| Refusal::Value("the body is not {\"reason\": \"…\"}"))?;
        Ok(reason)
    }
}

/// A reason as it goes into a manifest; none where there is only space.
pub fn reason(reason: Option<String>) -> Result<Option<String>, Refusal> {
    let reason = reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
    match reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
        true => Err(Refusal::Value("the reason is longer than 500 characters")),
        false => Ok(reason),
    }
}

type Name = Result<Path<String>, PathRejection>;

/// `POST /api/domains/{name}/pause`
pub async fn pause(State(app): State<Arc<App>>, path: Name) -> Result<Json<Value>, Refusal> {
    act(&app, "pause", &domain_name(path)?).await
}

/// `POST /api/domains/{name}/unpause`
pub async fn unpause(State(app): State<Arc<App>>, path: Name) -> Result<Json<Value>, Refusal> {
    act(&app, "unpause", &domain_name(path)?).await
}

/// `POST /api/domains/{name}/pull` with `{"reason": …}`; answers the job's number.
pub async fn pull(
    State(app): State<Arc<App>>,
    path: Name,
    body: Result<Json<Reason>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let name = domain_name(path)?;
    let reason = reason(Reason::read(body)?)?;
    let job = app.jobs.begin(Kind::Pull, &name)?;
    let request = json!({ "op": "pull", "name": name, "reason": reason });
    Ok(begun(app, job, request, |answer| json!({ "case": answer["case"] })))
}

/// `POST /api/domains/{name}/fim-check`; answers the job's number.
pub async fn fim_check(
    State(app): State<Arc<App>>,
    path: Name,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let name = domain_name(path)?;
    let job = app.jobs.begin(Kind::FimCheck, &name)?;
    let request = json!({ "op": "fim-check", "name": name });
    let count = |answer: &Value, key: &str| answer["report"][key].as_array().map_or(0, Vec::len);
    Ok(begun(app, job, request, move |answer| {
        json!({
            "clean": answer["clean"], "added": count(answer, "added"), "removed": count(answer, "removed"),
            "changed": count(answer, "changed"), "unreadable": count(answer, "problems"),
        })
    }))
}

/// `GET /api/jobs`
pub async fn jobs(State(app): State<Arc<App>>) -> Json<Value> {
    Json(app.jobs.view())
}

async fn act(app: &App, op: &str, name: &str) -> Result<Json<Value>, Refusal> {
    app.supervisor.ask(&json!({ "op": op, "name": name }), ACT).await?;
    app.sampler.look_now();
    Ok(Json(json!({})))
}

/// Has the supervisor do what takes long; answers the job's number.
pub fn begun(
    app: Arc<App>,
    job: Running,
    request: Value,
    summary: impl FnOnce(&Value) -> Value + Send + 'static,
) -> (StatusCode, Json<Value>) {
    const LIMIT: Duration = TAKE;
    let id = job.id;
    tokio::spawn(async move {
        let answer = app.supervisor.ask(&request, LIMIT).await;
        job.end(answer.map(|answer| summary(&answer)).map_err(|error| events::sentence(&error)));
        app.sampler.look_now();
    });
    (StatusCode::ACCEPTED, Json(json!({ "job": id })))
}

/// The domain that a path names.
pub fn domain_name(path: Name) -> Result<String, Refusal> {
    let Path(name) = path.map_err(|_| Refusal::Missing("domain"))?;
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    fits.then_some(name).ok_or(Refusal::Missing("domain"))
}
