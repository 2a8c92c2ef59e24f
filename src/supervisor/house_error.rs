//! Why the house did not do what it was asked for.

use super::clone::CloneError;
use super::console::ConsoleError;
use super::control::ControlError;
use super::copying::CopyError;
use super::evidence::EvidenceError;
use super::house::DOMAINS_MAX;
use super::launch::LaunchError;
use super::migrate::MigrateError;
use super::network::SwitchError;
use super::pool::PoolError;
use super::saved::SavedError;
use super::snapshots::SnapshotsError;
use crate::domain_file::DomainFileError;

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub enum HouseError {
    /// No such domain.
    #[error("there is no domain {name}")]
    NoDomain {
        /// As asked for.
        name: String,
    },
    /// The name is taken.
    #[error("there is a domain {name} already")]
    Exists {
        /// The name.
        name: String,
    },
    /// Too many.
    #[error("there are {DOMAINS_MAX} domains already")]
    Full,
    /// The subnet is full.
    #[error("no address of the honeynet's subnet is free")]
    NoAddress,
    /// The domain file is wrong.
    #[error(transparent)]
    File(#[from] DomainFileError),
    /// It could not be built.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The domain is in the wrong state.
    #[error("domain {name} is {is}, not {wanted}")]
    State {
        /// The domain.
        name: String,
        /// What it is.
        is: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// Its process did not do it.
    #[error("domain {name}: {error}")]
    Control {
        /// The domain.
        name: String,
        /// Why.
        error: ControlError,
    },
    /// Its observer does not run.
    #[error("domain {name} cannot be observed")]
    Observer {
        /// The domain.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its console is not to be had.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// Nothing was taken.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// A domain was not saved, or one that was saved is none.
    #[error(transparent)]
    Saved(#[from] SavedError),
    /// There is no pool.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Nothing was cloned.
    #[error(transparent)]
    Clone(#[from] CloneError),
    /// Nothing is done with a snapshot.
    #[error(transparent)]
    Snapshots(#[from] SnapshotsError),
    /// A domain does not move.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// A domain was not copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The switch did not do it.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// It is still there.
    #[error("the process of domain {name} does not go")]
    Stays {
        /// The domain.
        name: String,
    },
}
