//! The backend's state machine: publishes a device's two directories, and follows its frontend through the states of `io/xenbus.h`.
//!
//! Both of Linux' habits are served: blkfront publishes its ring at Initialised, netfront at Connected. A frontend that closes is
//! followed to Closed (else a guest's poweroff waits five seconds a device), and one that comes back to Initialising is taken up again
//! (kexec, a reloaded module). The frontend's state is the guest's word: any sequence of states is followed, none is trusted.

use std::collections::BTreeMap;

use crate::evtchn::EventChannels;
use crate::grant::GrantTable;
use crate::memory::GuestMemory;
use crate::xenstore::{ConnectionError, GuestChanges, StoreError, Turn, Xenstore};

use super::{Backend, BackendError, FrontendView, Nodes};

/// Values of a frontend's directory that a backend is shown.
pub const FRONTEND_NODES_MAX: usize = 128;

/// Length of an error in xenstore; at four bytes a character it fits a node's value.
const ERROR_CHARS_MAX: usize = 1024;

/// `enum xenbus_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// 1: it has just begun.
    Initialising = 1,
    /// 2: it waits for the other end's values.
    InitWait = 2,
    /// 3: it has published its values and waits to be connected.
    Initialised = 3,
    /// 4: in use.
    Connected = 4,
    /// 5: it wants to close.
    Closing = 5,
    /// 6: it has closed.
    Closed = 6,
    /// 7: it changes its values.
    Reconfiguring = 7,
    /// 8: it has taken up the other end's changed values.
    Reconfigured = 8,
}

/// What kind of device; its name in xenstore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Disk: `vbd`.
    Vbd,
    /// Network interface: `vif`.
    Vif,
}

/// A device to be offered to the domain.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its kind.
    pub kind: DeviceKind,
    /// Its number: the virtual device's for a disk (51712 is xvda), from 0 for an interface.
    pub id: u32,
    /// Values of its own in the frontend's directory (`virtual-device`, `device-type`, `handle`, `mac`).
    pub frontend_nodes: Nodes,
}

/// All devices of a domain, followed by the thread that serves xenstore.
pub struct Xenbus {
    store: Xenstore,
    domid: u32,
    memory: GuestMemory,
    grants: GrantTable,
    events: EventChannels,
    devices: Vec<Followed>,
}

struct Followed {
    front: String,
    back: String,
    state: State,
    backend: Box<dyn Backend>,
}

/// What to do about a frontend's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Nothing,
    Connect,
    /// Stop serving if need be, and wait for values again.
    Restart,
    Enter(State),
    /// Stop serving, and say so.
    Close,
}

impl State {
    /// The state of that number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        use State::{
            Closed, Closing, Connected, InitWait, Initialised, Initialising, Reconfigured, Reconfiguring,
        };
        let all =
            [Initialising, InitWait, Initialised, Connected, Closing, Closed, Reconfiguring, Reconfigured];
        all.into_iter().find(|state| *state as u32 == number)
    }
}

impl DeviceKind {
    /// Its name in xenstore.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vif => "vif",
        }
    }
}

impl Device {
    /// As events and `info` call it: `vbd-51712`, `vif-0`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}-{}", self.kind.name(), self.id)
    }
}

impl Xenbus {
    /// No device yet.
    #[must_use]
    pub fn new(
        store: Xenstore,
        domid: u32,
        memory: GuestMemory,
        grants: GrantTable,
        events: EventChannels,
    ) -> Self {
        Self { store, domid, memory, grants, events, devices: Vec::new() }
    }

    /// Publishes a device; its backend waits for the frontend from now on.
    ///
    /// # Errors
    /// A value that xenstore does not take.
    pub fn add(&mut self, device: Device, backend: Box<dyn Backend>) -> Result<(), StoreError> {
        let (kind, id, domid) = (device.kind.name(), device.id, self.domid);
        let front = format!("{}/device/{kind}/{id}", self.store.home());
        let back = format!("/local/domain/0/backend/{kind}/{domid}/{id}");
        let frontend = [("backend", back.clone()), ("backend-id", "0".to_owned())];
        publish(&self.store, &front, frontend)?;
        publish(&self.store, &front, device.frontend_nodes)?;
        let backends =
            [("frontend", front.clone()), ("frontend-id", domid.to_string()), ("online", "1".to_owned())];
        publish(&self.store, &back, backends)?;
        publish(&self.store, &back, backend.features())?;
        // The states come last: whoever sees them finds all the rest.
        enter(&self.store, &back, State::InitWait)?;
        enter(&self.store, &front, State::Initialising)?;
        self.devices.push(Followed { front, back, state: State::InitWait, backend });
        Ok(())
    }

    /// Takes up a device of a saved domain where it stands in xenstore: a frontend that was served is served again, and notices nothing.
    ///
    /// # Errors
    /// What the frontend published then does not fit memory or channels now.
    pub fn resume(&mut self, device: &Device, mut backend: Box<dyn Backend>) -> Result<(), BackendError> {
        let (kind, id, domid) = (device.kind.name(), device.id, self.domid);
        let front = format!("{}/device/{kind}/{id}", self.store.home());
        let back = format!("/local/domain/0/backend/{kind}/{domid}/{id}");
        let state = self.store.read(&format!("{back}/state"));
        let state = state.and_then(|state| state.parse().ok()).and_then(State::from_number);
        let state = state.ok_or_else(|| BackendError::Missing(format!("{back}/state")))?;
        if matches!(state, State::Connected | State::Closing | State::Reconfigured) {
            backend.connect(&view(&self.store, &self.memory, &self.grants, &self.events, &front))?;
        }
        self.devices.push(Followed { front, back, state, backend });
        Ok(())
    }

