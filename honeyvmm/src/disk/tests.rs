//! Disks on real files: a model of plain bytes beside them, readers in other "processes" (other open files), refusals.

use std::io::{Read, Seek, SeekFrom};

use super::*;
use crate::memory::Region;

const DISK_BYTES: u64 = 40 * CLUSTER_BYTES + 1536;
const ID: BaseId = [3; 32];

struct Images {
    dir: tempfile::TempDir,
    content: Vec<u8>,
}

impl Images {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..DISK_BYTES).map(|i| (i / 7 + i / 4096) as u8 | 1).collect();
        std::fs::write(dir.path().join("base"), &content).unwrap();
        Self { dir, content }
    }

    fn file(&self, name: &str) -> File {
        let path = self.dir.path().join(name);
        File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    }

    fn fresh(&self) -> Disk {
        let layer = Layer::create(self.file("layer"), DISK_BYTES, ID).unwrap();
        Disk::new("test", self.file("base"), Some(layer), Mode::ReadWrite).unwrap()
    }

    fn again(&self) -> Disk {
        let layer = Layer::open(self.file("layer"), DISK_BYTES, ID).unwrap();
        Disk::new("test", self.file("base"), Some(layer), Mode::ReadWrite).unwrap()
    }

    fn view(&self) -> View {
        View::new(self.file("base"), Some(self.file("layer"))).unwrap()
    }
}

fn whole(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; DISK_BYTES as usize];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Numbers that differ from each other but not from run to run (Marsaglia's xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn random_writes_and_discards_leave_what_a_plain_array_would_hold() {
    let images = Images::new();
    let mut disk = images.fresh();
    let mut model = images.content.clone();
    let mut dice = Dice(88_172_645_463_325_252);
    for step in 0..600 {
        let offset = dice.below(DISK_BYTES);
        let len = 1 + dice.below((DISK_BYTES - offset).min(5 * CLUSTER_BYTES));
        let range = offset as usize..(offset + len) as usize;
        if dice.below(4) == 0 {
            disk.discard(offset, len).unwrap();
            let first = offset.next_multiple_of(CLUSTER_BYTES) as usize;
            let end = offset + len;
            let last = if end == DISK_BYTES { end } else { end / CLUSTER_BYTES * CLUSTER_BYTES } as usize;
            if first < last {
                model[first..last].fill(0);
            }
        } else {
            let data: Vec<u8> = (0..len).map(|i| (i + step) as u8).collect();
            disk.write_at(offset, &data).unwrap();
            model[range].copy_from_slice(&data);
        }
        if step % 20 == 0 {
            assert!(whole(&disk) == model, "step {step}");
        }
    }
    let mut seen = Vec::new();
    images.view().read_to_end(&mut seen).unwrap();
    assert!(seen == model, "the view differs");
    // No flush, no orderly end: what a killed process leaves.
    drop(disk);
    assert!(whole(&images.again()) == model, "the disk opened again differs");
    assert!(std::fs::read(images.dir.path().join("base")).unwrap() == images.content, "the base was written");
}

#[test]
fn guest_memory_is_read_and_written_across_layer_and_base() {
    let images = Images::new();
    let mut disk = images.fresh();
    let ram = Region::anonymous(Gpa(0), 16 * 4096).unwrap();
    ram.write(Gpa(0x1200), &[0xaa; 512]).unwrap();
    ram.write(Gpa(0x5000), &[0xbb; 4096]).unwrap();
    disk.write_from_guest(4096 - 512, &ram, &[(Gpa(0x1200), 512), (Gpa(0x5000), 4096)]).unwrap();
    let mut expected = images.content.clone();
    expected[3584..4096].fill(0xaa);
    expected[4096..8192].fill(0xbb);

    let ranges = [(Gpa(0x8000), 4096), (Gpa(0xa200), 1024), (Gpa(0xc000), 4096)];
    disk.read_into_guest(1024, &ram, &ranges).unwrap();
    let mut at = 1024;
    for (gpa, bytes) in ranges {
        let mut seen = vec![0; bytes as usize];
        ram.read(gpa, &mut seen).unwrap();
        assert!(seen == expected[at..at + bytes as usize], "{gpa:?}");
        at += bytes as usize;
    }
    assert!(disk.read_into_guest(0, &ram, &[(Gpa(0xf000), 8192)]).is_err());
}

#[test]
fn what_lies_outside_is_refused_and_changes_nothing() {
    let images = Images::new();
    let mut disk = images.fresh();
    for (offset, bytes) in
        [(DISK_BYTES, 512), (DISK_BYTES - 511, 512), (u64::MAX, 512), (u64::MAX - 511, 512)]
    {
        let data = vec![0; bytes as usize];
        assert!(matches!(disk.write_at(offset, &data), Err(DiskError::Outside { .. })), "{offset}");
        assert!(matches!(disk.discard(offset, bytes), Err(DiskError::Outside { .. })), "{offset}");
        assert!(
            matches!(disk.read_at(offset, &mut data.clone()), Err(DiskError::Outside { .. })),
            "{offset}"
        );
    }
    assert!(whole(&disk) == images.content);
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    let images = Images::new();
    let mut disk = Disk::new("cd", images.file("base"), None, Mode::ReadOnly).unwrap();
    assert!(matches!(disk.write_at(0, &[0; 512]), Err(DiskError::ReadOnly)));
    assert!(matches!(disk.discard(0, 4096), Err(DiskError::ReadOnly)));
    assert!(whole(&disk) == images.content);
}

