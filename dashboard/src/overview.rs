//! The API's answers that are made of events and of the house's state.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde_json::{Value, json};

use crate::answer::Refusal;
use crate::app::App;
use crate::question::Question;

/// `GET /api/overview`: domains with their load, services, the switch; what was seen last.
pub async fn overview(State(app): State<Arc<App>>) -> Json<Value> {
    Json(app.sampler.view())
}

/// `GET /api/events`: a page of events, newest first.
pub async fn events(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<Value>, Refusal> {
    let question = Question::parse(uri.query().unwrap_or_default())?;
    let page = app.reader.events(&question).await?;
    let events: Vec<Value> = page.rows.iter().map(logsink::Row::to_json).collect();
    Ok(Json(json!({ "events": events, "next_before_id": page.next_before_id })))
}

/// `GET /api/events/{id}`: one event, with its place in the journal.
pub async fn event(
    State(app): State<Arc<App>>,
    path: Result<Path<i64>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    let Path(id) = path.map_err(|_| Refusal::Missing("event"))?;
    let row = app.reader.event(id).await?;
    Ok(Json(json!({
        "id": row.id, "received": row.received, "journal_hash": row.hash, "event": row.to_json(),
    })))
}

/// `GET /api/counts`: how many events of each id, with the parameters of `/api/events`.
pub async fn counts(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<Value>, Refusal> {
    let question = Question::parse(uri.query().unwrap_or_default())?;
    let counts = app.reader.counts(&question).await?;
    let count = |count: &logsink::Count| json!({ "event_id": count.event_id, "count": count.count, "last": count.last });
    Ok(Json(json!({ "counts": counts.iter().map(count).collect::<Vec<_>>() })))
}
