//! New events as they come, for another process: it asks for rows after the last one it saw. That is one look at the primary key's end,
//! so four a second cost nothing, and there is no channel that could break or fill.

use std::time::Duration;

use super::{Row, Store, StoreError};

/// Time between two looks while nothing comes.
const POLL: Duration = Duration::from_millis(250);
/// Rows of one look.
const BATCH_MAX: u32 = 500;

/// Follows the store.
#[derive(Debug, Clone)]
pub struct Tail {
    store: Store,
    last_id: i64,
}

impl Store {
    /// The events after this row, those that are there and those to come. `last_id` gives the present end.
    pub fn tail(&self, after_id: i64) -> Tail {
        Tail { store: self.clone(), last_id: after_id }
    }
}

impl Tail {
    /// The next events, oldest first, never none: waits until there are some. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<Vec<Row>, StoreError> {
        loop {
            let rows = self.store.events_after(self.last_id, BATCH_MAX).await?;
            if let Some(last) = rows.last() {
                self.last_id = last.id;
                return Ok(rows);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
