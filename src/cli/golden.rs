//! The machine behind a pool: booted once, snapshotted when its services answer, and kept for the next `up`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use honeyvmm::shim::{Backend, image};
use jiff::{SignedDuration, Timestamp};

use super::{Connection, Failure};
use crate::honeynet_file::Decoy;
use crate::snapshot::{Kind, store};
use crate::state::State;
use crate::supervisor::protocol::{Create, Limits, PoolRequest, Request};

/// An older one is made anew: whatever its machine would have done meanwhile, every clone does when it begins.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);
/// A machine whose service answers has still things to do that its clones need not repeat.
const SETTLED_AFTER: Duration = Duration::from_secs(8);

/// What a golden snapshot is made of.
pub struct Golden<'a> {
    /// The decoy whose address it is.
    pub decoy: &'a Decoy,
    /// Its domain file.
    pub domain_file: &'a str,
    /// Where that file's relative paths start.
    pub folder: &'a Path,
    /// The service that tells that it has booted.
    pub service: Option<SocketAddr>,
}

impl Golden<'_> {
    fn name(&self) -> String {
        format!("{}-golden", self.decoy.name)
    }

    /// All that decides what it is, and whether this build can go on with it.
    fn key(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.domain_file.as_bytes());
        for backend in [Backend::Pvm, Backend::Hardware] {
            hasher.update(image(backend));
        }
        format!("golden {}", &hasher.finalize().to_hex()[..16])
    }

    /// Opens the pool; false where it is open already. `answers` waits for a service, `step` tells what is done.
    pub fn open(
        &self,
        state: &State,
        connection: &mut Connection,
        answers: impl Fn(SocketAddr) -> Result<bool, Failure>,
        step: impl Fn(&str),
    ) -> Result<bool, Failure> {
        let pools = connection.request(&Request::Pools)?;
        if pools.as_array().into_iter().flatten().any(|pool| pool["pool"] == self.decoy.name.as_str()) {
            return Ok(false);
        }
        let found = self.find(state)?;
        let snapshot = match found {
            Some(snapshot) => snapshot,
            None => self.make(connection, answers, step)?,
        };
        let pool = self.decoy.pool.clone().unwrap_or_default();
        let limits = Limits {
            clones: pool.clones,
            parked: pool.parked,
            per_minute: pool.per_minute,
            idle: pool.idle.0,
        };
        let name = self.decoy.name.clone();
        connection.request(&Request::PoolOpen(PoolRequest { name, snapshot, limits, touch: pool.touch }))?;
        Ok(true)
    }

    /// One that was made before, of the same parts and not long ago.
    fn find(&self, state: &State) -> Result<Option<PathBuf>, Failure> {
        let (name, key, now) = (self.name(), self.key(), Timestamp::now());
        let fits = |entry: &store::Entry| {
            entry.manifest.as_ref().is_ok_and(|manifest| {
                manifest.kind == Kind::Full
                    && manifest.reason.as_deref() == Some(key.as_str())
                    && now.duration_since(manifest.taken) < AGE_MAX
            })
        };
        let newest = store::list(state, Some(&name))?.into_iter().rfind(fits);
        Ok(newest.map(|entry| store::folder_of(state, &name).join(entry.id)))
    }

    fn make(
        &self,
        connection: &mut Connection,
        answers: impl Fn(SocketAddr) -> Result<bool, Failure>,
        step: impl Fn(&str),
    ) -> Result<PathBuf, Failure> {
        let name = self.name();
        step(&format!("golden machine of pool {}", self.decoy.name));
        // The last word on a key counts.
        let file = format!("{}\nname = \"{name}\"\n", self.domain_file);
        let create = Create { file, folder: self.folder.to_owned(), paused: false };
        connection.request(&Request::Create(create))?;
        let made = self.settle_and_take(connection, &name, answers);
        // It has its pool's address, so it goes also where no snapshot was taken.
        connection.request(&Request::Destroy { name })?;
        made
    }

    fn settle_and_take(
        &self,
        connection: &mut Connection,
        name: &str,
        answers: impl Fn(SocketAddr) -> Result<bool, Failure>,
    ) -> Result<PathBuf, Failure> {
        if let Some(service) = self.service
            && !answers(service)?
        {
            return Err(Failure::new(format!("the machine of pool {} does not answer", self.decoy.name)));
        }
        std::thread::sleep(SETTLED_AFTER);
        let request = Request::Snapshot { name: name.to_owned(), diff: false, reason: Some(self.key()) };
        let taken = connection.request(&request)?;
        let folder = taken["folder"].as_str().map(PathBuf::from);
        folder.ok_or_else(|| Failure::new("the supervisor does not say where the snapshot is".to_owned()))
    }
}
