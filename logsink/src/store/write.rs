//! The writer's half of the store: insert, retention, and what the sink must remember of each sensor.

use std::path::Path;

use events::StoredEvent;
use events::wire::{Received, Source};
use jiff::Timestamp;
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection, Row as _};

use super::StoreError;
use super::attribution::attribute;
use crate::journal::record::{Hash, Record};

/// Runs of sensors that are remembered; the oldest are forgotten.
const RUNS_MAX: i64 = 10_000;

/// A journal record on its way into the store.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The record's index.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
    /// When the sink took it.
    pub received: Timestamp,
    /// Its message. `None` when the payload is none of ours.
    pub message: Option<Received>,
}

impl From<Record> for Entry {
    fn from(record: Record) -> Entry {
        let message = events::wire::parse(&record.payload).ok();
        Entry { index: record.index, hash: record.hash, received: record.received, message }
    }
}

/// The one writer.
pub struct StoreWriter {
    connection: SqliteConnection,
}

impl StoreWriter {
    /// Opens or makes the store.
    pub async fn open(path: &Path) -> Result<StoreWriter, StoreError> {
        let options = super::writer_options(path)?;
        let opened = options.connect().await;
        let mut connection = opened.map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        sqlx::raw_sql(include_str!("schema.sql")).execute(&mut connection).await?;
        Ok(StoreWriter { connection })
    }

    /// Index of the last journal record that is in the store.
    pub async fn last_index(&mut self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT last_id FROM replayed").fetch_one(&mut self.connection).await?;
        Ok(row.try_get::<i64, _>(0)? as u64)
    }

    /// The last sequence number of each run of each sensor, and the journal index where it stands.
    pub async fn runs(&mut self) -> Result<Vec<(Source, u64, u64)>, StoreError> {
        let query = sqlx::query("SELECT sensor, run, seq, last_id FROM runs");
        let mut runs = Vec::new();
        for row in query.fetch_all(&mut self.connection).await? {
            let source = Source { sensor: row.try_get(0)?, run: row.try_get(1)? };
            runs.push((source, row.try_get::<i64, _>(2)? as u64, row.try_get::<i64, _>(3)? as u64));
        }
        Ok(runs)
    }

    /// Stores these records in one transaction. What is there already is written over.
    pub async fn insert(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        let Some(last) = entries.last() else { return Ok(()) };
        let mut transaction = self.connection.begin().await?;
        for entry in entries {
            insert_one(&mut transaction, entry).await?;
        }
        sqlx::query("UPDATE replayed SET last_id = ?")
            .bind(last.index as i64)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Empties the store: it does not belong to this journal.
    pub async fn clear(&mut self) -> Result<(), StoreError> {
        let sql = "DELETE FROM events; DELETE FROM runs; UPDATE replayed SET last_id = 0";
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Forgets events over `events_max` in number and those received before `oldest`. Gives how many went.
    pub async fn trim(&mut self, events_max: u64, oldest: Option<Timestamp>) -> Result<u64, StoreError> {
        let newest = self.last_index().await? as i64;
        let by_number = newest.saturating_sub(i64::try_from(events_max).unwrap_or(i64::MAX));
        let gone = sqlx::query("DELETE FROM events WHERE id <= ?").bind(by_number);
        let mut count = gone.execute(&mut self.connection).await?.rows_affected();
        if let Some(oldest) = oldest {
            // Receipt follows the id, so the first event that is young enough ends the search.
            let sql = "DELETE FROM events WHERE id < COALESCE(\
                       (SELECT id FROM events WHERE received >= ? ORDER BY id LIMIT 1), 9223372036854775807)";
            let gone = sqlx::query(sql).bind(oldest.as_microsecond());
            count += gone.execute(&mut self.connection).await?.rows_affected();
        }
        let sql = "DELETE FROM runs WHERE last_id <= COALESCE(\
                   (SELECT last_id FROM runs ORDER BY last_id DESC LIMIT 1 OFFSET ?), -1)";
        sqlx::query(sql).bind(RUNS_MAX).execute(&mut self.connection).await?;
        Ok(count)
    }

    /// Closes the file in order: the -wal file is merged.
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }
}

async fn insert_one(connection: &mut SqliteConnection, entry: &Entry) -> Result<(), StoreError> {
    let Some(message) = &entry.message else {
        tracing::warn!("journal record {} is no message of ours", entry.index);
        return Ok(());
    };
    remember_run(connection, message, entry.index).await?;
    match StoredEvent::from_json(&message.json) {
        Ok(event) => insert_event(connection, entry, message, &event).await,
        Err(error) => {
            tracing::warn!(
                "journal record {} of {} is no event: {error}",
                entry.index,
                message.source.sensor
            );
            Ok(())
        }
    }
}

async fn remember_run(c: &mut SqliteConnection, message: &Received, index: u64) -> Result<(), StoreError> {
    sqlx::query("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)")
        .bind(&message.source.sensor)
        .bind(&message.source.run)
        .bind(message.seq as i64)
        .bind(index as i64)
        .execute(c)
        .await?;
    Ok(())
}

async fn insert_event(
    connection: &mut SqliteConnection,
    entry: &Entry,
    message: &Received,
    event: &StoredEvent,
) -> Result<(), StoreError> {
    // Logins on a decoy carry the address in their details: no flow is known.
    let in_body = |key| event.text(key).map(str::to_owned);
    let src_ip = event.src_ip.map(|ip| ip.to_string()).or_else(|| in_body("src_ip"));
    let src_port = event.src_port.map(u64::from).or_else(|| event.number("src_port"));
    let sql = "INSERT OR REPLACE INTO events VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
    sqlx::query(sql)
        .bind(entry.index as i64)
        .bind(entry.hash.to_vec())
        .bind(event.timestamp.as_microsecond())
        .bind(entry.received.as_microsecond())
        .bind(&event.event_type)
        .bind(&event.event_id)
        .bind(event.severity as i64)
        .bind(&message.source.sensor)
        .bind(&message.source.run)
        .bind(message.seq as i64)
        .bind(&event.domain)
        .bind(event.domid.map(i64::from))
        .bind(&event.session)
        .bind(event.flow_id.map(|id| id as i64))
        .bind(src_ip)
        .bind(src_port.map(|port| port as i64))
        .bind(event.dest_ip.map(|ip| ip.to_string()))
        .bind(event.dest_port.map(i64::from))
        .bind(&event.proto)
        .bind(in_body("signature"))
        .bind(&message.json)
        .execute(&mut *connection)
        .await?;
    attribute(connection, entry.index as i64, event).await
}
