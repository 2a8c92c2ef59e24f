//! Any query string is a question within its limits, or none.
#![no_main]

use dashboard::Question;

libfuzzer_sys::fuzz_target!(|query: &str| {
    if let Ok(question) = Question::parse(query) {
        let (filters, limit) = question.filters();
        assert!((1..=8).contains(&filters.len()) && (1..=500).contains(&limit));
        assert!(question.before_id.is_none_or(|id| id >= 0) && question.after_id.is_none_or(|id| id >= 0));
    }
});
