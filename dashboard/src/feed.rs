//! New events, read once from the store and given to every open page.

use std::sync::Arc;
use std::time::Duration;

use logsink::Row;
use tokio::sync::broadcast;

use crate::store::Reader;

/// Events that a page may be behind before it is told that it missed some. One has at most 256 KiB.
const BEHIND_MAX: usize = 256;
/// How long the store may be away before it is looked for again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is looked whether the store is still the same one.
const SAME: Duration = Duration::from_secs(2);

/// The feed.
#[derive(Debug)]
pub struct Feed {
    sender: broadcast::Sender<Arc<Row>>,
}

impl Feed {
    /// Nobody listens yet.
    pub fn new() -> Feed {
        Feed { sender: broadcast::channel(BEHIND_MAX).0 }
    }

    /// The events from now on.
    pub fn listen(&self) -> broadcast::Receiver<Arc<Row>> {
        self.sender.subscribe()
    }

    /// Reads for ever.
    pub async fn run(self: Arc<Feed>, reader: Arc<Reader>) {
        let mut last_id = None;
        loop {
            if let Ok((generation, store)) = reader.store().await
                && let Ok(newest) = store.last_id().await
            {
                // A store with fewer events than we saw belongs to another journal.
                let from = last_id.filter(|last| *last <= newest).unwrap_or(newest);
                let mut tail = store.tail(from);
                last_id = Some(from);
                loop {
                    match tokio::time::timeout(SAME, tail.next()).await {
                        Ok(Ok(rows)) => {
                            last_id = rows.last().map(|row| row.id).or(last_id);
                            for row in rows {
                                // An error says that nobody listens.
                                let _ = self.sender.send(Arc::new(row));
                            }
                        }
                        Ok(Err(error)) => {
                            tracing::warn!("{}", events::sentence(&error));
                            break;
                        }
                        Err(_) if reader.store().await.is_ok_and(|(now, _)| now == generation) => {}
                        Err(_) => break,
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
