//! Events as they come, as server-sent events (HTML Living Standard, section 9.2): `event: row` with one event's JSON and its row number
//! as id, `event: missed` when some were left out. A browser that lost the connection names the last id it saw and gets the rest.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event, Sse};
use logsink::Row;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::answer::Refusal;
use crate::app::App;
use crate::auth::Who;
use crate::question::{LIMIT_MAX, Question};

/// Pages that are fed at one time.
pub const LISTENERS_MAX: usize = 32;
/// Events between us and the connection.
const QUEUE: usize = 16;
/// How often a silent connection is used, and its session is looked at.
const TICK: Duration = Duration::from_secs(10);
/// How long a page may take none of the events before it is let go; its browser comes again.
const STALLED: Duration = Duration::from_secs(30);

type Sender = mpsc::Sender<Result<Event, Infallible>>;

/// `GET /api/live`: the same parameters as `/api/events`.
pub async fn live(
    State(app): State<Arc<App>>,
    Extension(who): Extension<Who>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Sse<ReceiverStream<Result<Event, Infallible>>>, Refusal> {
    let mut question = Question::parse(uri.query().unwrap_or_default())?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<i64>().ok());
    question.after_id = last.filter(|id| *id >= 0).or(question.after_id);
    let permit = Arc::clone(&app.listeners).try_acquire_owned();
    let permit = permit.map_err(|_| Refusal::Busy("too many pages are open: close one"))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let rows = app.feed.listen();
    tokio::spawn(feed(app, who, question, rows, sender, permit));
    Ok(Sse::new(ReceiverStream::new(receiver)))
}

async fn feed(
    app: Arc<App>,
    who: Who,
    mut question: Question,
    mut rows: broadcast::Receiver<Arc<Row>>,
    sender: Sender,
    _permit: OwnedSemaphorePermit,
) {
    // Browsers say that the connection is open when the first bytes come.
    if !give(&sender, Event::default().comment("welcome")).await {
        return;
    }
    let mut seen = question.after_id.unwrap_or(0);
    if question.after_id.is_some() {
        question.limit = Some(LIMIT_MAX);
        let Ok(page) = app.reader.events(&question).await else { return };
        if page.next_before_id.is_some() && !give(&sender, missed()).await {
            return;
        }
        for row in page.rows.iter().rev() {
            seen = row.id;
            if !give(&sender, event(row)).await {
                return;
            }
        }
    }
    let mut tick = tokio::time::interval(TICK);
    loop {
        let next = tokio::select! {
            () = sender.closed() => return,
            _ = tick.tick() => {
                if !app.is_logged_in(&who, Instant::now()) {
                    return;
                }
                Event::default().comment("still here")
            }
            row = rows.recv() => match row {
                Ok(row) if row.id > seen && question.means(&row) => event(&row),
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Lagged(_)) => missed(),
                Err(broadcast::error::RecvError::Closed) => return,
            },
        };
        if !give(&sender, next).await {
            return;
        }
    }
}

/// False when nobody takes it.
async fn give(sender: &Sender, event: Event) -> bool {
    matches!(tokio::time::timeout(STALLED, sender.send(Ok(event))).await, Ok(Ok(())))
}

fn event(row: &Row) -> Event {
    // JSON in one line: line feeds in it are escaped.
    Event::default().event("row").id(row.id.to_string()).data(row.to_json().to_string())
}

fn missed() -> Event {
    Event::default().event("missed").data("{}")
}
