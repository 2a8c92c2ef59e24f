//! Which processes wait: some for any domain, and for each kernel that saved domains run some that know it already and will look at one.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::nursery::{Nursery, Spare};
use super::{launch, observer};

/// Processes that wait for a domain: each takes 3 MiB, and 50 ms of a processor to start.
const DOMAINS: usize = 2;
/// Processes that wait to look at a domain with a kernel, once one was restored: each takes 25 MiB.
const OBSERVERS: usize = 2;
/// Kernels that are kept ready; the one that was first wanted longest ago goes.
const KERNELS_MAX: usize = 4;

/// Which file a kernel is: device and inode.
type KernelId = (u64, u64);

/// All of them.
pub struct Spares {
    folder: PathBuf,
    domains: Nursery,
    // Locked for looks and changes only, never while a process is started.
    observers: Mutex<Vec<(KernelId, Arc<Nursery>)>>,
}

impl Spares {
    /// None yet; their logs lie in the file system of this folder.
    pub fn new(folder: PathBuf) -> Spares {
        let logs = folder.clone();
        let domains = Nursery::new(DOMAINS, move || launch::spare(&logs));
        Spares { folder, domains, observers: Mutex::default() }
    }

    /// A process for a domain that begins now.
    pub fn domain(&self) -> io::Result<Spare> {
        self.domains.take()
    }

    /// A process for a domain that is booted: it takes so long that this may start with it.
    pub fn fresh_domain(&self) -> io::Result<Spare> {
        launch::spare(&self.folder)
    }

    /// Those who look at domains with this kernel; none of them wait.
    pub fn fresh_observers(&self, kernel: &File) -> io::Result<Arc<Nursery>> {
        self.nursery(kernel, 0)
    }

    /// Those who look at domains with this kernel; some wait from the next [`Spares::fill`] on.
    pub fn observers(&self, kernel: &File) -> io::Result<Arc<Nursery>> {
        let metadata = kernel.metadata()?;
        let id = (metadata.dev(), metadata.ino());
        let mut observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, nursery)) = observers.iter().find(|(other, _)| *other == id) {
            return Ok(Arc::clone(nursery));
        }
        let nursery = self.nursery(kernel, OBSERVERS)?;
        if observers.len() == KERNELS_MAX {
            observers.remove(0).1.close();
        }
        observers.push((id, Arc::clone(&nursery)));
        Ok(nursery)
    }

    fn nursery(&self, kernel: &File, wanted: usize) -> io::Result<Arc<Nursery>> {
        let (kernel, logs) = (kernel.try_clone()?, self.folder.clone());
        Ok(Arc::new(Nursery::new(wanted, move || observer::spare(&kernel, &logs))))
    }

    /// Starts those that are missing.
    pub fn fill(&self) -> io::Result<()> {
        self.domains.fill()?;
        self.known().iter().try_for_each(|nursery| nursery.fill())
    }

    /// Ends them.
    pub fn close(&self) {
        self.domains.close();
        self.known().iter().for_each(|nursery| nursery.close());
    }

    fn known(&self) -> Vec<Arc<Nursery>> {
        let observers = self.observers.lock().unwrap_or_else(PoisonError::into_inner);
        observers.iter().map(|(_, nursery)| Arc::clone(nursery)).collect()
    }
}
