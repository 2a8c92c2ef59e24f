//! What happens in the house, told to those who listen: logsink, and the ring that `honeynet dmesg` prints.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use events::Event;
use jiff::Timestamp;

/// Lines kept for `honeynet dmesg`.
const LINES_MAX: usize = 1000;

/// The supervisor's voice.
#[derive(Default)]
pub struct Announcer {
    lines: Mutex<VecDeque<String>>,
}

impl Announcer {
    /// Tells an event.
    pub fn event(&self, event: &Event) {
        let json = event.to_json("supervisor", 0);
        let about = event.domain.as_deref().unwrap_or("-");
        let details = json.get(event.id.event_type()).map(ToString::to_string).unwrap_or_default();
        self.line(&format!("{} {about} {details}", event.id.as_str()));
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
