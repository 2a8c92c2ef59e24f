//! TLS as rustls does it, with ring; certificate and key come as PEM text.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::config::TlsPem;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM.
    #[error("certificate or key is not PEM")]
    Pem(#[source] pem::Error),
    /// They do not fit, or are of a kind that rustls does not do.
    #[error("certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// What turns a connection into one of TLS.
pub fn acceptor(pem: &TlsPem) -> Result<TlsAcceptor, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem.certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).map_err(TlsError::Pem)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain.map_err(no_chain)?, key));
    let mut config = config.map_err(TlsError::Unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn no_chain(_: pem::Error) -> rustls::Error {
    rustls::Error::NoCertificatesPresented
}
