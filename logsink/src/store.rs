//! The store: SQLite made from the journal, for asking questions. It may be deleted: the sink fills it again from the journal.
//!
//! Only logsink writes (`Store::open`); everybody else reads (`Store::open_readonly`), also while it is written. Events come back as
//! they were sent; nothing is interpreted or escaped.

mod attribution;
mod query;
mod tail;
mod write;

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

pub use query::{Count, Filter, LIMIT_MAX, Row};
pub use tail::Tail;
pub use write::{Entry, StoreWriter};

/// How long a statement waits for another's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one reader.
const READERS_MAX: u32 = 4;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("store {path} cannot be opened")]
    Open {
        /// Which.
        path: PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// Its file cannot be made.
    #[error("store {path} cannot be made")]
    Create {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A statement failed.
    #[error("store cannot answer")]
    Sql(#[from] sqlx::Error),
    /// A row that logsink did not write.
    #[error("event {id} in the store cannot be read")]
    Row {
        /// Its id.
        id: i64,
        /// What is wrong.
        source: events::ReadError,
    },
}

/// A reader of the store. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: SqlitePool,
}

impl Store {
    /// Opens the store at `path` for reading. The sink must have made it. Works for a process that may only read the file.
    pub async fn open_readonly(path: &Path) -> Result<Store, StoreError> {
        let options = options(path).read_only(true);
        let pool = SqlitePoolOptions::new().max_connections(READERS_MAX);
        let opened = match pool.clone().connect_with(options.clone()).await {
            // Without a running sink there is no -wal file, and who may not write the folder cannot make one. Then nothing changes either.
            Err(_) if path.exists() && !wal_of(path).exists() => {
                pool.connect_with(options.immutable(true)).await
            }
            opened => opened,
        };
        let pool = opened.map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Ok(Store { pool })
    }
}

fn wal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT)
}

/// Options of the one writer. The journal is what survives a power cut, so the store need not fsync every transaction.
fn writer_options(path: &Path) -> Result<SqliteConnectOptions, StoreError> {
    // SQLite gives its -wal and -shm the mode of the file: readers are in our group.
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .open(path)
        .map_err(|source| StoreError::Create { path: path.to_owned(), source })?;
    Ok(options(path).journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Normal))
}

#[cfg(test)]
mod tests;
