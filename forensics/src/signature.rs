//! The manifest's Ed25519 signature (RFC 8032), and the key that makes it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::canonical;

/// Name of the signature in its case.
pub const FILE_NAME: &str = "manifest.sig";
/// Name of the secret key below `STATE/keys`; 32 bytes in hexadecimal, readable by its owner only.
const KEY_FILE_NAME: &str = "evidence.key";
/// Name of the public key beside it, to be kept somewhere else too.
const PUBLIC_FILE_NAME: &str = "evidence.pub";
const ALGORITHM: &str = "ed25519";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The folder or the file.
    #[error("cannot read or make the evidence key in {folder}")]
    File {
        /// The folder.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// Not 64 hexadecimal digits.
    #[error("evidence key in {folder} is not 64 hexadecimal digits")]
    Malformed {
        /// The folder.
        folder: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureFile {
    algorithm: String,
    public_key: String,
    signature: String,
}

/// The key that signs cases.
pub struct CaseKey(SigningKey);

impl CaseKey {
    /// The key of a folder (`STATE/keys`); made at the first call.
    pub fn load_or_create(folder: &Path) -> Result<CaseKey, KeyError> {
        let file_error = |source| KeyError::File { folder: folder.display().to_string(), source };
        let path = folder.join(KEY_FILE_NAME);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let malformed = || KeyError::Malformed { folder: folder.display().to_string() };
                let bytes = hex::decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                Ok(CaseKey(SigningKey::from_bytes(&bytes.ok_or_else(malformed)?)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(folder).map_err(file_error),
            Err(error) => Err(file_error(error)),
        }
    }

    /// The public half, hexadecimal.
    pub fn public(&self) -> String {
        hex::encode(self.0.verifying_key().to_bytes())
    }

    /// The content of the signature file for these bytes.
    pub fn sign(&self, manifest: &[u8]) -> Vec<u8> {
        canonical::to_bytes(&SignatureFile {
            algorithm: ALGORITHM.to_owned(),
            public_key: self.public(),
            signature: hex::encode(self.0.sign(manifest).to_bytes()),
        })
    }
}

fn create(folder: &Path) -> io::Result<CaseKey> {
    fs::create_dir_all(folder)?;
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| io::Error::other(error.to_string()))?;
    let key = CaseKey(SigningKey::from_bytes(&secret));
    // Two processes may come here at once: the second is refused, and asks again.
    let mut file =
        File::options().write(true).create_new(true).mode(0o600).open(folder.join(KEY_FILE_NAME))?;
    writeln!(file, "{}", hex::encode(secret))?;
    file.sync_all()?;
    fs::write(folder.join(PUBLIC_FILE_NAME), format!("{}\n", key.public()))?;
    Ok(key)
}

/// What a signature file says about a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum SignatureVerdict {
    /// Made by the key that was expected.
    Good {
        /// The public key, hexadecimal.
        public_key: String,
    },
    /// Right, but nobody said whose key it should be: whoever changed the case may have signed it anew.
    GoodOfUnknownKey {
        /// The public key, hexadecimal.
        public_key: String,
    },
    /// Right, and made by another key than the one that was expected.
    OtherKey {
        /// The public key, hexadecimal.
        public_key: String,
    },
    /// Not made over this manifest.
    Bad,
    /// There is none.
    Missing,
}

/// Judges a signature; `expected` is the public key in hexadecimal that the case should be signed with.
pub fn verify(manifest: &[u8], signature: &[u8], expected: Option<&str>) -> SignatureVerdict {
    let Some(public_key) = signer(manifest, signature) else { return SignatureVerdict::Bad };
    match expected.map(str::trim) {
        None => SignatureVerdict::GoodOfUnknownKey { public_key },
        Some(wanted) if wanted.eq_ignore_ascii_case(&public_key) => SignatureVerdict::Good { public_key },
        Some(_) => SignatureVerdict::OtherKey { public_key },
    }
}

/// The key that signed these bytes, if the signature is right.
fn signer(manifest: &[u8], signature: &[u8]) -> Option<String> {
    let file: SignatureFile = serde_json::from_slice(signature).ok()?;
    let public: [u8; 32] = hex::decode(&file.public_key).ok()?.try_into().ok()?;
    let signature: [u8; 64] = hex::decode(&file.signature).ok()?.try_into().ok()?;
    let key = VerifyingKey::from_bytes(&public).ok()?;
    let right = key.verify_strict(manifest, &Signature::from_bytes(&signature)).is_ok();
    (right && file.algorithm == ALGORITHM).then_some(file.public_key)
}
