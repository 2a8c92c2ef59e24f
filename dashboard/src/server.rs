//! The process: takes connections, a bounded number of them, each with limits of time, until SIGTERM.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use events::Emitter;
use events::emitter::EmitterError;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::app::{self, App};
use crate::config::Config;
use crate::tls::{self, TlsError};

/// Connections at one time; more wait in the kernel's queue. Store, cases and supervisor need some of the 256 descriptors too.
const CONNECTIONS_MAX: usize = 160;
/// How long a client may take for a TLS handshake, and for the head of a request; also how long it may keep a connection that it does
/// not use.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(20);
/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Time between two attempts when the kernel has no descriptor left.
const RETRY: Duration = Duration::from_millis(100);
/// How long answers under way may take at the end.
const END: Duration = Duration::from_millis(500);

/// Why the dashboard cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// The descriptor that was handed in.
    #[error("descriptor {fd} is no listening socket")]
    Listen {
        /// Its number.
        fd: RawFd,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It has no voice.
    #[error("the dashboard cannot tell events")]
    Emitter(#[from] EmitterError),
    /// Certificate or key.
    #[error("the dashboard cannot speak TLS")]
    Tls(#[from] TlsError),
    /// Runtime or signal.
    #[error("the dashboard cannot start")]
    Start(#[source] std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
pub fn run(config: Config) -> Result<(), DashboardError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(DashboardError::Start)?;
    let result = runtime.block_on(serve(config));
    // A verification may be in the middle of a disk; nobody waits for it any more.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config) -> Result<(), DashboardError> {
    let mut end = signal(SignalKind::terminate()).map_err(DashboardError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DashboardError::Start)?;
    let acceptor = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let listener = listener(config.listen_fd)
        .map_err(|source| DashboardError::Listen { fd: config.listen_fd, source })?;
    let emitter = Emitter::connect(&config.events, "dashboard", None)?;
    let app = Arc::new(App::new(&config, emitter));
    tokio::spawn(Arc::clone(&app.sampler).run(Arc::clone(&app.supervisor)));
    tokio::spawn(Arc::clone(&app.feed).run(Arc::clone(&app.reader)));
    let (ending, ended) = watch::channel(());
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let server = Server { router: app::router(app), acceptor, ended };
    tokio::select! {
        () = accept(listener, server, Arc::clone(&connections)) => {}
        _ = end.recv() => {}
        _ = interrupt.recv() => {}
    }
    drop(ending);
    // Who still has a permit after this has a page that listens for events.
    let all = connections.acquire_many(CONNECTIONS_MAX as u32);
    let _ = tokio::time::timeout(END, all).await;
    Ok(())
}

#[derive(Clone)]
struct Server {
    router: Router,
    acceptor: Option<TlsAcceptor>,
    ended: watch::Receiver<()>,
}

async fn accept(listener: TcpListener, server: Server, connections: Arc<Semaphore>) {
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, peer)) => {
                tokio::spawn(server.clone().connection(socket, peer, permit));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be taken");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

impl Server {
    async fn connection(self, socket: TcpStream, peer: SocketAddr, _permit: OwnedSemaphorePermit) {
        // Small answers should not wait for more; where it is not possible they do.
        let _ = socket.set_nodelay(true);
        match &self.acceptor {
            None => self.http(socket, peer).await,
            Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => self.http(stream, peer).await,
                Ok(Err(error)) => tracing::debug!(%error, %peer, "no TLS"),
                Err(_) => tracing::debug!(%peer, "no TLS in time"),
            },
        }
    }

    async fn http(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send, peer: SocketAddr) {
        let router = self.router.clone();
        let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        });
        let service = TowerToHyperService::new(service.map_err(|never: Infallible| match never {}));
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES_MAX);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut ended = self.ended.clone();
        let served = tokio::select! {
            served = connection.as_mut() => served,
            // The sender is dropped when the end has come.
            _ = ended.changed() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, %peer, "connection");
        }
    }
}

fn listener(fd: RawFd) -> std::io::Result<TcpListener> {
    if fd <= 2 {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number comes from our own toolstack's configuration, which hands the descriptor to this process and names it once.
    // - open: checked by the calls on it, which fail with EBADF otherwise.
    // - owned: nothing else in this process knows the number.
    let socket = std::net::TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}