    /// Serves xenstore's requests and follows the frontends: what the xenstore doorbell's ring asks for. Again while [`Turn::more`] is set.
    ///
    /// # Errors
    /// The guest broke the xenstore protocol; its devices go on.
    pub fn service(&mut self) -> Result<Turn, ConnectionError> {
        let turn = self.store.service();
        let changes = self.store.take_guest_changes();
        self.follow(&changes);
        turn
    }

    /// Follows the frontends that `changes` concern.
    pub fn follow(&mut self, changes: &GuestChanges) {
        if changes.is_empty() {
            return;
        }
        for device in &mut self.devices {
            if changes.concern(&format!("{}/state", device.front)) {
                let view = view(&self.store, &self.memory, &self.grants, &self.events, &device.front);
                device.follow(&self.store, &view);
            }
        }
    }

    /// Stops all backends (the domain ends).
    pub fn close(&mut self) {
        for device in &mut self.devices {
            device.backend.close();
            device.enter(&self.store, State::Closed);
        }
    }
}

impl Drop for Xenbus {
    fn drop(&mut self) {
        for device in &mut self.devices {
            device.backend.close();
        }
    }
}

impl Followed {
    fn follow(&mut self, store: &Xenstore, view: &FrontendView) {
        // A frontend whose state is gone has been removed: it is as good as closed.
        let frontend = view.number("state").ok().map_or(Some(State::Closed), State::from_number);
        match step(self.state, frontend) {
            Step::Nothing => {}
            Step::Enter(state) => self.enter(store, state),
            Step::Restart => {
                self.backend.close();
                self.enter(store, State::InitWait);
            }
            Step::Close => {
                self.backend.close();
                self.enter(store, State::Closed);
            }
            Step::Connect => self.connect(store, view),
        }
    }

    fn connect(&mut self, store: &Xenstore, view: &FrontendView) {
        match self.backend.connect(view) {
            Ok(nodes) => {
                log_refused(&self.back, publish(store, &self.back, nodes));
                self.enter(store, State::Connected);
            }
            Err(error) => {
                self.backend.close();
                log_refused(&self.back, store.write(&format!("{}/error", self.back), &sentence(&error)));
                self.enter(store, State::Closing);
            }
        }
    }

    fn enter(&mut self, store: &Xenstore, state: State) {
        self.state = state;
        log_refused(&self.back, enter(store, &self.back, state));
    }
}

/// The table of moves. `None` is a number that is no state.
fn step(backend: State, frontend: Option<State>) -> Step {
    let Some(frontend) = frontend else { return Step::Nothing };
    match (frontend, backend) {
        (State::Initialising, State::InitWait | State::Initialising) => Step::Nothing,
        (State::Initialising, _) => Step::Restart,
        (State::Initialised | State::Connected, State::InitWait) => Step::Connect,
        (State::Connected, State::Reconfigured) => Step::Enter(State::Connected),
        (State::Reconfiguring, State::Connected) => Step::Enter(State::Reconfigured),
        (State::Closing, State::Closing | State::Closed) | (State::Closed, State::Closed) => Step::Nothing,
        // The rings are served until the frontend is Closed: it may still flush.
        (State::Closing, _) => Step::Enter(State::Closing),
        (State::Closed, _) => Step::Close,
        // States that ask nothing of us, or that are out of turn.
        (
            State::InitWait
            | State::Initialised
            | State::Connected
            | State::Reconfiguring
            | State::Reconfigured,
            _,
        ) => Step::Nothing,
    }
}

fn publish<K: AsRef<str>>(
    store: &Xenstore,
    directory: &str,
    nodes: impl IntoIterator<Item = (K, String)>,
) -> Result<(), StoreError> {
    nodes
        .into_iter()
        .try_for_each(|(key, value)| store.write(&format!("{directory}/{}", key.as_ref()), &value))
}

fn enter(store: &Xenstore, directory: &str, state: State) -> Result<(), StoreError> {
    store.write(&format!("{directory}/state"), &(state as u32).to_string())
}

/// The host's writes fail only for a path or value of our own that is wrong; the device then lacks a value, and the domain goes on.
fn log_refused(directory: &str, outcome: Result<(), StoreError>) {
    if let Err(error) = outcome {
        tracing::warn!(directory, %error, "xenstore refused a backend's value");
    }
}

/// What a frontend has published now.
fn view(
    store: &Xenstore,
    memory: &GuestMemory,
    grants: &GrantTable,
    events: &EventChannels,
    front: &str,
) -> FrontendView {
    FrontendView::new(frontend_nodes(store, front), memory.clone(), grants.clone(), events.clone())
}

fn frontend_nodes(store: &Xenstore, front: &str) -> BTreeMap<String, String> {
    let keys = store.list(front).into_iter().take(FRONTEND_NODES_MAX);
    let mut nodes: BTreeMap<String, String> =
        keys.filter_map(|key| store.read(&format!("{front}/{key}")).map(|value| (key, value))).collect();
    // A guest that adds a thousand names before it must not hide its state.
    match store.read(&format!("{front}/state")) {
        Some(state) => nodes.insert("state".to_owned(), state),
        None => nodes.remove("state"),
    };
    nodes
}

/// An error and its causes in one line.
fn sentence(error: &BackendError) -> String {
    let mut sentence = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        sentence = format!("{sentence}: {cause}");
        next = cause.source();
    }
    sentence.chars().take(ERROR_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
