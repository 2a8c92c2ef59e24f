use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::atomic::Ordering::SeqCst;

use super::*;

const BASE: Gpa = Gpa(0x10_0000);
const BYTES: u64 = 4 * PAGE_SIZE;

fn region() -> Region {
    Region::anonymous(BASE, BYTES).unwrap()
}

fn domain() -> GuestMemory {
    GuestMemory::new(Region::anonymous(Gpa(0), BYTES).unwrap(), Some(region()))
}

#[test]
fn what_is_written_is_read_back_at_any_alignment() {
    let memory = region();
    memory.write_u64(BASE.offset(3), 0x0123_4567_89ab_cdef).unwrap();
    assert_eq!(memory.read_u64(BASE.offset(3)).unwrap(), 0x0123_4567_89ab_cdef);
    assert_eq!(memory.read_u8(BASE.offset(3)).unwrap(), 0xef);
    assert_eq!(memory.read_u16(BASE.offset(9)).unwrap(), 0x0123);
}

#[test]
fn ranges_that_leave_the_region_are_refused_and_change_nothing() {
    let memory = region();
    let end = BASE.0 + BYTES;
    for (gpa, bytes) in [
        (BASE.0 - 1, 2),
        (end - 1, 2),
        (end, 1),
        (u64::MAX, 1),
        (u64::MAX - 3, 8),
        (0, 1),
        (BASE.0, BYTES + 1),
    ] {
        let data = vec![0xff; bytes as usize];
        assert!(memory.write(Gpa(gpa), &data).is_err(), "write of {bytes} at {gpa:#x}");
        assert!(memory.read(Gpa(gpa), &mut data.clone()).is_err(), "read of {bytes} at {gpa:#x}");
        assert!(memory.fill(Gpa(gpa), 1, bytes).is_err(), "fill of {bytes} at {gpa:#x}");
    }
    let mut all = vec![1; BYTES as usize];
    memory.read(BASE, &mut all).unwrap();
    assert!(all.iter().all(|&byte| byte == 0));
}

#[test]
fn an_address_is_resolved_to_ram_or_shim_and_nothing_between() {
    let memory = domain();
    memory.write_u32(Gpa(8), 1).unwrap();
    memory.write_u32(BASE.offset(8), 2).unwrap();
    assert_eq!(memory.ram().read_u32(Gpa(8)).unwrap(), 1);
    assert_eq!(memory.shim().unwrap().read_u32(BASE.offset(8)).unwrap(), 2);
    assert!(memory.read_u32(Gpa(BYTES)).is_err());
    assert!(memory.read_u32(Gpa(BYTES - 2)).is_err());
}

#[test]
fn atomics_change_only_their_bits() {
    let memory = region();
    assert_eq!(memory.fetch_or_u64(BASE, 0xf0, SeqCst).unwrap(), 0);
    assert_eq!(memory.fetch_and_u64(BASE, !0x10, SeqCst).unwrap(), 0xf0);
    assert_eq!(memory.load_u64(BASE, SeqCst).unwrap(), 0xe0);
    assert_eq!(memory.swap_u8(BASE.offset(1), 7, SeqCst).unwrap(), 0);
    assert_eq!(memory.load_u32(BASE, SeqCst).unwrap(), 0x7e0);
    assert_eq!(memory.compare_exchange_u32(BASE, 1, 2).unwrap(), Err(0x7e0));
    assert_eq!(memory.compare_exchange_u32(BASE, 0x7e0, 2).unwrap(), Ok(0x7e0));
}

#[test]
fn a_misaligned_atomic_is_refused() {
    let memory = region();
    assert!(matches!(memory.load_u32(BASE.offset(2), SeqCst), Err(MemoryError::Misaligned { .. })));
    assert!(matches!(memory.fetch_or_u64(BASE.offset(4), 1, SeqCst), Err(MemoryError::Misaligned { .. })));
}

#[test]
fn regions_of_broken_pages_are_refused() {
    for (base, bytes) in [(0, 0), (1, PAGE_SIZE), (0, PAGE_SIZE + 1), (!0xfff, 2 * PAGE_SIZE)] {
        assert!(Region::anonymous(Gpa(base), bytes).is_err(), "{bytes} bytes at {base:#x}");
    }
}

