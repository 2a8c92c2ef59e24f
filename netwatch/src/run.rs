//! The netwatch process: adopts what it was handed, gives up its privileges, runs.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use events::{Emitter, Event};
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::capture::{CaptureFolder, CaptureLimits};
use crate::config::{NetwatchConfig, RelaySource, UplinkKind};
use crate::containment::{Containment, Profile, ProfileError, whole_fence};
use crate::control::{Control, MacText};
use crate::datapath::{AddError, Datapath};
use crate::netns::{self, NetnsError};
use crate::relay::{self, Published, Sources};
use crate::rules::RuleSource;
use crate::switch::{CapturePolicy, PortKind, Switch};

/// Why netwatch cannot start or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A descriptor of the configuration is not open, or is named twice.
    #[error("descriptor {0} was not handed in, or twice")]
    Descriptor(RawFd),
    /// The namespace cannot be entered.
    #[error("netwatch cannot move into its network namespace")]
    Netns(#[from] NetnsError),
    /// The profile cannot be opened.
    #[error("containment profile cannot be opened: {path}")]
    ProfileFile {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The profile has a fault.
    #[error("containment profile {path}")]
    Profile {
        /// Where.
        path: PathBuf,
        /// Which.
        source: ProfileError,
    },
    /// A MAC of an uplink is none.
    #[error("uplink has a bad mac: {0}")]
    Mac(String),
    /// An uplink does not fit.
    #[error("uplink cannot be added")]
    Uplink(#[from] AddError),
    /// Clients' addresses are to be used, and it is not known which are the decoys'.
    #[error("home_net is not a network: {0}")]
    HomeNet(String),
    /// Privileges cannot be given up.
    #[error("privileges cannot be given up")]
    Privileges(#[source] io::Error),
    /// The emitter cannot start.
    #[error("events cannot be sent")]
    Emitter(#[from] events::emitter::EmitterError),
    /// No thread for a relay.
    #[error("published port of {domain} cannot be served")]
    Relay {
        /// Of which domain.
        domain: String,
        /// Why.
        source: io::Error,
    },
    /// The datapath's own system calls failed.
    #[error("datapath ended")]
    Datapath(#[source] io::Error),
}

/// Runs netwatch until the toolstack closes the control socket.
pub fn run(config: NetwatchConfig) -> Result<(), RunError> {
    if let Some(name) = &config.netns {
        netns::enter(name)?;
    }
    raise_descriptor_limit();
    let mut handed = Handed::default();
    let control = Control::new(handed.take(config.control_fd)?);
    let wanted = config.wanted_fd.map(|fd| handed.take(fd)).transpose()?;
    let events = config.events_fd.map(|fd| handed.take(fd)).transpose()?;
    let containment = Containment::new(read_profile(&config)?, config.fence.clone(), config.loghost.clone());
    let rules = RuleSource {
        files: config.rules.clone(),
        home_net: config.home_net.clone(),
        variables: config.variables.clone().into_iter().collect(),
    };
    let (inspector, diagnostics) = rules.load();
    for sentence in &diagnostics {
        tracing::warn!("{sentence}");
    }
    tracing::info!(rules = inspector.rule_count(), "rules are loaded");
    // Threads inherit what the first one is, so nothing may be started before this.
    drop_privileges(config.uid, config.relay_source).map_err(RunError::Privileges)?;

    let emitter = events.map(|fd| Emitter::from_fd(fd, "netwatch")).transpose()?;
    let emit = move |event: Event| {
        if let Some(emitter) = &emitter {
            emitter.emit(event);
        }
    };
    let switch = Switch::new(containment, inspector, capture_policy(&config));
    let mut datapath = Datapath::new(switch, control, rules, emit.clone()).map_err(RunError::Datapath)?;
    if let Some(wanted) = wanted {
        datapath.tell_wanted(wanted);
    }
    for uplink in &config.uplinks {
        let kind = port_kind(uplink.kind, uplink.mac.as_deref())?;
        datapath.add_uplink(handed.take(uplink.fd)?, kind)?;
    }
    let sources = Arc::new(relay_sources(&config)?);
    for published in &config.relays {
        let listener = TcpListener::from(handed.take(published.listen_fd)?);
        let service = Published {
            domain: published.domain.clone(),
            target: published.target,
            sources: Arc::clone(&sources),
        };
        relay::serve(listener, service, emit.clone())
            .map_err(|source| RunError::Relay { domain: published.domain.clone(), source })?;
    }
    // Of the threads only the relays' have a use for it.
    if config.uid.is_some() {
        keep_capabilities(CapabilitySet::empty()).map_err(RunError::Privileges)?;
    }
    datapath.run().map_err(RunError::Datapath)
}

/// Decoys answer neither their own network by way of the relay nor what is behind the fence.
fn relay_sources(config: &NetwatchConfig) -> Result<Sources, RunError> {
    match config.relay_source {
        RelaySource::Gateway => Ok(Sources::Gateway),
        RelaySource::Client => {
            let home = config.home_net.parse();
            let home = home.map_err(|_| RunError::HomeNet(config.home_net.clone()))?;
            let mut but = whole_fence(config.fence.clone());
            but.push(home);
            Ok(Sources::Clients { but })
        }
    }
}

fn read_profile(config: &NetwatchConfig) -> Result<Profile, RunError> {
    let path = config.profile.clone();
    let text = fs::read_to_string(&path);
    let text = text.map_err(|source| RunError::ProfileFile { path: path.clone(), source })?;
    Profile::parse(&text).map_err(|source| RunError::Profile { path, source })
}

fn capture_policy(config: &NetwatchConfig) -> Option<CapturePolicy> {
    let capture = config.capture.as_ref()?;
    let limits = CaptureLimits {
        folder: Arc::new(CaptureFolder::new(capture.folder.clone())),
        file_bytes_max: capture.file_bytes_max,
        files_max: capture.files_max,
    };
    Some(CapturePolicy { limits, flow_bytes_max: capture.flow_bytes_max })
}

fn port_kind(kind: UplinkKind, mac: Option<&str>) -> Result<PortKind, RunError> {
    let mac = mac.map(|mac| MacText::try_from(mac.to_owned())).transpose().map_err(RunError::Mac)?;
    Ok(match kind {
        UplinkKind::Gateway => PortKind::Gateway,
        UplinkKind::Interface => PortKind::Interface(mac.map(|MacText(mac)| mac)),
    })
}

/// Each clone has two eventfds and a capture file here; what a shell hands down is often 1024.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of descriptors stays as it is");
    }
}

/// Another user has no capabilities but the one that relays need to speak with a client's address (ip(7)); nothing gives
/// any back after this.
fn drop_privileges(uid: Option<u32>, relay_source: RelaySource) -> io::Result<()> {
    if let Some(id) = uid {
        set_thread_groups(&[])?;
        set_keep_capabilities(true)?;
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        set_keep_capabilities(false)?;
        keep_capabilities(match relay_source {
            RelaySource::Gateway => CapabilitySet::empty(),
            RelaySource::Client => CapabilitySet::NET_RAW,
        })?;
    }
    set_no_new_privs(true)?;
    Ok(())
}

/// Gives up all capabilities of this thread but these.
fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// Which inherited descriptors have found their owner.
#[derive(Default)]
struct Handed {
    taken: HashSet<RawFd>,
}

impl Handed {
    fn take(&mut self, fd: RawFd) -> Result<OwnedFd, RunError> {
        if fd < 3 || !self.taken.insert(fd) {
            return Err(RunError::Descriptor(fd));
        }
        // SAFETY: fd is not -1, and the borrow ends with this statement, before anything could close it.
        let is_open = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(fd) });
        is_open.map_err(|_| RunError::Descriptor(fd))?;
        // SAFETY: the descriptor is open, was inherited for this use, and `taken` sees to it that it has one owner.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}
