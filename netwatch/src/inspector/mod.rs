//! The inspector: Snort rules on packets and reassembled streams.
//!
//! `rule_set` reads files, `rule_parser` and its kin single rules; `inspect` takes packets, follows flows (`flow`, `stream`),
//! chooses candidates (`prefilter`) and tries them (`header_test`, `evaluate`); `threshold` says which matches become alerts.
//! Not done here: reassembly of IP fragments, checksums, decompression, protocols other than HTTP/1.

mod byte_number;
mod content;
mod diagnostic;
mod evaluate;
mod flow;
mod header_set;
mod header_test;
mod http;
mod inspect;
mod logical_line;
mod offline;
mod option_parser;
mod option_value;
mod pcre;
mod prefilter;
mod rule;
mod rule_parser;
mod rule_set;
mod stream;
mod threshold;
mod variables;

#[cfg(test)]
mod tests;

pub use diagnostic::{RuleDiagnostic, RuleError};
pub use flow::{FlowEnd, FlowRecord, FlowState};
pub use inspect::{AlertRecord, Inspector, Verdict};
pub use offline::{OfflineError, OfflineReport, offline};
pub use rule::{Action, Reference, RuleInfo, Sender};
pub use rule_set::RuleSet;
pub use variables::Variables;
