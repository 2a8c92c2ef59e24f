//! logsink's store, opened when it is first asked and again when its files are others: logsink may come later than we do, and it may
//! make the store anew.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use logsink::{Count, Filter, Row, Store};
use tokio::sync::Mutex;

use crate::answer::Refusal;
use crate::question::Question;

/// How long an answer may take; a text that is nowhere makes SQLite read everything.
const ANSWER: Duration = Duration::from_secs(15);
/// Bytes of JSON in one answer; what does not fit is on the next page.
const ANSWER_BYTES_MAX: usize = 8 << 20;

const AWAY: Refusal = Refusal::Away("the events cannot be read just now: logsink may be starting");

/// Which files were opened. Without a -wal file the store is opened as one that does not change, so one that comes counts as a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    database: (u64, u64),
    wal: Option<u64>,
}

/// The store behind its path.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    // Locked while it is opened, so that it is opened once.
    opened: Mutex<Option<(Generation, Store)>>,
}

/// A page of events, newest first.
pub struct PageOfEvents {
    /// The events.
    pub rows: Vec<Row>,
    /// Where the next page starts, if there may be one.
    pub next_before_id: Option<i64>,
}

impl Reader {
    /// Nothing is opened yet.
    pub fn new(path: PathBuf) -> Reader {
        Reader { path, opened: Mutex::default() }
    }

    /// The store as it is now, and which one it is.
    pub async fn store(&self) -> Result<(Generation, Store), Refusal> {
        let generation = generation(&self.path).map_err(|_| AWAY)?;
        let mut opened = self.opened.lock().await;
        if let Some((known, store)) = &*opened
            && *known == generation
        {
            return Ok((generation, store.clone()));
        }
        let store = Store::open_readonly(&self.path).await.map_err(|error| {
            tracing::warn!("{}", events::sentence(&error));
            AWAY
        })?;
        *opened = Some((generation.clone(), store.clone()));
        Ok((generation, store))
    }

    /// The events that are meant, newest first.
    pub async fn events(&self, question: &Question) -> Result<PageOfEvents, Refusal> {
        let (filters, limit) = question.filters();
        let (_, store) = self.store().await?;
        let all = async {
            let mut rows = Vec::new();
            for filter in &filters {
                rows.extend(store.events(filter).await?);
            }
            Ok::<_, logsink::StoreError>(rows)
        };
        Ok(page(answered(all).await?, limit))
    }

    /// One event.
    pub async fn event(&self, id: i64) -> Result<Row, Refusal> {
        let (_, store) = self.store().await?;
        answered(store.event(id)).await?.ok_or(Refusal::Missing("event"))
    }

    /// How many of each id.
    pub async fn counts(&self, question: &Question) -> Result<Vec<Count>, Refusal> {
        let (_, store) = self.store().await?;
        let (filters, _) = question.filters();
        let filter: Filter = filters.into_iter().next().unwrap_or_default();
        answered(store.counts(&filter)).await
    }
}

/// The newest rows of all, at most `limit` and at most so many bytes.
fn page(mut rows: Vec<Row>, limit: usize) -> PageOfEvents {
    rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.id));
    let full = rows.len() >= limit;
    rows.truncate(limit);
    let mut bytes = 0;
    let fit = rows.iter().take_while(|row| {
        bytes += row.json.len();
        bytes <= ANSWER_BYTES_MAX
    });
    let fit = fit.count().max(1).min(rows.len());
    let cut = fit < rows.len();
    rows.truncate(fit);
    let next_before_id = rows.last().filter(|_| full || cut).map(|row| row.id);
    PageOfEvents { rows, next_before_id }
}

async fn answered<T>(answer: impl Future<Output = Result<T, logsink::StoreError>>) -> Result<T, Refusal> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => {
            tracing::warn!("{}", events::sentence(&error));
            Err(AWAY)
        }
        Err(_) => Err(Refusal::Slow),
    }
}

fn generation(path: &Path) -> io::Result<Generation> {
    let database = std::fs::metadata(path)?;
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let wal = std::fs::metadata(wal).ok().map(|wal| wal.ino());
    Ok(Generation { database: (database.dev(), database.ino()), wal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::{Event, EventId, StoredEvent};
    use jiff::Timestamp;

    fn rows(ids: impl IntoIterator<Item = i64>, bytes: usize) -> Vec<Row> {
        let event = Event::new(EventId::GuestLog, Timestamp::UNIX_EPOCH).with("msg", "x".repeat(bytes));
        let json = event.to_json("test", 1).to_string();
        let event = StoredEvent::from_json(&json).unwrap();
        let row = |id| Row {
            id,
            hash: String::new(),
            received: event.timestamp,
            event: event.clone(),
            json: json.clone(),
        };
        ids.into_iter().map(row).collect()
    }

    #[test]
    fn a_page_is_the_newest_of_all_ids_and_says_where_the_next_one_starts() {
        let page = page(rows([9, 5, 2, 8, 7, 1], 1), 3);
        assert_eq!(page.rows.iter().map(|row| row.id).collect::<Vec<_>>(), [9, 8, 7]);
        assert_eq!(page.next_before_id, Some(7));
    }

    #[test]
    fn the_last_page_has_no_next() {
        assert_eq!(page(rows([2, 1], 1), 3).next_before_id, None);
        assert_eq!(page(rows([], 1), 3).next_before_id, None);
    }

    #[test]
    fn a_page_is_cut_by_bytes_and_never_empty() {
        let page = super::page(rows((1..=100).rev(), 250_000), 100);
        assert!((30..40).contains(&page.rows.len()));
        assert_eq!(page.next_before_id, page.rows.last().map(|row| row.id));
    }
}
