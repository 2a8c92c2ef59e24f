//! The dashboard's certificate where it listens beyond loopback: self-signed, made once. Whoever has a better one puts it in its place.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use crate::secret;
use crate::state::State;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be made.
    #[error("a certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// Its files.
    #[error("the certificate in {path} cannot be read or kept")]
    File {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Certificate and key as PEM text. Made where either is missing, for this address and these names.
pub fn load_or_make(
    state: &State,
    listen: SocketAddr,
    names: &[String],
) -> Result<(String, String), CertificateError> {
    let (certificate, key) = (state.certificate(), state.certificate_key());
    let file = |path: &Path, source| CertificateError::File { path: path.display().to_string(), source };
    match (std::fs::read_to_string(&certificate), std::fs::read_to_string(&key)) {
        (Ok(certificate), Ok(key)) => return Ok((certificate, key)),
        (Err(error), _) if error.kind() != ErrorKind::NotFound => return Err(file(&certificate, error)),
        (_, Err(error)) if error.kind() != ErrorKind::NotFound => return Err(file(&key, error)),
        _ => {}
    }
    let (certificate_pem, key_pem) = make(listen, names)?;
    for (path, text) in [(&key, &key_pem), (&certificate, &certificate_pem)] {
        secret::write(state, path, text.as_bytes()).map_err(|error| file(path, error))?;
    }
    Ok((certificate_pem, key_pem))
}

fn make(listen: SocketAddr, names: &[String]) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut subjects = names.to_vec();
    subjects.push("localhost".to_owned());
    let mut params = CertificateParams::new(subjects)?;
    params.subject_alt_names.extend(addresses(listen).into_iter().map(SanType::IpAddress));
    params.distinguished_name.push(DnType::CommonName, "honeynet dashboard");
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// The addresses that browsers may use.
fn addresses(listen: SocketAddr) -> Vec<IpAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen.ip()];
    }
    pnet::datalink::interfaces()
        .iter()
        .flat_map(|interface| interface.ips.iter().map(|net| net.ip()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        let listen = SocketAddr::from(([192, 0, 2, 1], 443));
        let first = load_or_make(&state, listen, &["honey.example".into()]).unwrap();
        assert!(first.0.starts_with("-----BEGIN CERTIFICATE-----") && first.1.contains("PRIVATE KEY"));
        assert_eq!(load_or_make(&state, listen, &[]).unwrap(), first);
    }

    #[test]
    fn half_a_certificate_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::new(folder.path());
        let listen = SocketAddr::from(([0, 0, 0, 0], 443));
        let first = load_or_make(&state, listen, &[]).unwrap();
        std::fs::remove_file(state.certificate_key()).unwrap();
        assert_ne!(load_or_make(&state, listen, &[]).unwrap(), first);
    }
}
