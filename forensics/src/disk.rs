//! The disks of our domains as sources of an acquisition: a base image with its layer, or one file.

use std::fs::File;
use std::io;

use honeyvmm::disk::View;

use crate::acquire::{DiskSource, OpenedDisk};

impl DiskSource {
    /// A disk of a base image that nobody writes and perhaps a copy-on-write layer, which is copied under the pause.
    pub fn layered(name: &str, base: File, layer: Option<File>) -> DiskSource {
        let open = move |copy: Option<File>| {
            let view = View::new(base, copy).map_err(io::Error::other)?;
            let (bytes, allocated) = (view.bytes(), view.allocated()?);
            Ok(OpenedDisk { reader: Box::new(view), bytes, allocated })
        };
        DiskSource { name: name.to_owned(), changing: layer, open: Box::new(open) }
    }

    /// A disk in one file that the guest writes in place: all of it is copied under the pause.
    pub fn in_place(name: &str, file: File) -> DiskSource {
        let open = |copy: Option<File>| {
            let file = copy.ok_or_else(|| io::Error::other("there is no copy"))?;
            let bytes = file.metadata()?.len();
            let allocated = crate::sparse::data_ranges(&file, 0..bytes)?;
            Ok(OpenedDisk { reader: Box::new(file), bytes, allocated })
        };
        DiskSource { name: name.to_owned(), changing: Some(file), open: Box::new(open) }
    }
}