#[test]
fn a_disk_without_layer_is_written_in_place() {
    let images = Images::new();
    let mut disk = Disk::new("swap", images.file("base"), None, Mode::ReadWrite).unwrap();
    disk.write_at(700, &[9; 300]).unwrap();
    disk.flush().unwrap();
    let written = std::fs::read(images.dir.path().join("base")).unwrap();
    assert!(written[700..1000] == [9; 300] && written[..700] == images.content[..700]);
}

#[test]
fn a_disk_in_use_is_refused_by_name() {
    let images = Images::new();
    let first = images.fresh();
    let layer = Layer::open(images.file("layer"), DISK_BYTES, ID).unwrap();
    let second = Disk::new("web.img", images.file("base"), Some(layer), Mode::ReadWrite);
    assert_eq!(second.unwrap_err().to_string(), "disk web.img is in use by another domain");
    let writer = Disk::new("base.img", images.file("base"), None, Mode::ReadWrite);
    assert!(matches!(writer, Err(DiskError::InUse(_))), "a base under a layer must not be written");
    let reader = Disk::new("base.img", images.file("base"), None, Mode::ReadOnly);
    assert!(reader.is_ok(), "a base may have many readers");
    drop((first, reader));
    assert!(Disk::new("base.img", images.file("base"), None, Mode::ReadWrite).is_ok());
}

#[test]
fn foreign_and_damaged_layers_are_refused() {
    let images = Images::new();
    drop(images.fresh());
    let refused = |file: File, bytes, id| match Layer::open(file, bytes, id) {
        Err(DiskError::Header(error)) => error,
        other => unreachable!("{other:?}"),
    };
    assert_eq!(refused(images.file("layer"), DISK_BYTES, [4; 32]), HeaderError::OtherBase);
    assert_eq!(refused(images.file("layer"), DISK_BYTES + 512, ID), HeaderError::OtherBase);
    assert_eq!(refused(images.file("base"), DISK_BYTES, ID), HeaderError::Magic);
    assert_eq!(refused(images.file("empty"), DISK_BYTES, ID), HeaderError::Magic);
    let file = images.file("layer");
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    assert!(matches!(refused(file, DISK_BYTES, ID), HeaderError::Length { .. }));
}

#[test]
fn a_view_shows_at_once_what_the_domain_writes() {
    let images = Images::new();
    let mut disk = images.fresh();
    let mut view = images.view();
    let mut seen = [0; 4];
    view.seek(SeekFrom::End(-4)).unwrap();
    view.read_exact(&mut seen).unwrap();
    assert_eq!(seen, images.content[DISK_BYTES as usize - 4..]);
    disk.write_at(DISK_BYTES - 2, b"ok").unwrap();
    view.seek(SeekFrom::Current(-2)).unwrap();
    view.read_exact(&mut seen[..2]).unwrap();
    assert_eq!(&seen[..2], b"ok");
    assert_eq!(view.read(&mut seen).unwrap(), 0);
    assert!(view.seek(SeekFrom::Current(-(DISK_BYTES as i64) - 1)).is_err());
}

#[test]
fn only_stored_ranges_count_as_allocated() {
    let images = Images::new();
    let base = images.file("sparse");
    base.set_len(DISK_BYTES).unwrap();
    base.write_all_at(&[1; 4096], 2 * CLUSTER_BYTES).unwrap();
    base.write_all_at(&[1; 4096], 9 * CLUSTER_BYTES).unwrap();
    let layer = Layer::create(images.file("layer"), DISK_BYTES, ID).unwrap();
    let mut disk = Disk::new("test", images.file("sparse"), Some(layer), Mode::ReadWrite).unwrap();
    disk.write_at(3 * CLUSTER_BYTES, &[2; 4096]).unwrap();
    disk.write_at(20 * CLUSTER_BYTES + 100, &[2; 10]).unwrap();
    disk.discard(9 * CLUSTER_BYTES, CLUSTER_BYTES).unwrap();
    let view = View::new(images.file("sparse"), Some(images.file("layer"))).unwrap();
    let expected = [2 * CLUSTER_BYTES..4 * CLUSTER_BYTES, 20 * CLUSTER_BYTES..21 * CLUSTER_BYTES];
    assert_eq!(view.allocated().unwrap(), expected);
}

