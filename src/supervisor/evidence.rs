//! What is taken from a domain from outside: cases, baselines, checks. The domain stands still only while bytes are copied.

use std::fs::File;
use std::io;

use events::{Event, EventId};
use forensics::{Acquisition, CaseKey, CaseOptions, DiskSource, OpenedDisk, RamRange, VcpuRegs};
use honeyvmm::disk::View;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::dashboard;
use super::domain::{Domain, Life, uuid_text};
use super::house::{House, HouseError};
use super::resources::{self, Disk};

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

/// Memory and disks of a domain into a case; answers its id and folder.
pub fn snapshot(house: &House, domain: &Domain, reason: Option<String>) -> Result<Value, HouseError> {
    let name = domain.file.name.clone();
    let evidence = house.state.evidence();
    house
        .state
        .make(&evidence)
        .map_err(|source| EvidenceError::Write { what: "the evidence folder", source })?;
    let key = CaseKey::load_or_create(&house.state.keys()).map_err(EvidenceError::Key)?;
    let now = Timestamp::now();
    let frozen = standing_still(house, domain, |registers| {
        let source = acquisition(domain, registers, reason.clone())?;
        let copied = forensics::copy_paused(source, &evidence, now);
        Ok(copied.map_err(|source| EvidenceError::Acquire { name: name.clone(), source })?)
    })?;
    let tool = concat!("honeynet ", env!("CARGO_PKG_VERSION"));
    let options = CaseOptions { who: "supervisor", tool, chain_head: None, key: Some(&key), now };
    let written = forensics::finish(frozen, &evidence, &options, &|_| {});
    let id = written.map_err(|source| EvidenceError::Acquire { name: name.clone(), source })?;
    dashboard::share_case(&evidence.join(&id))
        .map_err(|source| EvidenceError::Write { what: "the case's permissions", source })?;
    let event = Event::new(EventId::CaseCreated, Timestamp::now()).domain(domain.name(), Some(domain.domid));
    house.announcer.event(event.with("case", id.clone()).with("reason", reason.unwrap_or_default()));
    Ok(json!({ "case": id, "folder": evidence.join(&id) }))
}

fn acquisition(
    domain: &Domain,
    registers: Option<Value>,
    reason: Option<String>,
) -> Result<Acquisition, EvidenceError> {
    let memory_bytes = domain.file.memory_mib << 20;
    let (memory, memory_at) =
        domain.ram.reader().map_err(|source| EvidenceError::Write { what: "a copy of the RAM", source })?;
    let disks: Vec<_> =
        domain.disks().iter().map(|disk| disk_source(domain, disk)).collect::<Result<_, _>>()?;
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
        uuid: uuid_text(domain.uuid),
        memory_bytes,
        vcpus: domain.file.maxvcpus,
    };
    let ranges = vec![RamRange { gpa: 0, file_offset: 0, bytes: memory_bytes }];
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
        let view = view.map_err(io::Error::other)?;
        let (bytes, allocated) = (view.bytes(), view.allocated()?);
        Ok(OpenedDisk { reader: Box::new(view), bytes, allocated })
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
