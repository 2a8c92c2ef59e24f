//! The note that a domain has moved: a file in its folder, written before the other side may run it, so that this one does not begin it again.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::MigrateError;
use crate::secret;
use crate::state::State;

/// The note about one domain.
pub struct Moved {
    path: PathBuf,
    name: String,
}

impl Moved {
    /// Of the domain of this name.
    pub fn of(state: &State, name: &str) -> Moved {
        Moved { path: state.domain(name).join("moved"), name: name.to_owned() }
    }

    /// Notes it.
    pub fn write(&self, state: &State, to: &str, token: &str) -> Result<(), MigrateError> {
        let text = json!({ "to": to, "token": token, "at": Timestamp::now() }).to_string();
        secret::write(state, &self.path, text.as_bytes()).map_err(|source| self.wrong(source))
    }

    /// It is here, or stays here.
    pub fn remove(&self) -> Result<(), MigrateError> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.wrong(error)),
            _ => Ok(()),
        }
    }

    /// Refuses where it has moved.
    pub fn must_not(&self) -> Result<(), MigrateError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.wrong(error)),
        };
        let said: Value = serde_json::from_slice(&text).unwrap_or_default();
        let to = said["to"].as_str().unwrap_or("somewhere").to_owned();
        Err(MigrateError::Moved { name: self.name.clone(), to, note: self.path.clone() })
    }

    fn wrong(&self, source: io::Error) -> MigrateError {
        MigrateError::Note { name: self.name.clone(), source }
    }
}
