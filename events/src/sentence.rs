//! An error and its causes as one sentence, for the operator's log, for answers and for the details of events.

use std::error::Error;

/// What the error says, then what each cause says, with colons between. Our errors never repeat their source.
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