#[test]
fn a_memfd_is_shared_and_must_be_long_enough() {
    let mut file = tempfile::tempfile().unwrap();
    file.set_len(PAGE_SIZE).unwrap();
    let short = Region::from_memfd(file.try_clone().unwrap(), Gpa(0), 2 * PAGE_SIZE);
    assert!(matches!(short, Err(MemoryError::MemfdTooShort { .. })));
    let memory = Region::from_memfd(file.try_clone().unwrap(), Gpa(0), PAGE_SIZE).unwrap();
    memory.clone().write(Gpa(5), b"seen").unwrap();
    let mut seen = [0; 4];
    file.seek(SeekFrom::Start(5)).unwrap();
    file.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"seen");
}

#[test]
fn file_contents_scatter_into_ranges_and_gather_back() {
    let memory = region();
    let mut file = tempfile::tempfile().unwrap();
    let content: Vec<u8> = (0..6000u32).map(|i| i as u8).collect();
    file.write_all(&content).unwrap();
    let ranges = [(BASE.offset(100), 4000), (BASE, 0), (BASE.offset(2 * PAGE_SIZE), 1000)];
    memory.read_from_file_vectored_at(&file, 500, &ranges).unwrap();
    let mut second = vec![0; 1000];
    memory.read(BASE.offset(2 * PAGE_SIZE), &mut second).unwrap();
    assert_eq!(second, content[4500..5500]);

    let copy = tempfile::tempfile().unwrap();
    memory.write_to_file_vectored_at(&copy, 0, &ranges).unwrap();
    let mut copied = vec![0; 5000];
    std::os::unix::fs::FileExt::read_exact_at(&copy, &mut copied, 0).unwrap();
    assert_eq!(copied, content[500..5500]);
}

#[test]
fn more_ranges_than_one_system_call_takes_are_moved() {
    let memory = region();
    let file = tempfile::tempfile().unwrap();
    let ranges: Vec<(Gpa, u64)> = (0..3000).map(|i| (BASE.offset(i), 1)).collect();
    memory.fill(BASE, 9, 3000).unwrap();
    memory.write_to_file_vectored_at(&file, 0, &ranges).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3000);
}

#[test]
fn a_file_that_ends_early_and_a_range_outside_are_errors() {
    let memory = region();
    let file = tempfile::tempfile().unwrap();
    file.set_len(10).unwrap();
    assert!(matches!(memory.read_from_file_at(&file, 0, BASE, 11), Err(MemoryError::File { .. })));
    assert!(matches!(memory.read_from_file_at(&file, u64::MAX, BASE, 1), Err(MemoryError::File { .. })));
    let ranges = [(BASE, 16), (BASE.offset(BYTES), 1)];
    assert!(matches!(memory.write_to_file_vectored_at(&file, 0, &ranges), Err(MemoryError::Outside { .. })));
    assert_eq!(file.metadata().unwrap().len(), 10);
}

#[test]
fn a_file_is_loaded_into_either_kind_of_region_and_not_past_its_end() {
    let memfd = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&memfd, 2 * PAGE_SIZE).unwrap();
    let base = Gpa(0x10_0000);
    let regions = [Region::from_memfd(memfd, base, 2 * PAGE_SIZE), Region::anonymous(base, 2 * PAGE_SIZE)];
    for region in regions.map(Result::unwrap) {
        let contents = [7; PAGE_SIZE as usize + 5];
        region.load(base.offset(9), &contents).unwrap();
        let mut read = [0; PAGE_SIZE as usize + 7];
        region.read(base.offset(8), &mut read).unwrap();
        assert_eq!(
            (read[0], read[1], read[PAGE_SIZE as usize + 5], read[PAGE_SIZE as usize + 6]),
            (0, 7, 7, 0)
        );
        for outside in [Gpa(0), base.offset(PAGE_SIZE), base.offset(2 * PAGE_SIZE), Gpa(u64::MAX - 3)] {
            assert!(
                matches!(region.load(outside, &contents), Err(MemoryError::Outside { .. })),
                "{outside:?}"
            );
        }
    }
}

#[test]
fn runs_of_zero_pages_are_left_out_and_the_rest_is_whole() {
    let mut contents = vec![0u8; 7 * 4096 + 10];
    for at in [0, 4096, 5 * 4096 - 1, 7 * 4096 + 9] {
        contents[at] = 1;
    }
    let runs: Vec<_> = written_runs(&contents).map(|(at, run)| (at / 4096, run.len())).collect();
    assert_eq!(runs, [(0, 8192), (4, 4096), (7, 10)]);
    assert_eq!(written_runs(&[0; 10_000]).count(), 0);
    assert_eq!(written_runs(&[]).count(), 0);
}

