//! What happens in the house, told to those who listen: logsink, and the ring that `honeynet dmesg` prints.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use events::emitter::EmitterError;
use events::{Emitter, Event};
use jiff::Timestamp;

use crate::state::State;

/// Lines kept for `honeynet dmesg`.
const LINES_MAX: usize = 1000;

/// How long the end of the house waits for logsink to take what was told.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The supervisor's voice.
pub struct Announcer {
    emitter: Emitter,
    lines: Mutex<VecDeque<String>>,
}

impl Announcer {
    /// Speaks to the logsink of this state directory, now and whenever it is there.
    pub fn new(state: &State) -> Result<Announcer, EmitterError> {
        let emitter =
            Emitter::connect(&state.events_socket(), "supervisor", Some(&state.spool("supervisor")))?;
        Ok(Announcer { emitter, lines: Mutex::default() })
    }

    /// Tells an event.
    pub fn event(&self, event: Event) {
        let json = event.to_json("supervisor", 0);
        let about = event.domain.as_deref().unwrap_or("-");
        let details = json.get(event.id.details_key()).map(ToString::to_string).unwrap_or_default();
        self.line(&format!("{} {about} {details}", event.id.as_str()));
        self.emitter.emit(event);
    }

    /// The number of the last event that was told.
    pub fn last_seq(&self) -> u64 {
        self.emitter.last_seq()
    }

    /// Waits a moment until logsink has what was told.
    pub fn flush(&self) {
        self.emitter.flush(FLUSH_TIMEOUT);
    }

    /// Keeps a sentence for the operator.
    pub fn line(&self, sentence: &str) {
        tracing::info!("{sentence}");
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(format!("{:.3} {sentence}", Timestamp::now()));
    }

    /// The lines kept, oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
