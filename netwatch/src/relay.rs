//! Relay of published ports: a client that connects to the host's loopback is joined with a service of a decoy.
//!
//! The listening socket was bound in the host's namespace and is handed in; connections to decoys are opened by this
//! process, inside the honeynet's namespace, with the client's own address where that is possible (`source`) and the
//! gateway's else. `relay.accepted` tells the real client and the inner connection's address and port, which join it with
//! flows and alerts.

mod source;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use events::{Event, EventId};
use jiff::Timestamp;

use crate::community_id::Endpoints;
use crate::flow::tuple;
use crate::packet::PROTOCOL_TCP;
pub use source::Sources;

/// Connections of one published port at a time; further clients are closed at once. Each takes two threads.
pub const CONNECTIONS_MAX: usize = 128;
/// A connection without a byte either way for this long is closed.
pub const IDLE_MAX: Duration = Duration::from_secs(3600);
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How often a silent connection looks whether it has been idle for too long.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const BUFFER_BYTES: usize = 64 * 1024;
const STACK_BYTES: usize = 256 * 1024;
/// After a failed accept (no descriptors, most likely) the listener rests.
const REST: Duration = Duration::from_millis(200);

/// A published port.
#[derive(Debug, Clone)]
pub struct Published {
    /// The decoy that it belongs to.
    pub domain: String,
    /// Its service.
    pub target: SocketAddr,
    /// Which clients it sees.
    pub sources: Arc<Sources>,
}

/// Serves a published port on a thread of its own, until the process ends. Events go to `emit`.
pub fn serve(
    listener: TcpListener,
    published: Published,
    emit: impl Fn(Event) + Send + Sync + 'static,
) -> std::io::Result<()> {
    listener.set_nonblocking(false)?;
    let emit: Arc<dyn Fn(Event) + Send + Sync> = Arc::new(emit);
    thread::Builder::new().name("relay".into()).stack_size(STACK_BYTES).spawn(move || {
        let open = Arc::new(AtomicUsize::new(0));
        loop {
            match listener.accept() {
                Ok((client, address)) => accept(client, address, &published, &open, &emit),
                Err(error) => {
                    tracing::warn!(%error, domain = published.domain, "published port cannot accept");
                    thread::sleep(REST);
                }
            }
        }
    })?;
    Ok(())
}

fn accept(
    client: TcpStream,
    address: SocketAddr,
    published: &Published,
    open: &Arc<AtomicUsize>,
    emit: &Arc<dyn Fn(Event) + Send + Sync>,
) {
    let place = Place(Arc::clone(open));
    if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
        tracing::warn!(%address, domain = published.domain, "published port is full");
        return;
    }
    let (published, emit) = (published.clone(), Arc::clone(emit));
    let builder = thread::Builder::new().name("relay-connection".into()).stack_size(STACK_BYTES);
    let spawned = builder.spawn(move || {
        let _place = place;
        if let Err(error) = join(&client, address, &published, &*emit) {
            tracing::debug!(%error, %address, domain = published.domain, "relayed connection ended");
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for a relayed connection");
    }
}

/// One of the places for connections, given back when it goes.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn join(
    client: &TcpStream,
    address: SocketAddr,
    published: &Published,
    emit: &(dyn Fn(Event) + Send + Sync),
) -> std::io::Result<()> {
    let decoy = source::connect_from(published.sources.of(address.ip()), published.target, CONNECT_MAX)?;
    emit(accepted(address, client.local_addr()?, decoy.local_addr()?, published));
    for stream in [client, &decoy] {
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        stream.set_write_timeout(Some(IDLE_MAX))?;
        stream.set_nodelay(true)?;
    }
    let activity = Activity { start: Instant::now(), last_ms: AtomicU64::new(0) };
    thread::scope(|scope| {
        let forth = thread::Builder::new().stack_size(STACK_BYTES);
        let forth = forth.spawn_scoped(scope, || carry(client, &decoy, &activity));
        let back = carry(&decoy, client, &activity);
        if forth.is_err() || back.is_err() {
            close(client, &decoy);
        }
        forth.map(|_| ())
    })
}

struct Activity {
    start: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    fn touch(&self) {
        self.last_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last) > IDLE_MAX
    }
}

/// Carries bytes one way until the end, which is passed on as a half-close. An error closes both ways.
fn carry(mut from: &TcpStream, mut to: &TcpStream, activity: &Activity) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let result = loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => break to.shutdown(Shutdown::Write),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if activity.is_idle() {
                    break Err(error);
                }
                continue;
            }
            Err(error) => break Err(error),
        };
        activity.touch();
        if let Err(error) = to.write_all(buffer.get(..len).unwrap_or_default()) {
            break Err(error);
        }
    };
    if result.is_err() {
        close(from, to);
    }
    result
}

fn close(a: &TcpStream, b: &TcpStream) {
    // A side that is closed already says so, and that is what is wanted.
    let _ = a.shutdown(Shutdown::Both);
    let _ = b.shutdown(Shutdown::Both);
}

fn accepted(client: SocketAddr, listen: SocketAddr, inner: SocketAddr, published: &Published) -> Event {
    let ends = Endpoints {
        source: inner.ip(),
        destination: published.target.ip(),
        protocol: PROTOCOL_TCP,
        source_port: inner.port(),
        destination_port: published.target.port(),
    };
    let mut event = Event::new(EventId::RelayAccepted, Timestamp::now())
        .flow(tuple(&ends, None, 0))
        .with("client_ip", client.ip().to_string())
        .with("client_port", client.port())
        .with("listen_ip", listen.ip().to_string())
        .with("listen_port", listen.port())
        .with("inner_ip", inner.ip().to_string())
        .with("inner_port", inner.port());
    event.domain = Some(published.domain.clone());
    event
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn bytes_go_both_ways_and_a_half_close_is_passed_on() {
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = service.local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let (sender, events) = mpsc::channel();
        let published = Published { domain: "web".into(), target, sources: Arc::new(Sources::Gateway) };
        serve(listener, published, move |event| sender.send(event).unwrap()).unwrap();

        let mut client = TcpStream::connect(listen).unwrap();
        let (mut decoy, inner) = service.accept().unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut question = String::new();
        decoy.read_to_string(&mut question).unwrap();
        assert_eq!(question, "question");
        decoy.write_all(b"answer").unwrap();
        drop(decoy);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");

        let event = events.recv().unwrap();
        assert_eq!(event.body["client_port"], client.local_addr().unwrap().port());
        assert_eq!(event.flow.unwrap().src_port, inner.port());
    }

    #[test]
    fn a_service_that_is_not_there_closes_the_client() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let sources = Arc::new(Sources::Gateway);
        serve(listener, Published { domain: "web".into(), target: gone, sources }, |_| {}).unwrap();
        let mut client = TcpStream::connect(listen).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
}
