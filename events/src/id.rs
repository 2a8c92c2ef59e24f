//! Event ids: the closed list of what can happen, with the severity of each. EVENTS.md explains them; a test holds both equal.

use serde::{Deserialize, Serialize};

/// Syslog severity (RFC 5424, table 2); the number goes into PRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something that was asked for did not happen, or an intruder reached what he must not.
    Error = 3,
    /// Hostile or odd, handled.
    Warning = 4,
    /// Normal but significant.
    Notice = 5,
    /// Routine.
    Info = 6,
}

macro_rules! event_ids {
    ($($(#[doc = $doc:literal])* $variant:ident = $id:literal, $severity:ident;)*) => {
        /// What happened. `as_str` is the id on the wire: `<event_type>.<what>`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventId { $($(#[doc = $doc])* $variant,)* }

        impl EventId {
            /// Every id, in the order of EVENTS.md.
            pub const ALL: &'static [EventId] = &[$(EventId::$variant,)*];

            /// The id on the wire, used as MSGID.
            pub fn as_str(self) -> &'static str {
                match self { $(EventId::$variant => $id,)* }
            }

            /// The severity that an event with this id has unless its maker says otherwise.
            pub fn severity(self) -> Severity {
                match self { $(EventId::$variant => Severity::$severity,)* }
            }
        }
    };
}

event_ids! {
    /// A domain was built and its first vcpu runs.
    DomainStarted = "domain.started", Notice;
    /// A domain ended as asked: powered off, rebooted or destroyed.
    DomainStopped = "domain.stopped", Notice;
    /// A domain ended by a crash of its kernel, by a lie told to the VMM, or because its process was killed.
    DomainCrashed = "domain.crashed", Error;
    /// A domain was paused.
    DomainPaused = "domain.paused", Info;
    /// A domain runs again after a pause.
    DomainUnpaused = "domain.unpaused", Info;
    /// A guest did what no sane frontend does; the request was refused.
    DomainViolation = "domain.violation", Warning;
    /// A rule matched.
    Alert = "alert.rule", Warning;
    /// A flow ended or timed out.
    FlowEnd = "flow.end", Info;
    /// Containment refused or changed a packet.
    ContainmentVerdict = "containment.verdict", Warning;
    /// A published port took a connection from a client.
    RelayAccepted = "relay.accepted", Info;
    /// A file of a decoy differs from its baseline.
    FimChange = "fim.change", Warning;
    /// A FIM check ended.
    FimChecked = "fim.checked", Info;
    /// A log line of a guest's own syslog.
    GuestLog = "guest.log", Info;
    /// A login on a decoy, seen in its log.
    GuestLogin = "guest.login", Warning;
    /// A failed login on a decoy, seen in its log.
    GuestLoginFailed = "guest.login_failed", Notice;
    /// Someone outside reached a program of a decoy; his session begins.
    SessionOpened = "session.opened", Notice;
    /// A session ended: its last process is gone.
    SessionClosed = "session.closed", Notice;
    /// A login in a session, with what was typed.
    SessionLogin = "session.login", Warning;
    /// A login that failed, with what was typed.
    SessionLoginFailed = "session.login_failed", Notice;
    /// A line that was typed at a session's terminal.
    SessionInput = "session.input", Notice;
    /// A program was run in a session.
    ProcessExec = "process.exec", Notice;
    /// A process of a session ended.
    ProcessExit = "process.exit", Info;
    /// A process of a session changed its user.
    ProcessSetuid = "process.setuid", Notice;
    /// A process of a session connected to somewhere.
    ProcessConnect = "process.connect", Notice;
    /// A process of a session changed, renamed or removed a file.
    ProcessFile = "process.file", Notice;
    /// A file that an intruder wrote, fetched or ran was kept.
    SampleKept = "sample.kept", Warning;
    /// Memory of the guest's kernel that never changes has changed.
    IntegrityChanged = "integrity.changed", Error;
    /// A process runs that is in no list.
    IntegrityHidden = "integrity.hidden", Error;
    /// A process has credentials that no call gave it.
    IntegrityCredentials = "integrity.credentials", Error;
    /// Records of system calls were lost.
    TraceDropped = "trace.dropped", Error;
    /// A case was written.
    CaseCreated = "case.created", Notice;
    /// A snapshot of a domain was taken.
    SnapshotTaken = "snapshot.taken", Notice;
    /// A domain went on at another host, or came from one.
    DomainMigrated = "domain.migrated", Notice;
    /// A domain was to go on at another host, and does not.
    MigrationFailed = "migration.failed", Warning;
    /// A source got a clone of its own.
    PoolAssigned = "pool.assigned", Notice;
    /// A clone went.
    PoolReleased = "pool.released", Notice;
    /// A source is answered by a decoy that it shares with others.
    PoolShared = "pool.shared", Warning;
    /// A source is not answered.
    PoolRefused = "pool.refused", Warning;
    /// A process of the house started.
    ServiceStarted = "service.started", Info;
    /// A process of the house ended without being asked to.
    ServiceFailed = "service.failed", Error;
    /// Events were lost: a queue or spool was full.
    EventsDropped = "events.dropped", Error;
    /// Someone logged in at the dashboard, or failed to.
    DashboardLogin = "dashboard.login", Notice;
}

impl EventId {
    /// The `event_type`: what stands before the first dot.
    pub fn event_type(self) -> &'static str {
        let id = self.as_str();
        id.split_once('.').map_or(id, |(kind, _)| kind)
    }

    /// The name of the object that holds the details.
    pub fn details_key(self) -> &'static str {
        details_key(self.event_type())
    }

    /// The id with this wire form, if there is one.
    pub fn parse(text: &str) -> Option<EventId> {
        EventId::ALL.iter().copied().find(|id| id.as_str() == text)
    }
}

/// The name of the object that holds the details of events of this type: the type's own, but for `domain` and `session`, which are the
/// domain and the session that an event is about.
pub fn details_key(event_type: &str) -> &str {
    match event_type {
        "domain" => "domain_event",
        "session" => "session_event",
        other => other,
    }
}
