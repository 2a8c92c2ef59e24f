//! The guest's page tables, walked from outside: virtual to physical, four levels (Intel SDM volume 3, section 4.5).

use crate::memory::{Access, Gpa, GuestMemory, Gva, MemoryError, PAGE_SIZE};

const PRESENT: u64 = 1;
const HUGE: u64 = 0x80;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Xen's reserved slots: no pointer of a guest's may lie there.
const RESERVED: std::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;

/// Why a guest pointer was refused; the hypercall answers -EFAULT.
#[derive(Debug, thiserror::Error)]
pub enum PageFault {
    /// No page there, or a table that is outside RAM.
    #[error("guest address {0:#x} is not mapped")]
    NotMapped(u64),
    /// Mapped to where there is no memory.
    #[error("guest address {0:#x} is mapped outside its memory")]
    Outside(u64, #[source] MemoryError),
}

/// Guest memory by virtual address, through one L4 table.
#[derive(Debug, Clone, Copy)]
pub struct AddressSpace<'a> {
    memory: &'a GuestMemory,
    root: Gpa,
}

impl<'a> AddressSpace<'a> {
    /// The address space of this L4 table.
    pub fn new(memory: &'a GuestMemory, root: Gpa) -> Self {
        Self { memory, root }
    }

    /// Where a virtual address is. Shim memory is never the answer: only RAM is.
    pub fn translate(&self, at: Gva) -> Result<Gpa, PageFault> {
        let unmapped = || PageFault::NotMapped(at.0);
        if RESERVED.contains(&at.0) {
            return Err(unmapped());
        }
        let mut table = self.root.0 & FRAME;
        for level in (1..=4u32).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry =
                self.memory.ram().read_u64(Gpa(table + 8 * (at.0 >> shift & 511))).map_err(|_| unmapped())?;
            if entry & PRESENT == 0 {
                return Err(unmapped());
            }
            let offset_mask = (1u64 << shift) - 1;
            if level == 1 || (entry & HUGE != 0 && level <= 3) {
                return Ok(Gpa((entry & FRAME & !offset_mask) | (at.0 & offset_mask)));
            }
            table = entry & FRAME;
        }
        Err(unmapped())
    }

    /// Calls `part` for each piece of the range that lies in one page: its physical address, and its place in the range.
    fn pages(
        &self,
        at: Gva,
        bytes: usize,
        mut part: impl FnMut(Gpa, std::ops::Range<usize>) -> Result<(), MemoryError>,
    ) -> Result<(), PageFault> {
        let mut done = 0;
        while done < bytes {
            let here = Gva(at.0.wrapping_add(done as u64));
            let room = (PAGE_SIZE - (here.0 & (PAGE_SIZE - 1))) as usize;
            let next = bytes.min(done + room);
            part(self.translate(here)?, done..next).map_err(|e| PageFault::Outside(here.0, e))?;
            done = next;
        }
        Ok(())
    }

    /// Copies in from the guest.
    pub fn read(&self, at: Gva, out: &mut [u8]) -> Result<(), PageFault> {
        self.pages(at, out.len(), |gpa, range| self.memory.ram().read(gpa, &mut out[range]))
    }

    /// Copies out to the guest.
    pub fn write(&self, at: Gva, data: &[u8]) -> Result<(), PageFault> {
        self.pages(at, data.len(), |gpa, range| self.memory.ram().write(gpa, &data[range]))
    }

    /// `N` bytes from the guest.
    pub fn read_array<const N: usize>(&self, at: Gva) -> Result<[u8; N], PageFault> {
        let mut out = [0; N];
        self.read(at, &mut out)?;
        Ok(out)
    }

    /// A word from the guest.
    pub fn read_u64(&self, at: Gva) -> Result<u64, PageFault> {
        self.read_array(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Region;

    fn space_with_one_page() -> GuestMemory {
        let ram = Region::anonymous(Gpa(0), 1 << 20).unwrap();
        for (at, entry) in [(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x4007), (0x4000 + 8, 0x5007u64)] {
            ram.write_u64(Gpa(at), entry).unwrap();
        }
        GuestMemory::from(ram)
    }

    #[test]
    fn a_mapped_page_is_read_and_its_unmapped_neighbour_is_a_fault() {
        let memory = space_with_one_page();
        memory.write_u64(Gpa(0x5ff8), 7).unwrap();
        let space = AddressSpace::new(&memory, Gpa(0x1000));
        assert_eq!(space.read_u64(Gva(0x1ff8)).unwrap(), 7);
        assert!(matches!(space.read_u64(Gva(0x1ffc)), Err(PageFault::NotMapped(0x2000))));
    }

    #[test]
    fn a_table_outside_ram_is_a_fault() {
        let memory = space_with_one_page();
        memory.write_u64(Gpa(0x2000), 0xffff_ffff_f007).unwrap();
        assert!(AddressSpace::new(&memory, Gpa(0x1000)).translate(Gva(0x1000)).is_err());
    }

    #[test]
    fn the_hypervisors_slots_are_refused() {
        let memory = space_with_one_page();
        memory.write_u64(Gpa(0x1000 + 8 * 257), 0x2007).unwrap();
        assert!(AddressSpace::new(&memory, Gpa(0x1000)).translate(Gva(0xffff_8080_0000_1000)).is_err());
    }
}
