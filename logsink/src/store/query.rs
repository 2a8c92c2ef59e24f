//! Questions to the store. Every value from outside is bound, never put into SQL text.

use events::{Severity, StoredEvent};
use jiff::Timestamp;
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::{Store, StoreError};

/// Most rows of one answer.
pub const LIMIT_MAX: u32 = 10_000;
/// Rows of an answer whose asker named no limit.
const LIMIT_DEFAULT: u32 = 100;

/// Which events are meant; what is `None` does not restrict.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// At or after this time (the event's).
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// `alert`, `guest`, ...
    pub event_type: Option<String>,
    /// An id of EVENTS.md.
    pub event_id: Option<String>,
    /// Name of the domain.
    pub domain: Option<String>,
    /// Source address, as written in the event.
    pub src_ip: Option<String>,
    /// This severity or worse.
    pub severity: Option<Severity>,
    /// Anywhere in the JSON; ASCII letters match in either case.
    pub text: Option<String>,
    /// Older than this row (for the next page).
    pub before_id: Option<i64>,
    /// Newer than this row.
    pub after_id: Option<i64>,
    /// Rows of the answer, 100 when `None`, at most `LIMIT_MAX`.
    pub limit: Option<u32>,
}

/// An event of the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Index of its journal record; grows.
    pub id: i64,
    /// Hash of its journal record, hex.
    pub hash: String,
    /// When the sink took it.
    pub received: Timestamp,
    /// The event.
    pub event: StoredEvent,
    /// Its JSON, as it was sent.
    pub json: String,
}

impl Row {
    /// The event's JSON with the row's `id` added.
    pub fn to_json(&self) -> Value {
        let mut value: Value = serde_json::from_str(&self.json).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            map.insert("id".into(), self.id.into());
        }
        value
    }
}

/// How often something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The id of EVENTS.md.
    pub event_id: String,
    /// How many.
    pub count: u64,
    /// When last.
    pub last: Timestamp,
}

impl Store {
    /// The events that the filter means, newest first.
    pub async fn events(&self, filter: &Filter) -> Result<Vec<Row>, StoreError> {
        self.rows(filter, " ORDER BY id DESC LIMIT ").await
    }

    /// The events after this row, oldest first, at most `limit`.
    pub async fn events_after(&self, after_id: i64, limit: u32) -> Result<Vec<Row>, StoreError> {
        let filter = Filter { after_id: Some(after_id), limit: Some(limit), ..Filter::default() };
        self.rows(&filter, " ORDER BY id LIMIT ").await
    }

    /// One event.
    pub async fn event(&self, id: i64) -> Result<Option<Row>, StoreError> {
        let after_id = Some(id.saturating_sub(1));
        let filter = Filter { after_id, limit: Some(1), ..Filter::default() };
        Ok(self.rows(&filter, " ORDER BY id LIMIT ").await?.into_iter().find(|row| row.id == id))
    }

    /// How many events of each id the filter means (its `limit` is not used), most frequent first.
    pub async fn counts(&self, filter: &Filter) -> Result<Vec<Count>, StoreError> {
        let mut query = QueryBuilder::new("SELECT event_id, COUNT(*), MAX(time) FROM events WHERE 1");
        restrict(&mut query, filter);
        query.push(" GROUP BY event_id ORDER BY 2 DESC, 1");
        let mut counts = Vec::new();
        for row in query.build().fetch_all(&self.pool).await? {
            let (event_id, count) = (row.try_get(0)?, row.try_get::<i64, _>(1)? as u64);
            counts.push(Count { event_id, count, last: time(row.try_get(2)?) });
        }
        Ok(counts)
    }

    /// Id of the newest event; 0 when there is none.
    pub async fn last_id(&self) -> Result<i64, StoreError> {
        let query = sqlx::query("SELECT COALESCE(MAX(id), 0) FROM events");
        Ok(query.fetch_one(&self.pool).await?.try_get(0)?)
    }

    async fn rows(&self, filter: &Filter, order: &str) -> Result<Vec<Row>, StoreError> {
        let mut query = QueryBuilder::new("SELECT id, hash, received, json FROM events WHERE 1");
        restrict(&mut query, filter);
        query.push(order);
        query.push_bind(filter.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX));
        query.build().fetch_all(&self.pool).await?.iter().map(read).collect()
    }
}

fn read(row: &SqliteRow) -> Result<Row, StoreError> {
    let id: i64 = row.try_get(0)?;
    let hash: Vec<u8> = row.try_get(1)?;
    let json: String = row.try_get(3)?;
    let event = StoredEvent::from_json(&json).map_err(|source| StoreError::Row { id, source })?;
    let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Row { id, hash, received: time(row.try_get(2)?), event, json })
}

fn time(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or_default()
}

fn restrict(query: &mut QueryBuilder<Sqlite>, filter: &Filter) {
    let texts = [
        (" AND event_type = ", &filter.event_type),
        (" AND event_id = ", &filter.event_id),
        (" AND domain = ", &filter.domain),
        (" AND src_ip = ", &filter.src_ip),
    ];
    for (sql, value) in texts {
        if let Some(value) = value {
            query.push(sql).push_bind(value.clone());
        }
    }
    let numbers = [
        (" AND time >= ", filter.since.map(Timestamp::as_microsecond)),
        (" AND time < ", filter.until.map(Timestamp::as_microsecond)),
        (" AND severity <= ", filter.severity.map(|s| s as i64)),
        (" AND id < ", filter.before_id),
        (" AND id > ", filter.after_id),
    ];
    for (sql, value) in numbers {
        if let Some(value) = value {
            query.push(sql).push_bind(value);
        }
    }
    if let Some(text) = &filter.text {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        query.push(" AND json LIKE ").push_bind(format!("%{escaped}%")).push(" ESCAPE '\\'");
    }
}
