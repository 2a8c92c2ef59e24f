//! A domain as what is copied: RAM, layers, and its log of what is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use fixedbitset::FixedBitSet;
use honeyvmm::dirty::{LogRequest, runs};
use honeyvmm::disk::{CLUSTER_BYTES, LayerReader};
use serde_json::{Value, json};

use super::super::domain::Domain;
use super::super::resources::Disk;
use super::{CopyError, Scope, Target, Turn, Written};
use crate::sparse;

const PAGE_BYTES: u64 = 4096;
/// Pages or clusters that are read at once.
const RUN_MAX: usize = 256;

/// Memory that is little: what of it is no hole.
#[derive(Debug, Default)]
pub struct Memory {
    bytes: u64,
    runs: Vec<(u64, Vec<u8>)>,
}

impl Memory {
    /// So many bytes, all holes.
    pub fn empty(bytes: u64) -> Memory {
        Memory { bytes, runs: Vec::new() }
    }

    /// Adds a run behind those that are there; one that does not lie behind them, or not within, is refused.
    pub fn push(&mut self, at: u64, run: Vec<u8>) -> io::Result<()> {
        let end = self.runs.last().map_or(0, |(at, run)| at + run.len() as u64);
        if at < end || at.saturating_add(run.len() as u64) > self.bytes {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.runs.push((at, run));
        Ok(())
    }

    /// What is no hole.
    pub fn runs(&self) -> &[(u64, Vec<u8>)] {
        &self.runs
    }

    /// What a file holds.
    pub fn read(file: &File) -> io::Result<Memory> {
        let read = |range: std::ops::Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start).map(|()| (range.start, bytes))
        };
        let runs = sparse::extents(file)?.into_iter().map(read).collect::<io::Result<_>>()?;
        Ok(Memory { bytes: file.metadata()?.len(), runs })
    }

    /// Writes it to a file that is empty.
    pub fn write(&self, file: &File) -> io::Result<()> {
        file.set_len(self.bytes)?;
        self.runs.iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at))
    }
}

/// A domain that is copied.
pub struct Source<'a> {
    domain: &'a Domain,
    /// Where its RAM is read, and where it begins there.
    ram: (File, u64),
    /// Own layers of its disks that are not only read.
    layers: Vec<(String, LayerReader)>,
}

