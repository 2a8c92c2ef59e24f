//! Cases: the list, one case, its verification, and its download. Read only; what is read is checked by `forensics`.

use std::io;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use forensics::{case, custody};
use serde_json::{Value, json};

use crate::answer::Refusal;
use crate::app::App;
use crate::download;
use crate::jobs::{Kind, Progress};

/// Downloads at one time; each holds a thread.
pub const DOWNLOADS_MAX: usize = 4;
/// Cases of the list.
const LISTED_MAX: usize = 1000;
/// Lines of the custody log that are shown.
const CUSTODY_MAX: usize = 1000;

type Id = Result<Path<String>, PathRejection>;

/// `GET /api/cases`
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let evidence = app.evidence.clone();
    let listed = blocking(move || {
        let cases = case::list(&evidence)?;
        let more = cases.len().saturating_sub(LISTED_MAX);
        let rows = cases.into_iter().take(LISTED_MAX).map(|summary| {
            let notes = case::read_manifest(&evidence.join(&summary.case)).map(|manifest| manifest.notes);
            let mut row = json!(summary);
            row["notes"] = json!(notes.unwrap_or_default());
            row
        });
        Ok::<_, io::Error>(json!({ "cases": rows.collect::<Vec<_>>(), "not_listed": more }))
    });
    match listed.await? {
        Ok(value) => Ok(Json(value)),
        Err(error) => {
            tracing::warn!(%error, "cases cannot be listed");
            Err(Refusal::Away("the folder of cases cannot be read"))
        }
    }
}

/// `GET /api/cases/{id}`: manifest and custody log.
pub async fn one(State(app): State<Arc<App>>, path: Id) -> Result<Json<Value>, Refusal> {
    let folder = folder(&app.evidence, path)?;
    let read = move || {
        let manifest = case::read_manifest(&folder).map_err(|_| Refusal::Missing("case"))?;
        let (entries, broken) = custody::read(&folder).unwrap_or((Vec::new(), Some(0)));
        let entries: Vec<_> = entries.into_iter().take(CUSTODY_MAX).collect();
        Ok(json!({ "manifest": manifest, "custody": entries, "custody_broken_at": broken }))
    };
    blocking(read).await?.map(Json)
}

/// `POST /api/cases/{id}/verify`; answers the job's number.
pub async fn verify(State(app): State<Arc<App>>, path: Id) -> Result<(StatusCode, Json<Value>), Refusal> {
    let folder = folder(&app.evidence, path)?;
    let manifest = case::read_manifest(&folder).map_err(|_| Refusal::Missing("case"))?;
    let job = app.jobs.begin(Kind::Verify, &manifest.case)?;
    job.progress.expect(manifest.items.iter().map(|item| item.bytes).sum());
    let id = job.id;
    tokio::task::spawn_blocking(move || {
        let progress: &Progress = &job.progress;
        let verified = forensics::verify(&folder, app.case_key.as_deref(), &|bytes| progress.add(bytes));
        job.end(match verified {
            Ok(report) => Ok(json!({
                "intact": report.is_intact(),
                "items": report.items.len(),
                "problems": report.problems(),
                "signature": report.signature,
            })),
            Err(error) => Err(events::sentence(&error)),
        });
    });
    Ok((StatusCode::ACCEPTED, Json(json!({ "job": id }))))
}

/// `GET /api/cases/{id}/tar`: the case as one file.
pub async fn tar(State(app): State<Arc<App>>, path: Id) -> Result<Response, Refusal> {
    let folder = folder(&app.evidence, path)?;
    let manifest = case::read_manifest(&folder).map_err(|_| Refusal::Missing("case"))?;
    let permit = Arc::clone(&app.downloads).try_acquire_owned();
    let permit = permit.map_err(|_| Refusal::Busy("four downloads are under way already: wait for one"))?;
    let body = download::body(permit, move |pieces| forensics::archive::write(&folder, pieces));
    // Ids are plain names, but the manifest says its own.
    let name: String =
        manifest.case.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    Response::builder()
        .header(header::CONTENT_TYPE, "application/x-tar")
        .header(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.tar\""))
        .body(body)
        .map_err(|_| Refusal::Missing("case"))
}

/// The folder of a case; an id that would lead elsewhere is as one that is not there.
fn folder(evidence: &FsPath, path: Id) -> Result<PathBuf, Refusal> {
    let Path(id) = path.map_err(|_| Refusal::Missing("case"))?;
    let folder = case::folder(evidence, &id).map_err(|_| Refusal::Missing("case"))?;
    let is_folder = std::fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir());
    is_folder.then_some(folder).ok_or(Refusal::Missing("case"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a thread ended");
        Refusal::Away("the cases cannot be read just now")
    })
}
