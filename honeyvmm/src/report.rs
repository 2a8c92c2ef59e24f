//! What devices report, as events for the analyst and lines for the operator. A guest decides how often, so both are limited.

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use events::{Emitter, Event, EventId, sentence};
use jiff::Timestamp;

use crate::device::Reports;

/// Reports of one window; a guest may make its frontends connect, and so report, as often as it likes.
const REPORTS_PER_WINDOW_MAX: u32 = 32;
const WINDOW: Duration = Duration::from_secs(60);

/// The reports of one domain.
pub struct DomainReports {
    name: String,
    domid: u32,
    emitter: Option<Emitter>,
    window: Mutex<Window>,
}

struct Window {
    begun: Instant,
    reports: u32,
}

impl DomainReports {
    /// Reports of this domain; without an emitter they only reach the log.
    pub fn new(name: &str, domid: u32, emitter: Option<Emitter>) -> Self {
        let window = Mutex::new(Window { begun: Instant::now(), reports: 0 });
        Self { name: name.to_owned(), domid, emitter, window }
    }

    /// Whether one more is let through. The last one of a window says that there may be more.
    fn admit(&self) -> Option<&'static str> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.begun.elapsed() > WINDOW {
            *window = Window { begun: Instant::now(), reports: 0 };
        }
        window.reports = window.reports.saturating_add(1);
        match window.reports {
            REPORTS_PER_WINDOW_MAX => Some("; further reports of this minute are left out"),
            n if n < REPORTS_PER_WINDOW_MAX => Some(""),
            _ => None,
        }
    }
}

impl Reports for DomainReports {
    fn violation(&self, device: &str, error: &(dyn Error + 'static)) {
        let Some(note) = self.admit() else { return };
        let detail = format!("{}{note}", sentence(error));
        tracing::warn!(device, "{detail}");
        if let Some(emitter) = &self.emitter {
            let event = Event::new(EventId::DomainViolation, Timestamp::now());
            let event = event.domain(self.name.clone(), Some(self.domid));
            emitter.emit(event.with("what", device).with("detail", detail));
        }
    }

    fn host_error(&self, device: &str, error: &(dyn Error + 'static)) {
        if let Some(note) = self.admit() {
            tracing::error!(device, "{}{note}", sentence(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_flood_the_log() {
        let reports = DomainReports::new("a", 1, None);
        let admitted = (0..1000).filter(|_| reports.admit().is_some()).count();
        assert_eq!(admitted, REPORTS_PER_WINDOW_MAX as usize);
    }

    #[test]
    fn causes_follow_in_one_line() {
        let error = crate::blkback::Violation::Request(crate::blkback::RequestError::Operation(77));
        assert_eq!(sentence(&error), "block request refused: unknown block operation 77");
    }
}
