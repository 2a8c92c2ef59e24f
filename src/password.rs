//! The dashboard's secrets, drawn at the first start: the password, kept as an argon2 hash, and the API token.
//!
//! The supervisor draws the password, `up` prints it. In between it lies in a file that only root can read, and that goes with the
//! printing.

use std::io::{self, ErrorKind};

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, SaltString};

use crate::secret;
use crate::state::State;

/// Without letters and digits that look like each other.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 5 bits each: 100 bits.
const PASSWORD_CHARACTERS: usize = 20;
/// Random bytes of the API token.
const TOKEN_BYTES: usize = 32;
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

/// The password's hash. Where there is no password yet it is drawn, and lies in clear for `take_first`.
pub fn hash(state: &State) -> Result<String, PasswordError> {
    match std::fs::read_to_string(state.password()) {
        Ok(hash) => return Ok(hash.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let bytes: [u8; PASSWORD_CHARACTERS] = random()?;
    let password: String = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
    let salt: [u8; SALT_BYTES] = random()?;
    let salt = SaltString::encode_b64(&salt).map_err(PasswordError::Hash)?;
    let hash = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(PasswordError::Hash)?;
    let hash = hash.to_string();
    // A first password without its hash is written over; a hash without its password would lock everybody out.
    secret::write(state, &state.first_password(), password.as_bytes())?;
    secret::write(state, &state.password(), hash.as_bytes())?;
    Ok(hash)
}

/// The password in clear, once: who gets it prints it.
pub fn take_first(state: &State) -> Result<Option<String>, PasswordError> {
    let path = state.first_password();
    match std::fs::read_to_string(&path) {
        Ok(password) => {
            std::fs::remove_file(&path)?;
            Ok(Some(password.trim().to_owned()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The API token; drawn where there is none.
pub fn api_token(state: &State) -> Result<String, PasswordError> {
    let path = state.api_token();
    match std::fs::read_to_string(&path) {
        Ok(token) => return Ok(token.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let token = hex::encode(random::<TOKEN_BYTES>()?);
    secret::write(state, &path, token.as_bytes())?;
    Ok(token)
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], PasswordError> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(PasswordError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use argon2::password_hash::{PasswordHash, PasswordVerifier};

    use super::*;

    #[test]
    fn a_password_is_told_once_and_its_hash_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        let kept = hash(&state).unwrap();
        let password = take_first(&state).unwrap().unwrap();
        assert_eq!(password.len(), PASSWORD_CHARACTERS);
        assert!(!kept.contains(&password));
        let parsed = PasswordHash::new(&kept).unwrap();
        assert!(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"guess", &parsed).is_err());
        assert_eq!(hash(&state).unwrap(), kept);
        assert_eq!(take_first(&state).unwrap(), None);
    }

    #[test]
    fn the_token_stays_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        let token = api_token(&state).unwrap();
        assert_eq!((token.len(), api_token(&state).unwrap()), (2 * TOKEN_BYTES, token));
        let mode = std::fs::metadata(state.api_token()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
