//! By what two honeynets know each other: each has a key and a self-signed certificate of its own, made once; its fingerprint is the SHA-256
//! of the certificate, as browsers and `openssl x509 -fingerprint -sha256` show it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::str::FromStr;

use rcgen::{CertificateParams, DnType, KeyPair};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::secret;
use crate::state::State;

/// SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// Text that is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no fingerprint: 64 hexadecimal digits, as `honeynet fingerprint` prints them")]
pub struct NoFingerprint(String);

impl Fingerprint {
    /// Of this certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(Sha256::digest(certificate).into())
    }
}

impl FromStr for Fingerprint {
    type Err = NoFingerprint;

    fn from_str(text: &str) -> Result<Fingerprint, NoFingerprint> {
        // Also as openssl writes it.
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| NoFingerprint(text.to_owned()))?;
        Ok(Fingerprint(bytes))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = NoFingerprint;

    fn try_from(text: String) -> Result<Fingerprint, NoFingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Certificate and key as PEM text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be made.
    #[error("a certificate for migrations cannot be made")]
    Make(#[from] rcgen::Error),
    /// Its file.
    #[error("the identity {path} cannot be read or kept")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a certificate.
    #[error("the identity {path} holds no certificate")]
    Certificate {
        /// Which.
        path: PathBuf,
    },
}

impl Identity {
    /// This honeynet's; made where it is missing. One file holds both, so that there is never half of it.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load_or_make(state: &State) -> Result<Identity, IdentityError> {
        let path = state.migration().join("identity.json");
        let file = |source| IdentityError::File { path: path.clone(), source };
        match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|_| IdentityError::Certificate { path: path.clone() })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let identity = Identity::make()?;
                let text = serde_json::to_vec(&identity).map_err(|error| file(error.into()))?;
                secret::write(state, &path, &text).map_err(file)?;
                Ok(identity)
            }
            Err(error) => Err(file(error)),
        }
    }

    fn make() -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "honeynet migration");
        let certificate = params.self_signed(&key)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// What others know it by.
    ///
    /// # Errors
    /// The file holds something else.
    pub fn fingerprint(&self) -> Result<Fingerprint, IdentityError> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let wrong = |_| IdentityError::Certificate { path: "identity.json".into() };
        Ok(Fingerprint::of(&certificate.map_err(wrong)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_others_are_others() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let of = |index: usize| Identity::load_or_make(&State::new(folders[index].path())).unwrap();
        let first = of(0).fingerprint().unwrap();
        assert_eq!(of(0).fingerprint().unwrap(), first);
        assert_ne!(of(1).fingerprint().unwrap(), first);
        assert_eq!(first.to_string().parse(), Ok(first));
    }

    #[test]
    fn fingerprints_are_read_as_openssl_writes_them() {
        let text = "AA:bb:".to_owned() + &"00:".repeat(29) + "ff";
        let read: Fingerprint = text.parse().unwrap();
        assert!(read.to_string().starts_with("aabb00") && read.to_string().ends_with("00ff"));
        for wrong in ["", "aa", "zz".repeat(32).as_str(), "aa".repeat(33).as_str()] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_identity_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        state.make(&state.migration()).unwrap();
        let path = state.migration().join("identity.json");
        std::fs::write(&path, "something").unwrap();
        assert!(Identity::load_or_make(&state).is_err());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "something");
    }
}
