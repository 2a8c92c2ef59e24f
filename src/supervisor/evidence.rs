//! What is taken from a domain from outside: cases, baselines, checks. The domain stands still only while bytes are copied.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use events::{Event, EventId};
use forensics::{Acquisition, CaseKey, CaseOptions, DiskSource, OpenedDisk, RamRange, VcpuRegs};
use honeyvmm::disk::{Below, View};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::copying::{Folder, Rest};
use super::dashboard;
use super::domain::{Domain, Life};
use super::house::{House, HouseError};
use super::resources::{self, Disk};
use super::snapshot;
use crate::snapshot::{SavedError, store};

/// Why nothing was taken.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The domain has no disk.
    #[error("domain {name} has no disk")]
    NoDisk {
        /// The domain.
        name: String,
    },
    /// A disk cannot be read or copied.
    #[error("disk {vdev} of domain {name} cannot be read")]
    Disk {
        /// The domain.
        name: String,
        /// The disk.
        vdev: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No baseline was made.
    #[error("domain {name} has no baseline: make one with `honeynet fim baseline {name}`")]
    NoBaseline {
        /// The domain.
        name: String,
    },
    /// The baseline is no baseline.
    #[error("the baseline of domain {name} cannot be used")]
    Baseline {
        /// The domain.
        name: String,
        /// Why.
        #[source]
        source: fim::BaselineError,
    },
    /// The disk holds no file system that can be read.
    #[error("the files of domain {name} cannot be read")]
    Scan {
        /// The domain.
        name: String,
        /// Why.
        #[source]
        source: fim::ScanError,
    },
    /// A case was not written.
    #[error("no case of domain {name}")]
    Acquire {
        /// The domain.
        name: String,
        /// Why.
        #[source]
        source: forensics::AcquireError,
    },
    /// The key that signs cases.
    #[error("cases cannot be signed")]
    Key(#[from] forensics::KeyError),
    /// A file of ours.
    #[error("{what} cannot be written")]
    Write {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Does `work` while the domain stands still, and lets it go on whatever comes of it.
fn standing_still<T>(
    house: &House,
    domain: &Domain,
    work: impl FnOnce(Option<Value>) -> Result<T, HouseError>,
) -> Result<T, HouseError> {
    if domain.life() != Life::Running {
        // Paused or ended: nothing moves, and nothing is known of its registers.
        return work(None);
    }
    let registers = house.pause(domain)?;
    let done = work(Some(registers));
    let resumed = house.unpause(domain);
    let done = done?;
    resumed?;
    Ok(done)
}

/// Memory and disks of a domain into a case; answers its id and folder, and how long the domain stood still.
pub fn pull(house: &House, domain: &Domain, reason: Option<String>) -> Result<Value, HouseError> {
    let who = (domain.file.name.as_str(), Some(domain.domid));
    if is_copied_while_it_runs(domain) {
        let (folder, standing, pause) = snapshot::passing_copy(domain, &temporary(house, "pull", domain))?;
        let source = acquisition_of(domain, &folder, &standing.rest, reason.clone())?;
        return write_case(house, who, source, pause, reason);
    }
    let (desk, begun) = (Desk::open(house, who.0)?, Instant::now());
    let (frozen, pause) = standing_still(house, domain, |registers| {
        let source = acquisition(domain, registers, reason.clone())?;
        let frozen =
            forensics::copy_paused(source, &desk.evidence, desk.now).map_err(|source| desk.wrong(source))?;
        Ok((frozen, begun.elapsed()))
    })?;
    desk.write(house, who.1, frozen, pause, reason)
}

/// What was copied already into a case.
pub fn write_case(
    house: &House,
    (name, domid): (&str, Option<u32>),
    source: Acquisition,
    pause: Duration,
    reason: Option<String>,
) -> Result<Value, HouseError> {
    let desk = Desk::open(house, name)?;
    let frozen = forensics::copied(source, desk.now, pause).map_err(|source| desk.wrong(source))?;
    desk.write(house, domid, frozen, pause, reason)
}

/// Where a case is written, and with what.
struct Desk {
    name: String,
    evidence: PathBuf,
    key: CaseKey,
    now: Timestamp,
}

impl Desk {
    fn open(house: &House, name: &str) -> Result<Desk, EvidenceError> {
        let evidence = house.state.evidence();
        let made = house.state.make(&evidence);
        made.map_err(|source| EvidenceError::Write { what: "the evidence folder", source })?;
        let key = CaseKey::load_or_create(&house.state.keys())?;
        Ok(Desk { name: name.to_owned(), evidence, key, now: Timestamp::now() })
    }

    fn wrong(&self, source: forensics::AcquireError) -> EvidenceError {
        EvidenceError::Acquire { name: self.name.clone(), source }
    }

    fn write(
        &self,
        house: &House,
        domid: Option<u32>,
        frozen: forensics::Frozen,
        pause: Duration,
        reason: Option<String>,
    ) -> Result<Value, HouseError> {
        let tool = concat!("honeynet ", env!("CARGO_PKG_VERSION"));
        let (key, now) = (Some(&self.key), self.now);
        let options = CaseOptions { who: "supervisor", tool, chain_head: None, key, now };
        let written = forensics::finish(frozen, &self.evidence, &options, &|_| {});
        let id = written.map_err(|source| self.wrong(source))?;
        let folder = self.evidence.join(&id);
        dashboard::share_case(&folder)
            .map_err(|source| EvidenceError::Write { what: "the case's permissions", source })?;
        let event = Event::new(EventId::CaseCreated, Timestamp::now()).domain(self.name.clone(), domid);
        house.announcer.event(event.with("case", id.clone()).with("reason", reason.unwrap_or_default()));
        Ok(json!({ "case": id, "folder": folder, "pause_ms": pause.as_secs_f64() * 1e3 }))
    }
}

/// Else its memory is what it left, or its image itself is written and nothing tells what changes.
fn is_copied_while_it_runs(domain: &Domain) -> bool {
    let layered = domain.disks().iter().all(|disk| disk.spec.read_only || disk.layer.is_some());
    layered && matches!(domain.life(), Life::Running | Life::Paused)
}

/// A folder for what is thrown away again.
fn temporary(house: &House, what: &str, domain: &Domain) -> PathBuf {
    house.state.run().join(format!("{what}-{}-{}.new", domain.domid, store::id_of(Timestamp::now())))
}

/// Memory of a domain as an ELF core. It stands still only for the last pages.
pub fn dump_core(house: &House, domain: &Domain, file: &Path) -> Result<Value, HouseError> {
    let written = write_core(house, domain, file);
    if let Err(error) = &written
        && !matches!(error, HouseError::Saved(SavedError::Exists(_)))
    {
        // Half a core is none; it was made here.
        let _ = std::fs::remove_file(file);
    }
    Ok(json!({ "file": file, "pause_ms": written?.as_secs_f64() * 1e3 }))
}

fn write_core(house: &House, domain: &Domain, file: &Path) -> Result<Duration, HouseError> {
    let wrong = |source| EvidenceError::Write { what: "the core", source };
    if file.exists() {
        return Err(SavedError::Exists(file.to_owned()).into());
    }
    let out = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(file);
    let out = out.map_err(wrong)?;
    let ranges = [ram_range(domain)];
    let write = |memory: &File, vcpus: &[VcpuRegs]| {
        forensics::write_core(memory, &ranges, vcpus, &out).map_err(wrong)
    };
    let pause = if is_copied_while_it_runs(domain) {
        let path = temporary(house, "core", domain);
        let (folder, standing, pause) = snapshot::passing_copy(domain, &path)?;
        let vcpus = read_registers(standing.rest.registers.clone()).unwrap_or_default();
        write(folder.ram(), &vcpus)?;
        pause
    } else {
        let copy = tempfile::tempfile_in(house.state.run()).map_err(wrong)?;
        let begun = Instant::now();
        let (vcpus, pause) = standing_still(house, domain, |registers| {
            domain.ram.copy_to(&copy).map_err(wrong)?;
            Ok((registers.and_then(read_registers).unwrap_or_default(), begun.elapsed()))
        })?;
        write(&copy, &vcpus)?;
        pause
    };
    Ok(pause)
}

fn ram_range(domain: &Domain) -> RamRange {
    RamRange { gpa: 0, file_offset: 0, bytes: domain.file.memory_mib << 20 }
}

/// What was copied while the domain ran, to be written as a case.
fn acquisition_of(
    domain: &Domain,
    folder: &Folder,
    rest: &Rest,
    reason: Option<String>,
) -> Result<Acquisition, EvidenceError> {
    let memory = folder.ram().try_clone();
    let memory = memory.map_err(|source| EvidenceError::Write { what: "a copy of the RAM", source })?;
    let disk = |disk: &Disk| {
        if disk.spec.read_only {
            return disk_source(domain, disk);
        }
        let opened = disk.base.try_clone().and_then(|base| Ok((base, folder.layers(&disk.spec.vdev)?)));
        let (base, layers) = opened.map_err(|source| unreadable(domain, disk, source))?;
        let open = move |_: Option<File>| {
            let below = Below::new(base, layers).map_err(io::Error::other)?;
            opened_disk(View::new(below, None).map_err(io::Error::other)?)
        };
        Ok(DiskSource { name: disk.spec.vdev.clone(), changing: None, open: Box::new(open) })
    };
    let disks = domain.disks().iter().map(disk).collect::<Result<_, _>>()?;
    about(domain, (memory, 0), disks, Some(rest.registers.clone()), reason)
}

/// A view as a case takes it.
pub fn opened_disk(view: View) -> io::Result<OpenedDisk> {
    let (bytes, allocated) = (view.bytes(), view.allocated()?);
    Ok(OpenedDisk { reader: Box::new(view), bytes, allocated })
}

fn acquisition(
    domain: &Domain,
    registers: Option<Value>,
    reason: Option<String>,
) -> Result<Acquisition, EvidenceError> {
    let memory =
        domain.ram.reader().map_err(|source| EvidenceError::Write { what: "a copy of the RAM", source })?;
    let disks = domain.disks().iter().map(|disk| disk_source(domain, disk)).collect::<Result<_, _>>()?;
    about(domain, memory, disks, registers, reason)
}

fn about(
    domain: &Domain,
    (memory, memory_at): (File, u64),
    disks: Vec<DiskSource>,
    registers: Option<Value>,
    reason: Option<String>,
) -> Result<Acquisition, EvidenceError> {
    let memory_bytes = domain.file.memory_mib << 20;
    let mut notes: Vec<String> = reason.into_iter().collect();
    let kernel = domain.kernel.try_clone();
    // It costs the symbols, not the case.
    let kernel =
        kernel.map_err(|error| notes.push(format!("no symbols for Volatility: kernel: {error}"))).ok();
    let vcpus = registers.and_then(read_registers).unwrap_or_else(|| {
        notes.push("the registers of the vcpus are not known".to_owned());
        Vec::new()
    });
    if disks.is_empty() && !domain.file.disks.is_empty() {
        notes.push("the disks are with the domain that was started in its place".to_owned());
    }
    let info = forensics::DomainInfo {
        name: domain.file.name.clone(),
        domid: domain.domid,
        uuid: crate::uuid::text(domain.uuid),
        memory_bytes,
        vcpus: domain.file.maxvcpus,
    };
    let ranges = vec![ram_range(domain)];
    Ok(Acquisition { domain: info, memory, memory_at, ranges, vcpus, disks, kernel, notes })
}

fn read_registers(answer: Value) -> Option<Vec<VcpuRegs>> {
    serde_json::from_value(answer.get("vcpus")?.clone()).ok()
}

fn disk_source(domain: &Domain, disk: &Disk) -> Result<DiskSource, EvidenceError> {
    let wrong =
        |source| EvidenceError::Disk { name: domain.file.name.clone(), vdev: disk.spec.vdev.clone(), source };
    let below = disk.below().map_err(|error| wrong(io::Error::other(error)))?;
    let layered = disk.layer.is_some();
    let changing = match (&disk.layer, disk.spec.read_only) {
        (Some(layer), _) => Some(layer.try_clone().map_err(wrong)?),
        (None, false) => Some(disk.base.try_clone().map_err(wrong)?),
        (None, true) => None,
    };
    let open = move |copy: Option<File>| {
        let view = match (layered, copy) {
            (true, layer) => View::new(below, layer),
            (false, Some(copy)) => View::new(copy, None),
            (false, None) => View::new(below, None),
        };
        opened_disk(view.map_err(io::Error::other)?)
    };
    Ok(DiskSource { name: disk.spec.vdev.clone(), changing, open: Box::new(open) })
}

/// Makes a baseline: of the image as it was built where there is one under a layer, else of the disk as it is now.
pub fn baseline(house: &House, domain: &Domain) -> Result<Value, HouseError> {
    let name = domain.file.name.clone();
    let disk = root_disk(domain)?;
    let view = match disk.layer {
        Some(_) => original(domain, disk)?,
        None => standing_still(house, domain, |_| Ok(copy_of(house, domain, disk)?))?,
    };
    let made = fim::baseline(&fim::Policy::debian(), view, &name, Timestamp::now(), &mut |_| {});
    let baseline = made.map_err(|source| EvidenceError::Scan { name: name.clone(), source })?;
    let folder = house.state.baselines();
    let path = folder.join(format!("{name}.baseline"));
    let written = house.state.make(&folder).and_then(|()| std::fs::write(&path, baseline.to_bytes()));
    written.map_err(|source| EvidenceError::Write { what: "the baseline", source })?;
    Ok(json!({ "baseline": path, "entries": baseline.scan.entries.len() }))
}

/// Checks a domain's disk against its baseline; changes are events.
pub fn check(house: &House, domain: &Domain) -> Result<Value, HouseError> {
    let name = domain.file.name.clone();
    let disk = root_disk(domain)?;
    let path = house.state.baselines().join(format!("{name}.baseline"));
    if !path.exists() && disk.layer.is_some() {
        // The image under the layer is what the decoy was when it was built.
        baseline(house, domain)?;
    }
    let bytes = std::fs::read(&path).map_err(|_| EvidenceError::NoBaseline { name: name.clone() })?;
    let known = fim::Baseline::parse(&bytes)
        .map_err(|source| EvidenceError::Baseline { name: name.clone(), source })?;
    let view = standing_still(house, domain, |_| Ok(copy_of(house, domain, disk)?))?;
    let checked = fim::check(&fim::Policy::debian(), &known, view, Timestamp::now(), &mut |_| {});
    let report = checked.map_err(|source| EvidenceError::Scan { name, source })?;
    for event in fim::changes_to_events(&report, &domain.name(), Some(domain.domid)) {
        house.announcer.event(event);
    }
    Ok(json!({ "clean": report.is_clean(), "report": report.to_json(), "text": report.to_text() }))
}

fn root_disk(domain: &Domain) -> Result<&Disk, EvidenceError> {
    domain.disks().first().ok_or_else(|| EvidenceError::NoDisk { name: domain.file.name.clone() })
}

fn original(domain: &Domain, disk: &Disk) -> Result<View, EvidenceError> {
    let view = disk.base.try_clone().and_then(|base| View::new(base, None).map_err(io::Error::other));
    view.map_err(|source| unreadable(domain, disk, source))
}

/// A view of the disk that stays as it is while the domain runs on: what changes is copied.
fn copy_of(house: &House, domain: &Domain, disk: &Disk) -> Result<View, EvidenceError> {
    let view = || {
        let copy = |file: &File| resources::copy_to_temporary(file, &house.state.run());
        let view = match (&disk.layer, disk.spec.read_only) {
            (Some(layer), _) => View::new(disk.below().map_err(io::Error::other)?, Some(copy(layer)?)),
            (None, false) => View::new(copy(&disk.base)?, None),
            (None, true) => View::new(disk.base.try_clone()?, None),
        };
        view.map_err(io::Error::other)
    };
    view().map_err(|source| unreadable(domain, disk, source))
}

fn unreadable(domain: &Domain, disk: &Disk, source: io::Error) -> EvidenceError {
    EvidenceError::Disk { name: domain.file.name.clone(), vdev: disk.spec.vdev.clone(), source }
}
