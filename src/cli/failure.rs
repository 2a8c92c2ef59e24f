//! How a command fails: one sentence and an exit code.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use events::sentence;

/// A failure of the whole command.
#[derive(Debug)]
pub struct Failure {
    sentence: String,
    code: u8,
}

impl Failure {
    /// It was not done.
    pub fn new(sentence: impl Into<String>) -> Failure {
        Failure { sentence: sentence.into(), code: 1 }
    }

    /// With another exit code.
    pub fn with_code(sentence: impl Into<String>, code: u8) -> Failure {
        Failure { sentence: sentence.into(), code }
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::new(sentence(&error))
    }
}
