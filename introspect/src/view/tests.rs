use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::*;

/// Memory that a test fills; what stands for the kernel's image are its first bytes.
pub(crate) struct Memory {
    file: std::fs::File,
    pub(crate) view: View,
}

const RAM_BYTES: u64 = 1 << 20;
const ROOT: u64 = 0x8000;

impl Memory {
    pub(crate) fn new() -> Self {
        let memfd: OwnedFd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memfd, RAM_BYTES).unwrap();
        let ram = ReadOnlyRam::from_memfd(memfd.try_clone().unwrap()).unwrap();
        let image = KERNEL_MAP..KERNEL_MAP + 0x4000;
        let view = View { ram, image, kernel_root: Gpa(ROOT), page_offset_base: Gva(KERNEL_MAP) };
        Self { file: memfd.into(), view }
    }

    /// Memory as large as a kernel, all of it made of such words; as seen by its symbols.
    pub(crate) fn of_words(symbols: &Symbols, mut word: impl FnMut(u64) -> u64) -> Self {
        let ram_bytes = (symbols.address("_end").unwrap().0 - KERNEL_MAP).next_multiple_of(PAGE_SIZE);
        let bytes: Vec<u8> = (0..ram_bytes / 8).flat_map(|_| word(ram_bytes).to_le_bytes()).collect();
        let memfd: OwnedFd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        let file = std::fs::File::from(memfd.try_clone().unwrap());
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
        let view = View::new(ReadOnlyRam::from_memfd(memfd).unwrap(), symbols).unwrap();
        Self { file, view }
    }

    /// Writes a word at a linear address.
    pub(crate) fn set(&self, at: u64, word: u64) {
        self.set_bytes(at, &word.to_le_bytes());
    }

    pub(crate) fn set_bytes(&self, at: u64, bytes: &[u8]) {
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, at - LINEAR_MAP).unwrap();
    }
}

/// A linear address.
pub(crate) fn linear(gpa: u64) -> u64 {
    LINEAR_MAP + gpa
}

#[test]
fn image_and_linear_map_are_the_same_memory() {
    let memory = Memory::new();
    memory.set(linear(0x1238), 77);
    let look = memory.view.look(10);
    assert_eq!(look.u64(Gva(KERNEL_MAP + 0x1238)), Ok(77));
    assert_eq!(look.u64(Gva(linear(0x1238))), Ok(77));
    assert_eq!(look.steps_taken(), 2);
}

#[test]
fn other_addresses_go_through_the_page_table() {
    let memory = Memory::new();
    let at = 0xffff_c900_0000_0000u64;
    memory.set(linear(ROOT) + 8 * (at >> 39 & 511), 0x9003);
    memory.set(linear(0x9000), 0xa003);
    // A page of 2 MiB would end outside RAM; its first part does not.
    memory.set(linear(0xa000), 0x83);
    memory.set(linear(0xa008), 0xb003);
    memory.set(linear(0xb000), 0xc003);
    memory.set(linear(0x5000), 5);
    memory.set(linear(0xc010), 6);
    let look = memory.view.look(10);
    assert_eq!(look.u64(Gva(at + 0x5000)), Ok(5));
    assert_eq!(look.u64(Gva(at + 0x20_0010)), Ok(6));
    assert!(matches!(look.u64(Gva(at + RAM_BYTES)), Err(ViewError::Outside { .. })));
    assert_eq!(look.u64(Gva(at + 0x20_1000)), Err(ViewError::NotMapped(Gva(at + 0x20_1000))));
}

#[test]
fn pointers_that_lead_nowhere_are_errors() {
    let memory = Memory::new();
    // A slot of the page table that points out of RAM, and one that points to the table itself.
    memory.set(linear(ROOT) + 8 * 256, 0x000f_ffff_ffff_f003);
    memory.set(linear(ROOT) + 8 * 300, ROOT | 3);
    let look = memory.view.look(100);
    let itself = 0xffff_0000_0000_0000 | 300 << 39 | 300 << 30 | 300 << 21 | 300 << 12;
    assert_eq!(look.u64(Gva(itself)), Ok(0));
    for at in [0, 8, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, LINEAR_MAP + RAM_BYTES, u64::MAX, u64::MAX - 7]
    {
        assert!(look.u64(Gva(at)).is_err(), "{at:#x}");
    }
    assert!(look.u64(Gva(LINEAR_MAP + RAM_BYTES - 4)).is_err());
    assert!(look.read_user(Gva(0), Gva(0x1000), &mut [0; 8]).is_err());
    assert!(matches!(look.bytes(Gva(LINEAR_MAP), u64::MAX), Err(ViewError::TooLong { .. })));
}

#[test]
fn a_text_ends_with_its_nul_or_is_refused() {
    let memory = Memory::new();
    memory.set_bytes(linear(0xffa), b"across pages\0");
    memory.set_bytes(linear(0x2000), &[b'x'; 5000]);
    let look = memory.view.look(200);
    assert_eq!(look.text(Gva(linear(0xffa)), 64).unwrap(), b"across pages");
    let endless = Gva(linear(0x2000));
    assert_eq!(look.text(endless, 4096), Err(ViewError::Unterminated { at: endless, bytes_max: 4096 }));
    let last = Gva(linear(RAM_BYTES - 4));
    memory.set_bytes(last.0, b"last");
    assert!(look.text(last, 64).is_err());
}

#[test]
fn a_look_ends_after_its_steps() {
    let memory = Memory::new();
    let look = memory.view.look(2);
    assert!(look.u8(Gva(LINEAR_MAP)).is_ok() && look.u16(Gva(LINEAR_MAP)).is_ok());
    assert_eq!(look.u32(Gva(LINEAR_MAP)), Err(ViewError::Steps(2)));
    assert_eq!(look.step(), Err(ViewError::Steps(2)));
}

#[test]
fn only_whole_pages_of_ram_have_a_number() {
    let memory = Memory::new();
    let look = memory.view.look(0);
    assert_eq!(look.pfn_of_page(Gva(PAGE_ARRAY + 64 * 7), 64), Some(7));
    for wrong in [0, PAGE_ARRAY - 64, PAGE_ARRAY + 1, PAGE_ARRAY + 64 * (RAM_BYTES >> 12), u64::MAX] {
        assert_eq!(look.pfn_of_page(Gva(wrong), 64), None, "{wrong:#x}");
    }
    assert_eq!(look.pfn_of_page(Gva(PAGE_ARRAY), 0), None);
}
