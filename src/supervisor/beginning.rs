//! How a domain begins: with its kernel's first instruction, where a snapshot left it, or where it stood on another host. What differs between
//! these is here; what a domain is built from otherwise is `launch`'s.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use honeyvmm::config::RamKind;

use super::copying::Memory;
use super::launch::LaunchError;
use super::network::Seat;
use super::nursery::Nursery;
use super::ram::Ram;
use super::resources::{self, Disk};
use super::saved::Saved;
use super::spares::Spares;
use crate::domain_file::DomainFile;

/// When the observer of a domain that boots starts: its kernel wants the processor for itself, and no service listens yet.
const OBSERVED_AFTER: Duration = Duration::from_secs(1);

/// Where a domain's memory and disks come from.
#[derive(Clone, Default)]
pub enum Origin {
    /// A kernel is booted.
    #[default]
    Boot,
    /// It goes on where it was saved.
    Saved(Arc<Saved>),
    /// It goes on where it stood on another host.
    Arrived(Arc<Arrived>),
}

/// A domain that has come from another host.
pub struct Arrived {
    /// `DomainState` as JSON.
    pub state: File,
    /// RAM: a memfd that becomes the domain's own.
    pub ram: File,
    /// What the shim's memory held.
    pub shim: Memory,
    /// The folder that its layers lie in, under the names that they have in a domain's folder.
    pub layers: PathBuf,
}

/// How a domain begins.
#[derive(Clone, Default)]
pub struct Beginning {
    /// Where it comes from.
    pub origin: Origin,
    /// RAM that random bytes are written over before it goes on, by guest-physical address and length.
    pub renewed: Vec<(u64, u64)>,
    /// It stands until it is unpaused.
    pub parked: bool,
    /// What its first vif is in the switch.
    pub seat: Seat,
}

impl Origin {
    /// Whether it goes on, rather than begins.
    pub fn goes_on(&self) -> bool {
        !matches!(self, Origin::Boot)
    }

    /// The snapshot that it goes on from.
    pub fn saved(&self) -> Option<&Arc<Saved>> {
        match self {
            Origin::Saved(saved) => Some(saved),
            Origin::Boot | Origin::Arrived(_) => None,
        }
    }

    /// Its RAM, also as what it is handed in, with the shim's memory filled.
    pub fn ram(&self, file: &DomainFile, shim: &File) -> Result<Ram, LaunchError> {
        let bytes = file.memory_mib << 20;
        match self {
            Origin::Boot => Ok(Ram::booted(resources::ram(file.memory_mib)?, bytes)),
            Origin::Saved(saved) => {
                resources::available(file.memory_mib)?;
                saved.fill_shim(shim)?;
                Ok(Ram::restored(saved.ram()?, bytes))
            }
            Origin::Arrived(arrived) => {
                let wrong = |source| resources::ResourceError::Make { what: "the memory that came", source };
                arrived.shim.write(shim).map_err(wrong)?;
                Ok(Ram::booted(arrived.ram.try_clone().map_err(wrong)?, bytes))
            }
        }
    }

    /// What that RAM is to the domain's process.
    pub fn ram_kind(&self) -> RamKind {
        match self {
            Origin::Boot | Origin::Arrived(_) => RamKind::Own,
            Origin::Saved(_) => RamKind::Snapshot,
        }
    }

    /// Its disks; layers lie in `own`.
    pub fn disks(&self, file: &DomainFile, folder: &Path, own: &Path) -> Result<Vec<Disk>, LaunchError> {
        Ok(match self {
            Origin::Boot => resources::disks(file, folder, own)?,
            Origin::Saved(saved) => resources::restored_disks(file, folder, own, &|vdev| saved.layers(vdev))?,
            Origin::Arrived(arrived) => resources::arrived_disks(file, folder, own, &arrived.layers)?,
        })
    }

    /// The state that it goes on with.
    pub fn state(&self) -> Option<&File> {
        match self {
            Origin::Boot => None,
            Origin::Saved(saved) => Some(&saved.state),
            Origin::Arrived(arrived) => Some(&arrived.state),
        }
    }

    /// Who will look at it: processes that wait already, for one that goes on.
    pub fn observers(&self, spares: &Spares, kernel: &File) -> std::io::Result<Arc<Nursery>> {
        if self.goes_on() { spares.observers(kernel) } else { spares.fresh_observers(kernel) }
    }

    /// How long after its start it is observed.
    pub fn observed_after(&self) -> Duration {
        if self.goes_on() { Duration::ZERO } else { OBSERVED_AFTER }
    }
}
