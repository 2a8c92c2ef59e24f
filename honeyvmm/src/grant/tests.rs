use super::*;
use crate::memory::Region;

const RAM_BYTES: u64 = 16 * PAGE_SIZE;
const TABLE: Gpa = Gpa(0x100_0000);
const PERMIT: u16 = GTF_PERMIT_ACCESS as u16;
const RO: u16 = GTF_READONLY as u16;

fn domain() -> (GuestMemory, GrantTable) {
    let ram = Region::anonymous(Gpa(0), RAM_BYTES).unwrap();
    let shim = Region::anonymous(TABLE, PAGE_SIZE).unwrap();
    let memory = GuestMemory::new(ram, Some(shim));
    (memory.clone(), GrantTable::new(memory, TABLE, 1))
}

fn grant(memory: &GuestMemory, reference: u32, flags: u16, domid: u16, frame: u32) {
    let at = TABLE.offset(u64::from(reference) * ENTRY_BYTES);
    memory.write_u32(at.offset(FRAME), frame).unwrap();
    memory.write_u16(at.offset(2), domid).unwrap();
    memory.write_u16(at, flags).unwrap();
}

fn flags(memory: &GuestMemory, reference: u32) -> u16 {
    memory.read_u16(TABLE.offset(u64::from(reference) * ENTRY_BYTES)).unwrap()
}

#[test]
fn a_granted_page_is_marked_while_it_is_used() {
    let (memory, table) = domain();
    grant(&memory, 9, PERMIT, 0, 3);
    let reading = table.resolve(GrantRef(9), GrantAccess::Read).unwrap();
    assert_eq!(reading.gpa(), Gpa(0x3000));
    assert_eq!(flags(&memory, 9), PERMIT | 0x8);
    let writing = table.resolve(GrantRef(9), GrantAccess::Write).unwrap();
    assert_eq!(flags(&memory, 9), PERMIT | 0x18);
    drop(writing);
    assert_eq!(flags(&memory, 9), PERMIT | 0x8);
    drop(reading);
    assert_eq!(flags(&memory, 9), PERMIT);
}

#[test]
fn a_page_that_is_written_stays_marked_when_a_reader_leaves() {
    let (memory, table) = domain();
    grant(&memory, 1, PERMIT, 0, 3);
    let reading = table.resolve(GrantRef(1), GrantAccess::Read).unwrap();
    let writing = table.resolve(GrantRef(1), GrantAccess::Write).unwrap();
    drop(reading);
    assert_eq!(flags(&memory, 1), PERMIT | 0x18);
    drop(writing);
    assert_eq!(flags(&memory, 1), PERMIT);
}

#[test]
fn wild_and_unfit_references_are_refused_and_stay_unmarked() {
    let (memory, table) = domain();
    let past_ram = (RAM_BYTES / PAGE_SIZE) as u32;
    let cases: [(u16, u16, u32, GrantAccess); 9] = [
        (0, 0, 3, GrantAccess::Read),
        (2, 0, 3, GrantAccess::Read),
        (3, 0, 3, GrantAccess::Read),
        (PERMIT | 0x100, 0, 3, GrantAccess::Read),
        (PERMIT, 5, 3, GrantAccess::Read),
        (PERMIT | RO, 0, 3, GrantAccess::Write),
        (PERMIT, 0, past_ram, GrantAccess::Read),
        (PERMIT, 0, u32::MAX, GrantAccess::Write),
        (PERMIT, 0, (TABLE.0 / PAGE_SIZE) as u32, GrantAccess::Write),
    ];
    for (index, (entry_flags, domid, frame, access)) in cases.into_iter().enumerate() {
        let reference = index as u32;
        grant(&memory, reference, entry_flags, domid, frame);
        assert!(table.resolve(GrantRef(reference), access).is_err(), "case {index}");
        assert_eq!(flags(&memory, reference), entry_flags, "case {index}");
    }
    for reference in [ENTRIES_PER_FRAME, u32::MAX] {
        let refused = table.resolve(GrantRef(reference), GrantAccess::Read);
        assert!(matches!(refused, Err(GrantError::PastTable { .. })), "{reference}");
    }
}

#[test]
fn a_read_only_page_may_be_read() {
    let (memory, table) = domain();
    grant(&memory, 2, PERMIT | RO, 0, 4);
    assert_eq!(table.resolve(GrantRef(2), GrantAccess::Read).unwrap().gpa(), Gpa(0x4000));
}

#[test]
fn a_table_outside_memory_is_an_error() {
    let (memory, _) = domain();
    let table = GrantTable::new(memory, Gpa(0x900_0000), 1);
    assert!(matches!(table.resolve(GrantRef(0), GrantAccess::Read), Err(GrantError::Memory(_))));
}

#[test]
fn a_guest_that_rewrites_entries_meanwhile_gets_no_page_outside_ram() {
    let (memory, table) = domain();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0u32.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let frame = if turn % 2 == 0 { 3 } else { 0x000f_0000 };
                grant(&memory, 0, PERMIT | (turn % 3) as u16, 0, frame);
            }
        });
        for _ in 0..20_000 {
            if let Ok(page) = table.resolve(GrantRef(0), GrantAccess::Write) {
                assert!(memory.ram().contains(page.gpa(), PAGE_SIZE));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
