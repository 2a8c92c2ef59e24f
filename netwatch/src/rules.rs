//! Where the inspector's rules come from, so that they can be read again while the switch runs.

use std::path::PathBuf;

use crate::inspector::{Inspector, Variables};

/// Diagnostics that are told; a file that is no rule file at all has one for each of its lines.
const DIAGNOSTICS_MAX: usize = 100;

/// Rule files and variables.
#[derive(Debug, Clone, Default)]
pub struct RuleSource {
    /// Files, in order.
    pub files: Vec<PathBuf>,
    /// `HOME_NET`.
    pub home_net: String,
    /// Other variables, by name.
    pub variables: Vec<(String, String)>,
}

impl RuleSource {
    /// Reads the rules. What could not be read is told as sentences with file and line; the rest is in force.
    pub fn load(&self) -> (Inspector, Vec<String>) {
        let mut variables = Variables::with_home_net(&self.home_net);
        for (name, value) in &self.variables {
            variables.set(name, value);
        }
        let (inspector, diagnostics) = Inspector::load(&self.files, &variables);
        let sentences = diagnostics.iter().take(DIAGNOSTICS_MAX).map(ToString::to_string).collect();
        (inspector, sentences)
    }
}
