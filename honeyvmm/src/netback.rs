//! The network backend: Xen's io/netif.h between a guest's netfront and the switch's port ([`vifport`]).
//!
//! One queue, one event channel. Frames that the guest sends wait on its ring while the port is full; frames for the guest
//! wait in the port while it has given no pages. Checksums and segmentation stay undone where both sides can do without.
//! Several queues, split channels, multicast filters and the control ring are not offered. A guest that cannot take GSO
//! frames does not get them: they are dropped, not cut.

mod device;
mod offload;
mod receive;
mod slots;
mod transmit;

use receive::Held;
use vifport::Endpoint;

use crate::grant::{GrantError, GrantTable};
use crate::memory::GuestMemory;
use crate::ring::{Notify, RingError};
use crate::xenbus::{FrontendView, MappedRing, Nodes};

pub use device::NetDevice;
pub use offload::{Network, Transport, complete_checksum};
pub use slots::{ChainError, Packet, TX_REQUEST_BYTES};

/// Frames that one call of `service` moves each way: a quarter of a ring, at most 4 MiB.
pub const FRAMES_PER_CALL_MAX: u32 = 64;

/// What a guest did that no honest one does.
#[derive(Debug, thiserror::Error)]
pub enum Violation {
    /// A ring's indices are a lie: the rings were closed.
    #[error("network rings closed")]
    Ring(#[from] RingError),
    /// A packet that cannot be read: the rings were closed.
    #[error("network rings closed after a bad packet")]
    Chain(#[from] ChainError),
    /// A page that was not granted: its packet was thrown away.
    #[error("packet names a bad grant")]
    Grant(#[from] GrantError),
}

/// What a call of `service` has done, and what the caller must do.
#[derive(Debug, Default)]
pub struct Serviced {
    /// Send the frontend its event.
    pub notify: bool,
    /// There is more to do at once: call again.
    pub more: bool,
    /// The first violation of this call.
    pub violation: Option<Violation>,
    /// The switch broke the port's rules; it is not used any more.
    pub port_broken: Option<vifport::Violation>,
}

/// What went through a vif so far, seen from the guest.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Frames that the guest sent.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames from the guest that made no sense.
    pub sent_dropped: u64,
    /// Frames that the guest got.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames for the guest that it could not take.
    pub received_dropped: u64,
}

/// One virtual interface of a domain.
#[derive(Debug)]
pub struct Netback {
    port: Endpoint,
    connection: Option<Connection>,
    counters: Counters,
    /// Bytes of the frame at hand, either way. Kept so that they are allocated once.
    frame: Vec<u8>,
    /// A frame taken from the port that waits in `held_frame` for pages of the guest.
    held: Option<Held>,
    held_frame: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    tx: MappedRing,
    rx: MappedRing,
    memory: GuestMemory,
    grants: GrantTable,
    can: Abilities,
}

/// What the frontend says it can take. A vif's tuning is these five switches of io/netif.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Abilities {
    sg: bool,
    gso_v4: bool,
    gso_v6: bool,
    csum_v4: bool,
    csum_v6: bool,
}

/// Why one direction has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// All that there was is done, or the other side will say when it goes on.
    Waits,
    /// This call's share is done.
    More,
}

/// What ends a call early.
enum Failure {
    Guest(Violation),
    Port(vifport::Violation),
}

impl Netback {
    /// A backend without a frontend yet.
    #[must_use]
    pub fn new(port: Endpoint) -> Self {
        let counters = Counters::default();
        Self { port, connection: None, counters, frame: Vec::new(), held: None, held_frame: Vec::new() }
    }

    /// What went through so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The port to the switch, for waiting on it.
    #[must_use]
    pub fn port(&self) -> &Endpoint {
        &self.port
    }

    /// What the backend offers, for its folder in xenstore.
    #[must_use]
    pub fn features(&self) -> Nodes {
        let values = [
            ("feature-sg", 1),
            ("feature-gso-tcpv4", 1),
            ("feature-gso-tcpv6", 1),
            ("feature-ipv6-csum-offload", 1),
            ("feature-no-csum-offload", 0),
            ("feature-rx-copy", 1),
            ("feature-rx-flip", 0),
            ("feature-rx-notify", 1),
            ("feature-multicast-control", 0),
            ("feature-split-event-channels", 0),
            ("feature-ctrl-ring", 0),
            ("feature-xdp-headroom", 0),
            ("multi-queue-max-queues", 1),
        ];
        values.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect()
    }

    /// Takes up the rings that a frontend has granted, in place of any before. What came from the switch until now was not
    /// meant for this frontend and is thrown away.
    pub fn connect(&mut self, tx: MappedRing, rx: MappedRing, frontend: &FrontendView) {
        self.held = None;
        for _ in 0..vifport::DESCRIPTORS {
            // A broken port shows when it is served.
            if !matches!(self.port.recv(&mut self.held_frame), Ok(Some(_))) {
                break;
            }
        }
        let can = Abilities::of(frontend);
        let (memory, grants) = (frontend.memory().clone(), frontend.grants().clone());
        self.connection = Some(Connection { tx, rx, memory, grants, can });
    }

    /// Lets go of the rings.
    pub fn disconnect(&mut self) {
        self.connection = None;
        self.held = None;
    }

    /// Moves frames both ways; to be called at each event of the frontend, and when the port's `wait_fd` was readable (and
    /// cleared). From any thread.
    pub fn service(&mut self) -> Serviced {
        let mut serviced = Serviced::default();
        if self.port.violation().is_some() {
            return serviced;
        }
        let Some(mut connection) = self.connection.take() else { return serviced };
        match self.move_frames(&mut connection, &mut serviced) {
            Ok(()) => self.connection = Some(connection),
            Err(Failure::Guest(violation)) => serviced.violation = Some(violation),
            Err(Failure::Port(violation)) => {
                self.connection = Some(connection);
                serviced.port_broken = Some(violation);
            }
        }
        // A signal that fails is not lost on the switch: the next one tells it of all frames.
        let _ = self.port.notify();
        serviced
    }

    fn move_frames(&mut self, connection: &mut Connection, serviced: &mut Serviced) -> Result<(), Failure> {
        let sent = self.transmit(connection, serviced)?;
        serviced.notify |= connection.tx.ring.publish()? == Notify::Needed;
        let received = self.receive(connection, serviced)?;
        serviced.notify |= connection.rx.ring.publish()? == Notify::Needed;
        serviced.more = sent == Progress::More || received == Progress::More;
        Ok(())
    }
}

impl Abilities {
    fn of(frontend: &FrontendView) -> Self {
        let sg = frontend.feature("feature-sg");
        Self {
            sg,
            gso_v4: sg && frontend.feature("feature-gso-tcpv4"),
            gso_v6: sg && frontend.feature("feature-gso-tcpv6"),
            csum_v4: !frontend.feature("feature-no-csum-offload"),
            csum_v6: frontend.feature("feature-ipv6-csum-offload"),
        }
    }
}

impl Serviced {
    fn note(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }
}

impl<E: Into<Violation>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Guest(error.into())
    }
}

#[cfg(test)]
mod tests;
