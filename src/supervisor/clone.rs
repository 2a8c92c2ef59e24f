//! Clones: domains that go on from one saved domain side by side, each with random state, name and uuid of its own.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use honeyvmm::kernel_image::{KernelImage, KernelImageError};
use introspect::symbols::random_state::RandomStateError;
use introspect::symbols::{Symbols, SymbolsError};
use serde_json::{Value, json};

use super::beginning::{Beginning, Origin};
use super::domain::Domain;
use super::house::{House, HouseError};
use super::network::Seat;
use super::protocol::CloneRequest;
use super::resources;
use super::saved::{self, Saved};
use crate::domain_file::vif::format_mac;
use crate::domain_file::{DomainFile, OnExit};
use crate::uuid;

/// Where Linux maps its own image (Documentation/arch/x86/x86_64/mm.rst); as a paravirtual guest it does not move it.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Kernels that are remembered.
const KERNELS_MAX: usize = 8;
/// Which file a kernel is: device, inode, and when it last changed.
type KernelId = (u64, u64, i64, i64);
/// Pieces of RAM: guest-physical address and length of each.
type Ranges = Vec<(u64, u64)>;
/// Clones of one request.
pub const COUNT_MAX: u32 = 512;

/// Why nothing is cloned.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// Too many, or none.
    #[error("{0} clones are asked for, 1 to {COUNT_MAX} can be made at once")]
    Count(u32),
    /// The kernel of the saved domain.
    #[error("kernel {path} of the saved domain cannot be read")]
    Kernel {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is none.
    #[error("the kernel of the saved domain cannot be understood")]
    Image(#[from] KernelImageError),
    /// It has no symbols.
    #[error("two clones would give the same random bytes")]
    Symbols(#[from] SymbolsError),
    /// Its random state is not known.
    #[error("two clones would give the same random bytes")]
    RandomState(#[from] RandomStateError),
}

/// A snapshot that clones go on from.
pub struct Golden {
    saved: Arc<Saved>,
    renewed: Ranges,
}

impl Golden {
    /// Looks at it once for all clones.
    pub fn open(folder: &Path) -> Result<Golden, HouseError> {
        let saved = Arc::new(Saved::open(folder)?);
        let manifest = saved.manifest();
        let kernel = manifest.domain.kernel.as_ref().map(|kernel| manifest.folder.join(kernel));
        let renewed = random_state(&kernel.unwrap_or_default())?;
        Ok(Golden { saved, renewed })
    }

    /// What they go on from.
    pub fn saved(&self) -> &Arc<Saved> {
        &self.saved
    }

    /// One more clone, under an address of its own.
    fn begin_beside(&self, house: &Arc<House>, name: &str, parked: bool) -> Result<Arc<Domain>, HouseError> {
        let address = house.give_address()?;
        // The next one that gets this address has its MAC too: neighbours remember both for a while.
        let [_, a, b, c] = address.octets();
        let mac = format_mac([0x00, 0x16, 0x3e, a & 0x7f, b, c]);
        let begun = self.begin(house, name, parked, Seat::Outer { mac, address });
        house.take_back_address(address);
        begun
    }

    /// One more clone.
    pub fn begin(
        &self,
        house: &Arc<House>,
        name: &str,
        parked: bool,
        seat: Seat,
    ) -> Result<Arc<Domain>, HouseError> {
        let (uuid, manifest) = (uuid::random(), self.saved.manifest());
        let mut file = DomainFile { name: name.to_owned(), uuid: Some(uuid), ..manifest.domain.clone() };
        // It is a picture of a moment: one that begins anew would be another machine.
        (file.on_poweroff, file.on_reboot, file.on_crash) =
            (OnExit::Destroy, OnExit::Destroy, OnExit::Destroy);
        // Its guest has the MACs that it had, also where they were made of its parent's uuid.
        let parent = manifest.domain.uuid.unwrap_or_default();
        for (index, vif) in file.vifs.iter_mut().enumerate() {
            vif.mac.get_or_insert_with(|| resources::own_mac(parent, index));
        }
        // Inside it has the address that it had; everybody else knows it by another one, or, in a pool, not by its address.
        if let (Seat::Outer { .. } | Seat::Pool { .. }, Some(vif)) = (&seat, file.vifs.first_mut()) {
            vif.ip = vif.ip.or(file.address);
            file.address = match &seat {
                Seat::Outer { address, .. } => Some(*address),
                Seat::Pool { .. } | Seat::Own => None,
            };
        }
        let (origin, renewed) = (Origin::Saved(Arc::clone(&self.saved)), self.renewed.clone());
        house.build(file, manifest.folder.clone(), uuid, Beginning { origin, renewed, parked, seat })
    }
}

/// Makes clones side by side; those that were made stay if a later one cannot be.
pub fn clone(house: &Arc<House>, request: &CloneRequest) -> Result<Value, HouseError> {
    if !(1..=COUNT_MAX).contains(&request.count) {
        return Err(CloneError::Count(request.count).into());
    }
    let golden = Golden::open(&request.snapshot)?;
    let parent = &golden.saved.manifest().domain.name;
    let stem = request.name.clone().unwrap_or_else(|| format!("{parent}-clone"));
    let mut made = Vec::new();
    for number in 1..=request.count {
        let name = if request.count == 1 { stem.clone() } else { format!("{stem}-{number}") };
        made.push(golden.begin_beside(house, &name, request.parked)?);
    }
    let rows: Vec<Value> = made.iter().map(|domain| domain.row()).collect();
    let owner = Arc::clone(house);
    saved::check_beside(Arc::clone(golden.saved()), move |error| {
        made.iter().for_each(|domain| owner.take_down_damaged(domain, error));
    })?;
    Ok(json!(rows))
}

/// Where the kernel keeps its random state in RAM: its image is mapped from guest-physical address 0 on. Reading a kernel takes longer than
/// beginning a clone, so what was found is remembered, as long as the file is the same.
fn random_state(path: &Path) -> Result<Ranges, CloneError> {
    static KNOWN: Mutex<VecDeque<(KernelId, Ranges)>> = Mutex::new(VecDeque::new());
    let unreadable = |source| CloneError::Kernel { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    let id = (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, ranges)) = known().iter().find(|(other, _)| *other == id) {
        return Ok(ranges.clone());
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let ranges = Symbols::of_kernel(&KernelImage::parse(&bytes)?)?.random_state()?;
    let physical = |range: std::ops::Range<honeyvmm::memory::Gva>| {
        (range.start.0.wrapping_sub(KERNEL_MAP), range.end.0 - range.start.0)
    };
    let ranges: Ranges = ranges.into_iter().map(physical).collect();
    let mut known = known();
    known.truncate(KERNELS_MAX - 1);
    known.push_front((id, ranges.clone()));
    Ok(ranges)
}
