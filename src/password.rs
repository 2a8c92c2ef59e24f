//! The dashboard's password: drawn at the first start, printed once, kept as an argon2 hash.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, SaltString};

use crate::state::State;

/// Without letters and digits that look like each other.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 5 bits each: 100 bits.
const PASSWORD_CHARACTERS: usize = 20;
/// Bytes of salt, as RFC 9106 section 3.1 recommends.
const SALT_BYTES: usize = 16;

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// No random bytes.
    #[error("no random bytes for a password: {0}")]
    Random(getrandom::Error),
    /// It cannot be hashed.
    #[error("the password cannot be hashed: {0}")]
    Hash(argon2::password_hash::Error),
    /// The file.
    #[error("the password cannot be kept")]
    File(#[from] io::Error),
}

/// Makes the password if there is none yet, and answers it; `None` where there is one.
pub fn make_once(state: &State) -> Result<Option<String>, PasswordError> {
    let path = state.password();
    if path.exists() {
        return Ok(None);
    }
    if let Some(folder) = path.parent() {
        state.make(folder)?;
    }
    let mut bytes = [0; PASSWORD_CHARACTERS];
    getrandom::fill(&mut bytes).map_err(PasswordError::Random)?;
    let password: String = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(PasswordError::Random)?;
    let salt = SaltString::encode_b64(&salt).map_err(PasswordError::Hash)?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(PasswordError::Hash)?;
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)?;
    writeln!(file, "{hash}")?;
    Ok(Some(password))
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHash, PasswordVerifier};

    use super::*;

    #[test]
    fn a_password_is_told_once_and_its_hash_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        let password = make_once(&state).unwrap().unwrap();
        assert_eq!(password.len(), PASSWORD_CHARACTERS);
        let kept = std::fs::read_to_string(state.password()).unwrap();
        assert!(!kept.contains(&password));
        let hash = PasswordHash::new(kept.trim()).unwrap();
        assert!(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
        assert!(Argon2::default().verify_password(b"guess", &hash).is_err());
        assert_eq!(make_once(&state).unwrap(), None);
    }
}
