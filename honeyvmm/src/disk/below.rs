//! What lies below a domain's own layer: the base image, and over it perhaps layers that nobody writes any more, those of snapshots.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::header::HeaderError;
use super::layer::{data_offset, read_header, whole_map};
use super::map::Map;
use super::{BaseId, CLUSTER_BYTES, DiskError, file_bytes};

/// Layers below a domain's own; each costs every read a look.
pub const FROZEN_MAX: usize = 16;

/// An image and the frozen layers over it. Nothing of it is ever written while it is below something.
#[derive(Debug)]
pub struct Below {
    image: File,
    // The highest last.
    frozen: Vec<Frozen>,
}

#[derive(Debug)]
struct Frozen {
    file: File,
    map: Map,
    base_id: BaseId,
}

impl From<File> for Below {
    fn from(image: File) -> Self {
        Self { image, frozen: Vec::new() }
    }
}

impl Below {
    /// An image and layers over it, the lowest first.
    ///
    /// # Errors
    /// [`DiskError::Header`] for one that is no layer, is damaged or belongs to another image; too many of them.
    pub fn new(image: File, layers: Vec<File>) -> Result<Self, DiskError> {
        if layers.len() > FROZEN_MAX {
            return Err(DiskError::TooDeep(layers.len()));
        }
        let bytes = file_bytes(&image)?;
        let mut below = Self::from(image);
        for file in layers {
            let header = read_header(&file)?;
            let same = below.frozen.iter().all(|frozen| frozen.base_id == header.base_id);
            if header.disk_bytes != bytes || !same {
                return Err(HeaderError::OtherBase.into());
            }
            let map = whole_map(&file, bytes)?;
            below.frozen.push(Frozen { file, map, base_id: header.base_id });
        }
        Ok(below)
    }

    /// The image.
    pub(super) fn image(&self) -> &File {
        &self.image
    }

    /// How many places there are: the image is place 0.
    pub(super) fn places(&self) -> usize {
        self.frozen.len() + 1
    }

    /// The place that holds a cluster.
    pub(super) fn place(&self, cluster: u64) -> usize {
        self.frozen.iter().rposition(|frozen| frozen.map.holds(cluster)).map_or(0, |index| index + 1)
    }

    /// A place's file, and where in it a byte of the disk lies.
    pub(super) fn at(&self, place: usize, offset: u64) -> (&File, u64) {
        match place.checked_sub(1).and_then(|index| self.frozen.get(index)) {
            Some(frozen) => (&frozen.file, data_offset(offset)),
            None => (&self.image, offset),
        }
    }

    /// The bytes of (a piece of) one cluster.
    pub(super) fn read_cluster(&self, cluster: u64, out: &mut [u8]) -> io::Result<()> {
        let (file, offset) = self.at(self.place(cluster), cluster * CLUSTER_BYTES);
        file.read_exact_at(out, offset)
    }
}