/// A region whose writes are noted, and who takes what was noted.
fn logged() -> (Region, crate::dirty::DirtyLog) {
    let layout = crate::dirty::DirtyLayout::new(BYTES, &[]);
    let file = tempfile::tempfile().unwrap();
    file.set_len(layout.bytes()).unwrap();
    let log = crate::dirty::DirtyLog::map(file, layout).unwrap();
    let ram = Region::anonymous(Gpa(0), BYTES).unwrap();
    ram.log_writes(log.ram());
    (ram, log)
}

type Change = fn(&Region) -> Result<(), MemoryError>;

#[test]
fn every_way_to_write_is_noted_and_no_way_to_read() {
    let (ram, log) = logged();
    log.switch_on();
    let at = Gpa(PAGE_SIZE);
    let writes: [(&str, Change); 13] = [
        ("write", |ram| ram.write(Gpa(PAGE_SIZE), &[1])),
        ("fill", |ram| ram.fill(Gpa(PAGE_SIZE), 1, 8)),
        ("write_u8", |ram| ram.write_u8(Gpa(PAGE_SIZE), 1)),
        ("write_u64", |ram| ram.write_u64(Gpa(PAGE_SIZE), 1)),
        ("store_u8", |ram| ram.store_u8(Gpa(PAGE_SIZE), 1, SeqCst)),
        ("store_u32", |ram| ram.store_u32(Gpa(PAGE_SIZE), 1, SeqCst)),
        ("store_u64", |ram| ram.store_u64(Gpa(PAGE_SIZE), 1, SeqCst)),
        ("swap_u8", |ram| ram.swap_u8(Gpa(PAGE_SIZE), 1, SeqCst).map(drop)),
        ("fetch_or_u64", |ram| ram.fetch_or_u64(Gpa(PAGE_SIZE), 1, SeqCst).map(drop)),
        ("fetch_and_u64", |ram| ram.fetch_and_u64(Gpa(PAGE_SIZE), 1, SeqCst).map(drop)),
        ("fetch_and_u16", |ram| ram.fetch_and_u16(Gpa(PAGE_SIZE), 1, SeqCst).map(drop)),
        ("compare_exchange_u32", |ram| ram.compare_exchange_u32(Gpa(PAGE_SIZE), 1, 2).map(drop)),
        ("compare_exchange_u64", |ram| ram.compare_exchange_u64(Gpa(PAGE_SIZE), 1, 2).map(drop)),
    ];
    for (name, write) in writes {
        write(&ram).unwrap();
        assert_eq!(log.ram().take().ones().collect::<Vec<_>>(), [1], "{name}");
    }
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * PAGE_SIZE).unwrap();
    let ranges = [(Gpa(10), 20), (Gpa(3 * PAGE_SIZE - 1), 2)];
    ram.read_from_file_vectored_at(&file, 0, &ranges).unwrap();
    assert_eq!(log.ram().take().ones().collect::<Vec<_>>(), [0, 2, 3]);
    ram.read_from_file_at(&file, PAGE_SIZE + 1, at, PAGE_SIZE).unwrap_err();
    assert_eq!(log.ram().take().ones().collect::<Vec<_>>(), [1], "a part of it has come");
    ram.read_u64(at).unwrap();
    ram.load_u64(at, SeqCst).unwrap();
    ram.write_to_file_at(&file, 0, at, 8).unwrap();
    assert!(log.ram().take().is_clear());
}

#[test]
fn nothing_is_noted_while_the_log_is_off_and_a_clone_notes_as_well() {
    let (ram, log) = logged();
    ram.write_u64(Gpa(0), 1).unwrap();
    assert!(log.ram().take().is_clear());
    log.switch_on();
    GuestMemory::from(ram.clone()).write_u64(Gpa(PAGE_SIZE - 4), 1).unwrap();
    assert_eq!(log.ram().take().ones().collect::<Vec<_>>(), [0, 1]);
    log.switch_off();
    ram.write_u64(Gpa(0), 1).unwrap();
    assert!(log.ram().take().is_clear());
}
