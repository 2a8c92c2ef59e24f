//! Programs of the host that a build runs, with what they said when they fail.

use std::process::{Command, Stdio};

use thiserror::Error;

/// Lines of a failed program's output that are kept.
const LINES_MAX: usize = 12;

/// Why a program did not do its work.
#[derive(Debug, Error)]
pub enum CommandError {
    /// It could not be started; its Debian package may be missing.
    #[error("cannot run {program}")]
    Start {
        /// Which one.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed: {output}")]
    Failed {
        /// Which one.
        program: String,
        /// Its last lines.
        output: String,
    },
}

/// Runs a program to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String, CommandError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| CommandError::Start { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
    Err(CommandError::Failed { program, output: last.join("\n") })
}