#[test]
fn layers_over_layers_are_one_disk_and_what_lies_below_is_not_touched() {
    let images = Images::new();
    let mut model = images.content.clone();
    let mut dice = Dice(2_463_534_242);
    let mut frozen: Vec<String> = Vec::new();
    for depth in 0..4 {
        let name = format!("layer{depth}");
        let files = || frozen.iter().map(|name| images.file(name)).collect();
        let layer = Layer::create(images.file(&name), DISK_BYTES, ID).unwrap();
        let below = Below::new(images.file("base"), files()).unwrap();
        let mut disk = Disk::new("test", below, Some(layer), Mode::ReadWrite).unwrap();
        let before: Vec<Vec<u8>> =
            frozen.iter().map(|name| std::fs::read(images.dir.path().join(name)).unwrap()).collect();
        for step in 0..60 {
            let offset = dice.below(DISK_BYTES);
            let len = 1 + dice.below((DISK_BYTES - offset).min(3 * CLUSTER_BYTES));
            let data = vec![depth * 64 + step as u8; len as usize];
            disk.write_at(offset, &data).unwrap();
            model[offset as usize..(offset + len) as usize].copy_from_slice(&data);
        }
        assert_eq!(whole(&disk), model);
        let below = Below::new(images.file("base"), files()).unwrap();
        let mut view = View::new(below, Some(images.file(&name))).unwrap();
        let mut read = Vec::new();
        view.read_to_end(&mut read).unwrap();
        assert_eq!(read, model);
        let allocated = view.allocated().unwrap();
        assert!(allocated.iter().all(|range| range.end <= DISK_BYTES) && !allocated.is_empty());
        let after = frozen.iter().map(|name| std::fs::read(images.dir.path().join(name)).unwrap());
        assert!(after.eq(before));
        frozen.push(name);
    }
    assert_eq!(std::fs::read(images.dir.path().join("base")).unwrap(), images.content);
}

#[test]
fn a_frozen_layer_of_another_image_or_too_many_of_them_are_refused() {
    let images = Images::new();
    Layer::create(images.file("one"), DISK_BYTES, ID).unwrap();
    Layer::create(images.file("other"), DISK_BYTES, [4; 32]).unwrap();
    let below = |names: &[&str]| {
        Below::new(images.file("base"), names.iter().map(|name| images.file(name)).collect())
    };
    assert!(below(&["one"]).is_ok());
    assert!(matches!(below(&["one", "other"]), Err(DiskError::Header(HeaderError::OtherBase))));
    assert!(matches!(below(&["base"]), Err(DiskError::Header(_))));
    assert!(matches!(below(&["one"; 17]), Err(DiskError::TooDeep(17))));
}

#[test]
fn what_is_written_or_discarded_is_noted_by_cluster() {
    let images = Images::new();
    let mut disk = images.fresh();
    let layout = crate::dirty::DirtyLayout::new(0, &[DISK_BYTES]);
    let file = images.file("dirty");
    file.set_len(layout.bytes()).unwrap();
    let log = crate::dirty::DirtyLog::map(file, layout).unwrap();
    disk.log_writes(log.disk(0).unwrap());
    let noted = || log.disk(0).unwrap().take().ones().collect::<Vec<_>>();
    disk.write_at(0, &[1]).unwrap();
    assert_eq!(noted(), [0; 0], "the log is off");
    log.switch_on();
    disk.write_at(CLUSTER_BYTES - 1, &[1, 2]).unwrap();
    assert_eq!(noted(), [0, 1]);
    disk.discard(5 * CLUSTER_BYTES + 1, 3 * CLUSTER_BYTES).unwrap();
    assert_eq!(noted(), [6, 7]);
    disk.write_at(DISK_BYTES - 1, &[1]).unwrap();
    assert_eq!(noted(), [40]);
    disk.write_at(DISK_BYTES, &[1]).unwrap_err();
    disk.read_at(0, &mut [0; 9000]).unwrap();
    assert_eq!(noted(), [0; 0]);
}

#[test]
fn a_layer_is_copied_cluster_by_cluster() {
    let images = Images::new();
    let mut disk = images.fresh();
    disk.write_at(3 * CLUSTER_BYTES + 7, &[9; 5000]).unwrap();
    disk.write_at(DISK_BYTES - 1, &[8]).unwrap();
    let reader = LayerReader::open(images.file("layer")).unwrap();
    assert_eq!((reader.disk_bytes(), reader.base_id()), (DISK_BYTES, ID));
    let mut copy = Layer::create(images.file("copy"), reader.disk_bytes(), reader.base_id()).unwrap();
    let copy_held = |copy: &mut Layer| {
        for run in crate::dirty::runs(&reader.held().unwrap(), 2) {
            let mut bytes = vec![0; run.len() * CLUSTER_BYTES as usize];
            reader.read(run.start as u64, &mut bytes).unwrap();
            copy.put(run.start as u64, &bytes).unwrap();
        }
    };
    copy_held(&mut copy);
    // What is discarded after the first round is zero after the second.
    disk.discard(4 * CLUSTER_BYTES, CLUSTER_BYTES).unwrap();
    copy_held(&mut copy);
    let outside = copy.put(40, &[1; 2 * CLUSTER_BYTES as usize]);
    assert!(matches!(outside, Err(DiskError::Outside { .. })), "{outside:?}");
    let of_copy = Disk::new("copy", images.file("base"), Some(copy), Mode::ReadOnly).unwrap();
    assert_eq!(whole(&of_copy), whole(&disk));
    assert_eq!(LayerReader::open(images.file("copy")).unwrap().held().unwrap(), reader.held().unwrap());
}