impl<'a> Source<'a> {
    /// Opens its parts for reading.
    pub fn open(domain: &'a Domain) -> Result<Source<'a>, CopyError> {
        let ram = domain.ram.reader().map_err(memory(domain))?;
        let open = |disk: &Disk| {
            let layer = disk.layer.as_ref()?.try_clone().map_err(Into::into).and_then(LayerReader::open);
            let vdev = disk.spec.vdev.clone();
            let wrong = |source| CopyError::Disk { name: domain.name(), vdev: vdev.clone(), source };
            Some(layer.map_err(wrong).map(|layer| (vdev.clone(), layer)))
        };
        let layers = domain.disks().iter().filter_map(open).collect::<Result<_, _>>()?;
        Ok(Source { domain, ram, layers })
    }

    /// A request to the domain's process.
    pub fn request(&self, op: &str) -> Result<Value, CopyError> {
        self.send_request(&json!({ "op": op }))
    }

    /// A request to its log.
    pub fn ask(&self, what: LogRequest) -> Result<(), CopyError> {
        self.send_request(&json!({ "op": "dirty-log", "what": what })).map(drop)
    }

    fn send_request(&self, request: &Value) -> Result<Value, CopyError> {
        let answer = self.domain.control.send(request);
        answer.map_err(|source| CopyError::Control { name: self.domain.name(), source })
    }

    /// What was written since this was last asked. It is kept for the next diff as well.
    pub fn take(&self, turn: &mut Turn) -> Result<Written, CopyError> {
        self.ask(LogRequest::Collect)?;
        let taken = self.domain.copies.take();
        if let Some(last) = &mut turn.last {
            last.since.add(&taken);
        }
        Ok(taken)
    }

    /// The first round; from its begin on, what is written is in the log.
    pub fn first(
        &self,
        turn: &mut Turn,
        scope: Scope,
        target: &mut dyn Target,
    ) -> Result<Written, CopyError> {
        self.take(turn)?;
        let disks = || {
            let held = |(vdev, layer): &(String, LayerReader)| layer.held().map_err(disk(self.domain, vdev));
            self.layers.iter().map(held).collect::<Result<Vec<_>, _>>()
        };
        let ram = &self.domain.ram;
        match scope {
            Scope::SinceLast => {
                let since = turn.last.as_ref().map(|last| last.since.clone()).unwrap_or_default();
                self.send(&since, target)?;
            }
            Scope::SinceRestored => {
                let own = ram.own_pages().map_err(memory(self.domain))?;
                self.send(&Written { ram: own, disks: disks()? }, target)?;
            }
            Scope::Everything => {
                let mut all = ram.file_pages().map_err(memory(self.domain))?;
                let own = ram.own_pages().map_err(memory(self.domain))?;
                all.difference_with(&own);
                // Of a restored domain these are its snapshot's, and reading them there leaves its process as small as it is.
                self.send_pages(&all, (ram.file(), 0), target)?;
                self.send(&Written { ram: own, disks: disks()? }, target)?;
            }
        }
        Ok(Written::default())
    }

    /// Sends these pages and clusters as they are now.
    pub fn send(&self, written: &Written, target: &mut dyn Target) -> Result<(), CopyError> {
        self.send_pages(&written.ram, (&self.ram.0, self.ram.1), target)?;
        for (index, (set, layer)) in written.disks.iter().zip(&self.layers).enumerate() {
            send_clusters(self.domain, index, layer, set, target)?;
        }
        Ok(())
    }

    fn send_pages(
        &self,
        pages: &FixedBitSet,
        (file, at): (&File, u64),
        target: &mut dyn Target,
    ) -> Result<(), CopyError> {
        let mut bytes = vec![0; RUN_MAX * PAGE_BYTES as usize];
        for run in runs(pages, RUN_MAX) {
            let part = &mut bytes[..run.len() * PAGE_BYTES as usize];
            file.read_exact_at(part, at + run.start as u64 * PAGE_BYTES).map_err(memory(self.domain))?;
            target.pages(run.start as u64, part).map_err(broken(self.domain))?;
        }
        Ok(())
    }
}

/// Sends all that a layer holds as clusters of this disk.
pub fn send_layer(
    domain: &Domain,
    index: usize,
    of: &Disk,
    layer: &File,
    target: &mut dyn Target,
) -> Result<(), CopyError> {
    let vdev = of.spec.vdev.clone();
    let opened = layer.try_clone().map_err(Into::into).and_then(LayerReader::open);
    let layer =
        opened.map_err(|source| CopyError::Disk { name: domain.name(), vdev: vdev.clone(), source })?;
    let held = layer.held().map_err(disk(domain, &vdev))?;
    send_clusters(domain, index, &(vdev, layer), &held, target)
}

fn send_clusters(
    domain: &Domain,
    index: usize,
    (vdev, layer): &(String, LayerReader),
    clusters: &FixedBitSet,
    target: &mut dyn Target,
) -> Result<(), CopyError> {
    let mut bytes = vec![0; RUN_MAX * CLUSTER_BYTES as usize];
    for run in runs(clusters, RUN_MAX) {
        let part = &mut bytes[..run.len() * CLUSTER_BYTES as usize];
        layer.read(run.start as u64, part).map_err(disk(domain, vdev))?;
        target.clusters(index, run.start as u64, part).map_err(broken(domain))?;
    }
    Ok(())
}

fn broken(domain: &Domain) -> impl Fn(io::Error) -> CopyError {
    let name = domain.name();
    move |source| CopyError::Target { name: name.clone(), source }
}

fn disk(domain: &Domain, vdev: &str) -> impl Fn(io::Error) -> CopyError {
    let (name, vdev) = (domain.name(), vdev.to_owned());
    move |source| CopyError::Disk { name: name.clone(), vdev: vdev.clone(), source: source.into() }
}

fn memory(domain: &Domain) -> impl Fn(io::Error) -> CopyError {
    let name = domain.name();
    move |source| CopyError::Memory { name: name.clone(), source }
}
