//! A disk of base and layer goes into a case as the guest saw it at the pause.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::os::unix::fs::FileExt;

use forensics::{Acquisition, CaseOptions, DiskSource, DomainInfo, RamRange};
use honeyvmm::disk::{Disk, Layer, Mode};
use jiff::Timestamp;
use tempfile::TempDir;

const DISK_BYTES: u64 = 4 << 20;

fn open(path: &std::path::Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn what_the_guest_writes_after_the_pause_is_not_in_the_case() {
    let state = TempDir::new().unwrap();
    let (base_path, layer_path) = (state.path().join("base"), state.path().join("layer"));
    let base = open(&base_path);
    base.set_len(DISK_BYTES).unwrap();
    base.write_all_at(b"of the base", 8192).unwrap();
    let layer = Layer::create(open(&layer_path), DISK_BYTES, [1; 32]).unwrap();
    let mut disk = Disk::new("xvda", File::open(&base_path).unwrap(), Some(layer), Mode::ReadWrite).unwrap();
    disk.write_at(1 << 20, b"before the pause").unwrap();

    let memory = open(&state.path().join("ram"));
    memory.set_len(4096).unwrap();
    let source = Acquisition {
        domain: DomainInfo {
            name: "web".to_owned(),
            domid: 1,
            uuid: String::new(),
            memory_bytes: 4096,
            vcpus: 1,
        },
        memory,
        memory_at: 0,
        ranges: vec![RamRange { gpa: 0, file_offset: 0, bytes: 4096 }],
        vcpus: Vec::new(),
        disks: vec![DiskSource::layered("xvda", File::open(&base_path).unwrap(), Some(open(&layer_path)))],
        kernel: None,
        notes: Vec::new(),
    };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let frozen = forensics::copy_paused(source, state.path(), now).unwrap();
    disk.write_at(1 << 20, b"after the pause!").unwrap();

    let options = CaseOptions { who: "x", tool: "t", chain_head: None, key: None, now };
    let id = forensics::finish(frozen, &state.path().join("evidence"), &options, &|_| {}).unwrap();
    let raw = std::fs::read(state.path().join("evidence").join(id).join("disk-xvda.raw")).unwrap();
    assert_eq!(raw.len() as u64, DISK_BYTES);
    assert!(raw[8192..].starts_with(b"of the base"));
    assert!(raw[1 << 20..].starts_with(b"before the pause"));
}
