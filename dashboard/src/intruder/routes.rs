//! The paths of sessions.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path as FsPath;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::name::{self, SessionId};
use super::object::{self, ObjectError};
use super::question::{self, Question};
use super::{alerts, file};
use crate::answer::Refusal;
use crate::app::App;
use crate::{download, pages};

/// Casts that are served at one time; each holds a thread. A page that is open asks for one every two seconds.
pub const CASTS_MAX: usize = 8;
/// Longest cast, in bytes.
const CAST_BYTES_MAX: u64 = 1 << 30;

const CAST: &str = "application/x-asciicast";
const SAMPLE: &str = "application/octet-stream";

type Named<T> = Result<Path<T>, PathRejection>;

/// `GET /sessions/{id}`: the page. Whether there is such a session its script finds out.
pub async fn page(path: Named<String>) -> Result<Response, Refusal> {
    id(path)?;
    Ok(pages::session())
}

/// `GET /api/sessions`: newest first.
pub async fn list(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<Value>, Refusal> {
    let question = Question::parse(uri.query().unwrap_or_default())?;
    let catalogue = Arc::clone(&app.intruders);
    let page = blocking(move || catalogue.page(&question)).await?.map_err(|error| {
        tracing::warn!(%error, "sessions cannot be listed");
        Refusal::Away("the folder of sessions cannot be read")
    })?;
    let counted = alerts::count(&app.reader, &page.sessions, Timestamp::now()).await;
    let rows = page.sessions.iter().zip(&counted.alerts).map(|(summary, alerts)| {
        let mut row = json!(**summary);
        row["alerts"] = json!(alerts);
        row
    });
    Ok(Json(json!({
        "sessions": rows.collect::<Vec<_>>(),
        "alerts_at_least": counted.at_least,
        "next_before": page.next_before.map(|id| id.to_string()),
    })))
}

/// `GET /api/sessions/{id}`: the object. Who says which one it has (`If-None-Match`) is not sent the same one again.
pub async fn one(
    State(app): State<Arc<App>>,
    path: Named<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let id = id(path)?;
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let catalogue = Arc::clone(&app.intruders);
    let read = move || {
        let (file, metadata) = object::open(catalogue.folder(), id)?;
        let tag = file::Stamp::of(&metadata).tag();
        let same = known.as_deref() == Some(tag.as_str());
        let session = if same { None } else { Some(object::to_json(object::read(file, id)?)) };
        Ok::<_, ObjectError>((tag, session))
    };
    let (tag, session) = blocking(read).await?.inspect_err(|error| {
        if !matches!(error, ObjectError::Missing) {
            tracing::warn!("{}", events::sentence(error));
        }
    })?;
    let tag = [(header::ETAG, tag)];
    Ok(match session {
        Some(session) => (tag, Json(session)).into_response(),
        None => (StatusCode::NOT_MODIFIED, tag).into_response(),
    })
}

/// `GET /api/sessions/{id}/tty/{number}`: the cast, from the byte `from` on, as far as it is written now.
pub async fn tty(
    State(app): State<Arc<App>>,
    path: Named<(String, String)>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let Path((id, number)) = path.map_err(|_| Refusal::Missing("cast"))?;
    let names = SessionId::parse(&id).zip(name::tty(&number));
    let (id, number) = names.ok_or(Refusal::Missing("cast"))?;
    let from = question::from(uri.query().unwrap_or_default())?;
    let busy = Refusal::Busy("too many casts are played at once: wait for one");
    serve(&app.tty, format!("{id}-{number}.cast"), from, CAST_BYTES_MAX, (CAST, "cast"), &app.casts, busy)
        .await
}

/// `GET /api/samples/{sha256}`: a sample, to be kept and not to be opened.
pub async fn sample(State(app): State<Arc<App>>, path: Named<String>) -> Result<Response, Refusal> {
    let Path(name) = path.map_err(|_| Refusal::Missing("sample"))?;
    if !name::is_sha256(&name) {
        return Err(Refusal::Missing("sample"));
    }
    let busy = Refusal::Busy("four downloads are under way already: wait for one");
    serve(&app.samples, name, 0, u64::MAX, (SAMPLE, "sample"), &app.downloads, busy).await
}

/// One file as an attachment, no byte after those that it has now.
async fn serve(
    folder: &FsPath,
    name: String,
    from: u64,
    bytes_max: u64,
    (kind, what): (&'static str, &'static str),
    permits: &Arc<Semaphore>,
    busy: Refusal,
) -> Result<Response, Refusal> {
    let permit = Arc::clone(permits).try_acquire_owned().map_err(|_| busy)?;
    let folder = folder.to_owned();
    let disposition = format!("attachment; filename=\"{name}\"");
    let opened = blocking(move || opened(&folder, &name, from, bytes_max)).await?;
    let (file, length) = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Refusal::Missing(what),
        _ => {
            tracing::warn!(%error, what, "a file of a session cannot be read");
            Refusal::Away("the file cannot be read")
        }
    })?;
    let body = download::body(permit, move |pieces| whole(file, length, pieces));
    Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_DISPOSITION, disposition)
        .header(header::CONTENT_LENGTH, length)
        .body(body)
        .map_err(|_| Refusal::Missing(what))
}

fn opened(folder: &FsPath, name: &str, from: u64, bytes_max: u64) -> io::Result<(File, u64)> {
    let (mut file, metadata) = file::open(folder, name)?;
    let end = metadata.len().min(bytes_max);
    let from = from.min(end);
    file.seek(SeekFrom::Start(from))?;
    Ok((file, end - from))
}

fn whole(file: File, length: u64, pieces: &mut download::Pieces) -> io::Result<()> {
    let copied = io::copy(&mut file.take(length), pieces)?;
    io::Write::flush(pieces)?;
    if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn id(path: Named<String>) -> Result<SessionId, Refusal> {
    let Path(id) = path.map_err(|_| Refusal::Missing("session"))?;
    SessionId::parse(&id).ok_or(Refusal::Missing("session"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a thread ended");
        Refusal::Away("the sessions cannot be read just now")
    })
}
