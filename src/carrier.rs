//! The process that speaks TLS for the supervisor, one a connection: it has the TCP socket, the identity, the fingerprints of the peers, and one
//! end of a socket pair. Its first word there is who the other side is, one line of JSON; what follows is carried both ways as it comes.
//!
//! TLS 1.3 only. A certificate is trusted if its fingerprint is a peer's, whoever signed it and whatever names it has: the peers were named by
//! hand, as the hosts of SSH are.

use std::io;
use std::net::TcpStream;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme, version,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_rustls::rustls::{self, CommonState};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::jail::Jail;
use crate::migration::{Fingerprint, Identity};

/// How long the other side may take to say who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that are on their way in each direction.
const BUFFER_BYTES: usize = 256 << 10;

/// Which side begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// We have connected.
    Client,
    /// They have.
    Server,
}

/// A honeynet that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Its name here.
    pub name: String,
    /// Its certificate's.
    pub fingerprint: Fingerprint,
}

/// What the child of role `carrier` reads.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarrierProcess {
    /// What it gives away first.
    pub jail: Jail,
    /// The TCP socket.
    pub tcp_fd: RawFd,
    /// The supervisor's.
    pub local_fd: RawFd,
    /// Who begins.
    pub side: Side,
    /// Who we are.
    pub identity: Identity,
    /// Who they may be.
    pub known: Vec<Known>,
}

/// Why nothing is carried.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// A socket or the runtime.
    #[error("the carrier cannot carry")]
    Io(#[from] io::Error),
    /// The identity cannot be used.
    #[error("the identity of this honeynet cannot be used")]
    Identity(#[source] rustls::Error),
    /// The other side is not who it should be, or speaks something else.
    #[error("the other side is no known honeynet")]
    Handshake(#[source] io::Error),
    /// It says nothing.
    #[error("the other side does not say who it is within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
}

/// Carries one connection to its end; the jail has been entered.
///
/// # Errors
/// Nothing was carried; the supervisor has been told why.
pub fn run(process: CarrierProcess) -> Result<(), CarrierError> {
    // SAFETY: both descriptors were handed to this process under these numbers, for it alone.
    let (tcp, local) =
        unsafe { (OwnedFd::from_raw_fd(process.tcp_fd), OwnedFd::from_raw_fd(process.local_fd)) };
    let (tcp, local) = (TcpStream::from(tcp), UnixStream::from(local));
    tcp.set_nonblocking(true)?;
    local.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let CarrierProcess { side, identity, known, .. } = process;
    runtime.block_on(async {
        let mut local = tokio::net::UnixStream::from_std(local)?;
        let tcp = tokio::net::TcpStream::from_std(tcp)?;
        match shake_hands(tcp, side, &identity, &known).await {
            Ok((stream, peer)) => carry(stream, local, &peer).await,
            Err(error) => {
                // Whoever reads this has perhaps gone.
                let _ = say(&mut local, &json!({ "error": events::sentence(&error) })).await;
                Err(error)
            }
        }
    })
}

/// The connection, and the other side's name here.
async fn shake_hands(
    tcp: tokio::net::TcpStream,
    side: Side,
    identity: &Identity,
    known: &[Known],
) -> Result<(TlsStream<tokio::net::TcpStream>, String), CarrierError> {
    let provider = Arc::new(ring::default_provider());
    let trust = Arc::new(Trust::new(&provider, known));
    let shaken = async {
        match side {
            Side::Client => {
                // No name is asked for: the fingerprint says who it is.
                let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
                let connector = TlsConnector::from(Arc::new(client(provider, trust, identity)?));
                let stream = connector.connect(name, tcp).await.map_err(CarrierError::Handshake)?;
                Ok::<TlsStream<_>, CarrierError>(TlsStream::from(stream))
            }
            Side::Server => {
                let acceptor = TlsAcceptor::from(Arc::new(server(provider, trust, identity)?));
                Ok(TlsStream::from(acceptor.accept(tcp).await.map_err(CarrierError::Handshake)?))
            }
        }
    };
    let stream =
        tokio::time::timeout(HANDSHAKE_TIMEOUT, shaken).await.map_err(|_| CarrierError::Timeout)??;
    let peer = peer(stream.get_ref().1, known)?;
    Ok((stream, peer))
}

fn client(
    provider: Arc<CryptoProvider>,
    trust: Arc<Trust>,
    identity: &Identity,
) -> Result<ClientConfig, CarrierError> {
    let (chain, key) = identity_of(identity)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map(|builder| builder.dangerous().with_custom_certificate_verifier(trust))
        .and_then(|builder| builder.with_client_auth_cert(chain, key));
    config.map_err(CarrierError::Identity)
}

fn server(
    provider: Arc<CryptoProvider>,
    trust: Arc<Trust>,
    identity: &Identity,
) -> Result<ServerConfig, CarrierError> {
    let (chain, key) = identity_of(identity)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .and_then(|builder| builder.with_client_cert_verifier(trust).with_single_cert(chain, key));
    config.map_err(CarrierError::Identity)
}

async fn carry(
    mut stream: TlsStream<tokio::net::TcpStream>,
    mut local: tokio::net::UnixStream,
    peer: &str,
) -> Result<(), CarrierError> {
    say(&mut local, &json!({ "peer": peer })).await?;
    let carried =
        tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut local, BUFFER_BYTES, BUFFER_BYTES).await;
    // Either side may hang up at any time; that it did is all that the other needs to see.
    if let Err(error) = carried {
        tracing::debug!(%error, "a connection broke");
    }
    Ok(())
}

async fn say(local: &mut tokio::net::UnixStream, what: &serde_json::Value) -> io::Result<()> {
    local.write_all(format!("{what}\n").as_bytes()).await
}

fn identity_of(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CarrierError> {
    let none = |_| CarrierError::Identity(rustls::Error::NoCertificatesPresented);
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).map_err(none)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(none)?;
    Ok((vec![certificate], key))
}

/// The other side's name here.
fn peer(state: &CommonState, known: &[Known]) -> Result<String, CarrierError> {
    let certificate = state.peer_certificates().and_then(|chain| chain.first());
    let name = certificate.and_then(|certificate| name_of(certificate, known));
    name.ok_or_else(|| CarrierError::Handshake(io::ErrorKind::PermissionDenied.into()))
}

fn name_of(certificate: &CertificateDer<'_>, known: &[Known]) -> Option<String> {
    let fingerprint = Fingerprint::of(certificate);
    known.iter().find(|known| known.fingerprint == fingerprint).map(|known| known.name.clone())
}

/// Trusts those that are known, and that have the key of their certificate.
#[derive(Debug)]
struct Trust {
    known: Vec<Known>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    fn new(provider: &CryptoProvider, known: &[Known]) -> Trust {
        Trust { known: known.to_vec(), algorithms: provider.signature_verification_algorithms }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let unknown = rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        name_of(certificate, &self.known).map(drop).ok_or(unknown)
    }
}

/// A signature of TLS 1.2, which was not offered.
fn refuse_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled))
}

// Client and server are the same kind of peer to us; rustls has a trait for each, with the same questions.

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Trust {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
