//! The sockets of guests' syslog: TCP 601 and UDP 514.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use events::framing::{Deframer, Framing};
use events::{Event, EventId};
use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::domains::Domains;
use super::flood::Flood;
use super::{GUEST_MESSAGE_BYTES_MAX, Line, Transport, events_of};
use crate::writer::Inlet;

/// Connections that one guest may have open.
const CONNECTIONS_PER_SOURCE_MAX: usize = 16;
/// Connections of all guests.
const CONNECTIONS_MAX: usize = 1024;
/// A connection that was silent for so long is closed; a syslog client opens another.
const IDLE: Duration = Duration::from_secs(3600);
/// Time between two looks at `domains.json` and the flood table.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// What the listeners share.
pub struct Guests {
    inlet: Inlet,
    /// Each is held for one call only, never two at once.
    domains: Mutex<Domains>,
    flood: Mutex<Flood>,
    connections: Mutex<HashMap<IpAddr, usize>>,
}

impl Guests {
    /// Listeners that hand their events to this inlet.
    pub(crate) fn new(inlet: Inlet, domains: Domains, flood: Flood) -> Arc<Guests> {
        let (domains, flood) = (Mutex::new(domains), Mutex::new(flood));
        Arc::new(Guests { inlet, domains, flood, connections: Mutex::default() })
    }

    /// Keeps the map of addresses fresh and reports lost lines, for ever.
    pub async fn housekeeping(self: Arc<Guests>) {
        let mut tick = tokio::time::interval(HOUSEKEEPING);
        loop {
            tick.tick().await;
            lock(&self.domains).refresh();
            let reports = lock(&self.flood).reports(Instant::now());
            for (source, count) in reports {
                self.inlet.local(self.dropped(source, count)).await;
            }
        }
    }

    /// Takes datagrams, for ever.
    pub async fn udp(self: Arc<Guests>, socket: UdpSocket) {
        let mut buffer = vec![0; 65_536];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((count, source)) => {
                    let bytes = buffer.get(..count.min(GUEST_MESSAGE_BYTES_MAX)).unwrap_or_default();
                    self.line(bytes, source, Transport::Udp).await;
                }
                Err(error) => pause("guest syslog over UDP", &error).await,
            }
        }
    }

    /// Takes connections, for ever.
    pub async fn tcp(self: Arc<Guests>, listener: TcpListener) {
        // Ends its tasks when this one ends.
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, source)) if self.connected(source.ip()) => {
                    let guests = self.clone();
                    connections.spawn(async move {
                        guests.connection(stream, source).await;
                        guests.disconnected(source.ip());
                    });
                }
                // Dropping the stream refuses the guest that has too many.
                Ok(_) => {}
                Err(error) => pause("guest syslog over TCP", &error).await,
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream, source: SocketAddr) {
        let mut deframer = Deframer::new(Framing::Either, GUEST_MESSAGE_BYTES_MAX);
        let mut buffer = vec![0; 16 * 1024];
        // Ends with the connection; each turn waits for bytes of the guest.
        while let Ok(Ok(count @ 1..)) = tokio::time::timeout(IDLE, stream.read(&mut buffer)).await {
            deframer.push(buffer.get(..count).unwrap_or_default());
            while let Ok(Some(message)) = deframer.next_message() {
                self.line(&message, source, Transport::Tcp).await;
            }
        }
        if let Some(message) = deframer.finish() {
            self.line(&message, source, Transport::Tcp).await;
        }
    }

    async fn line(&self, bytes: &[u8], source: SocketAddr, transport: Transport) {
        if !lock(&self.flood).admit(source.ip(), Instant::now()) {
            return;
        }
        let domain = lock(&self.domains).get(source.ip()).cloned();
        let line = Line { bytes, source, transport, domain: domain.as_ref() };
        for event in events_of(&line, Timestamp::now()) {
            self.inlet.local(event).await;
        }
    }

    fn dropped(&self, source: IpAddr, count: u64) -> Event {
        let event = Event::new(EventId::EventsDropped, Timestamp::now())
            .with("source", source.to_canonical().to_string())
            .with("count", count);
        match lock(&self.domains).get(source) {
            Some(domain) => event.domain(domain.name.clone(), Some(domain.domid)),
            None => event,
        }
    }

    fn connected(&self, source: IpAddr) -> bool {
        let mut connections = lock(&self.connections);
        let all: usize = connections.values().sum();
        let own = connections.entry(source).or_default();
        if *own >= CONNECTIONS_PER_SOURCE_MAX || all >= CONNECTIONS_MAX {
            return false;
        }
        *own += 1;
        true
    }

    fn disconnected(&self, source: IpAddr) {
        let mut connections = lock(&self.connections);
        if let Some(own) = connections.get_mut(&source) {
            *own = own.saturating_sub(1);
        }
        connections.retain(|_, own| *own > 0);
    }
}

/// A poisoned lock holds a table whose every change is one call: it is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// After an error of a listening socket (no descriptors left, mostly) the next try must not spin.
pub async fn pause(what: &str, error: &std::io::Error) {
    tracing::error!("{what}: {error}");
    tokio::time::sleep(Duration::from_millis(200)).await;
}
