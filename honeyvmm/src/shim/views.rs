//! What of the shim's memory is mapped where: the kernel's view and the user's.
//!
//! PVM: the shim's code runs in ring 3, so the kernel's view gives it the U bit. In the user's view ring 3 has one page of int3, with the
//! three instructions of the fast way out in it, and nothing else; the descriptor tables, the gate and the CPL 0 stack are there without the U bit.
//! Hardware: the shim runs in ring 0; one view serves both, without the U bit; the physmap and the machine-to-phys table are in
//! the kernel's L4 only.

use super::area::{Area, Field};
use super::descriptors::write_window;
use super::layout::{Backend, L4_SLOT_FIRST, L4_SLOTS, Layout, TRAMPOLINE_EXIT, window};
use crate::memory::{Access, Gpa, GuestMemory, MemoryError, PAGE_SIZE};

const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
/// Accessed and dirty: set from the start, so that no processor and no emulator has to.
const TOUCHED: u64 = 0x60;
const HUGE: u64 = 0x80;
const NO_EXECUTE: u64 = 1 << 63;
const TABLE: u64 = PRESENT | WRITE | USER | TOUCHED;
const INT3: u8 = 0xcc;
/// What the user's view has where the kernel's divides by zero: `mov %r11, %rax; mov $0x246, %r11d; jmp *%rcx`.
const EXIT_OF_USER: [u8; 11] = [0x4c, 0x89, 0xd8, 0x41, 0xbb, 0x46, 0x02, 0x00, 0x00, 0xff, 0xe1];
/// The machine-to-phys table is mapped in pages of 2 MiB, through one L2 table: 1 GiB of it, enough for 512 GiB of RAM.
const M2P_PAGE: u64 = 2 << 20;
const KERNEL_VIEW: u64 = 0;
const USER_VIEW: u64 = 1;

/// Page-table flags of a window's page in the kernel's view; `None`: not mapped.
fn kernel_flags(backend: Backend, offset: u64) -> Option<u64> {
    let ring3 = match backend {
        Backend::Pvm => USER,
        Backend::Hardware => 0,
    };
    let flags = match offset {
        window::TRAMPOLINE | window::CODE..window::CODE_END => ring3,
        window::GATE_CODE => 0,
        // The shim on PVM chooses between two ways out by the gate of #DE.
        window::IDT if backend == Backend::Pvm => USER | WRITE | NO_EXECUTE,
        window::IDT => NO_EXECUTE,
        window::TSS | window::GDT..window::CODE => WRITE | NO_EXECUTE,
        window::GATE
        | window::STACK0
        | window::AREA..window::STACKS_END
        | window::TRACE..window::TRACE_END
        | window::SHARED_INFO
        | window::RING..window::RING_END => ring3 | WRITE | NO_EXECUTE,
        _ => return None,
    };
    Some(PRESENT | TOUCHED | flags)
}

/// The same in the user's view, where it is another (PVM).
fn user_flags(offset: u64) -> Option<u64> {
    match offset {
        window::TRAMPOLINE => Some(PRESENT | TOUCHED | USER),
        window::GATE_CODE => Some(PRESENT | TOUCHED),
        window::IDT => Some(PRESENT | TOUCHED | NO_EXECUTE),
        window::TSS | window::GATE | window::STACK0 | window::GDT..window::CODE => {
            Some(PRESENT | TOUCHED | WRITE | NO_EXECUTE)
        }
        _ => None,
    }
}

fn write_entry(
    memory: &GuestMemory,
    table: Gpa,
    index: u64,
    target: Gpa,
    flags: u64,
) -> Result<(), MemoryError> {
    memory.write_u64(table.offset(8 * index), target.0 | flags)
}

fn write_window_tables(
    memory: &GuestMemory,
    layout: &Layout,
    backend: Backend,
    vcpu: u32,
) -> Result<(), MemoryError> {
    let window_gpa = layout.window_gpa(vcpu);
    for page in 0..512 {
        let offset = page * PAGE_SIZE;
        if let Some(flags) = kernel_flags(backend, offset) {
            let target =
                if offset == window::SHARED_INFO { layout.shared_info() } else { window_gpa.offset(offset) };
            write_entry(memory, layout.l1(KERNEL_VIEW, vcpu), page, target, flags)?;
        }
        if backend == Backend::Pvm
            && let Some(flags) = user_flags(offset)
        {
            let target = match offset {
                window::TRAMPOLINE => layout.user_trampoline(),
                window::IDT => layout.user_idt(vcpu),
                _ => window_gpa.offset(offset),
            };
            write_entry(memory, layout.l1(USER_VIEW, vcpu), page, target, flags)?;
        }
    }
    for view in [KERNEL_VIEW, USER_VIEW] {
        write_entry(memory, layout.l2(view), u64::from(vcpu), layout.l1(view, vcpu), TABLE)?;
    }
    Ok(())
}

fn write_physmap(memory: &GuestMemory, layout: &Layout, backend: Backend) -> Result<(), MemoryError> {
    let ring3 = match backend {
        Backend::Pvm => USER,
        Backend::Hardware => 0,
    };
    let l3 = layout.physmap_l3();
    for gib in 0..layout.physmap_tables() {
        let l2 = l3.offset((1 + gib) * PAGE_SIZE);
        write_entry(memory, l3, gib, l2, TABLE)?;
        for index in 0..512 {
            let target = Gpa((gib << 30) + (index << 21));
            if target.0 < layout.ram_bytes {
                write_entry(
                    memory,
                    l2,
                    index,
                    target,
                    PRESENT | WRITE | TOUCHED | HUGE | NO_EXECUTE | ring3,
                )?;
            }
        }
    }
    Ok(())
}

fn write_m2p(memory: &GuestMemory, layout: &Layout) -> Result<(), MemoryError> {
    let frames = layout.ram_bytes / PAGE_SIZE;
    let mut page = Vec::with_capacity(PAGE_SIZE as usize);
    for first in (0..frames).step_by(512) {
        page.clear();
        (first..(first + 512).min(frames)).for_each(|frame| page.extend_from_slice(&frame.to_le_bytes()));
        memory.write(layout.m2p().offset(first * 8), &page)?;
    }
    let (l3, l2) = (layout.m2p_l3(), layout.m2p_l3().offset(PAGE_SIZE));
    write_entry(memory, l3, 0, l2, TABLE)?;
    for index in 0..(frames * 8).div_ceil(M2P_PAGE) {
        let target = layout.m2p().offset(index * M2P_PAGE);
        write_entry(memory, l2, index, target, PRESENT | USER | TOUCHED | HUGE | NO_EXECUTE)?;
    }
    Ok(())
}

/// The L4 entries of our slots: kernel's view, user's view.
fn slots(layout: &Layout, backend: Backend) -> [[u64; 2]; L4_SLOTS] {
    let entry = |table: Gpa| table.0 | TABLE;
    let user_window = match backend {
        Backend::Pvm => USER_VIEW,
        Backend::Hardware => KERNEL_VIEW,
    };
    [
        [entry(layout.l3(KERNEL_VIEW)), entry(layout.l3(user_window))],
        [entry(layout.m2p_l3()), 0],
        [entry(layout.physmap_l3()), 0],
    ]
}

/// Gives an L4 table of the guest's the kernel's view, as the shim does later.
pub fn install_slots(
    memory: &GuestMemory,
    layout: &Layout,
    backend: Backend,
    l4: Gpa,
) -> Result<(), MemoryError> {
    for (slot, entry) in slots(layout, backend).iter().enumerate() {
        memory.write_u64(l4.offset(8 * (L4_SLOT_FIRST + slot as u64)), entry[0])?;
    }
    Ok(())
}

/// Fills the shim's memory: windows, tables of both views, physmap, machine-to-phys table, and each area's constants.
pub fn populate(memory: &GuestMemory, layout: &Layout, backend: Backend) -> Result<Vec<Area>, MemoryError> {
    memory.fill(layout.user_trampoline(), INT3, PAGE_SIZE)?;
    memory.write(layout.user_trampoline().offset(TRAMPOLINE_EXIT), &EXIT_OF_USER)?;
    for view in [KERNEL_VIEW, USER_VIEW] {
        write_entry(memory, layout.l3(view), 0, layout.l2(view), TABLE)?;
    }
    write_physmap(memory, layout, backend)?;
    write_m2p(memory, layout)?;
    install_slots(memory, layout, backend, layout.boot_l4())?;
    (0..layout.vcpus)
        .map(|vcpu| {
            write_window(memory, layout, backend, vcpu)?;
            write_window_tables(memory, layout, backend, vcpu)?;
            let area = Area::new(memory, layout, backend, vcpu)?;
            let va = layout.window_va(vcpu).0;
            for (field, value) in [
                (Field::KernelMode, 1),
                (Field::UserCs, 0x33),
                (Field::RamBytes, layout.ram_bytes),
                (Field::SharedGpa, layout.shared_info().0),
                (Field::SharedBytes, layout.shared_bytes()),
                (Field::SharedInfo, va + window::SHARED_INFO),
                (Field::VcpuInfo, va + window::SHARED_INFO + 64 * u64::from(vcpu)),
                (Field::Vcpus, u64::from(layout.vcpus)),
                (Field::Me, u64::from(vcpu)),
                (Field::Window, va),
            ] {
                area.set(field, value);
            }
            for (slot, entries) in slots(layout, backend).into_iter().enumerate() {
                area.set_slot(slot, entries);
            }
            Ok(area)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_3_of_the_users_view_has_one_page_and_cannot_write_it() {
        let seen: Vec<u64> = (0..512)
            .map(|p| p * PAGE_SIZE)
            .filter(|o| user_flags(*o).is_some_and(|f| f & USER != 0))
            .collect();
        assert_eq!(seen, [window::TRAMPOLINE]);
        assert_eq!(user_flags(window::TRAMPOLINE).unwrap() & WRITE, 0);
    }

    #[test]
    fn ring_3_sees_nothing_of_the_window_on_hardware() {
        assert!(
            (0..512)
                .filter_map(|p| kernel_flags(Backend::Hardware, p * PAGE_SIZE))
                .all(|flags| flags & USER == 0)
        );
    }

    #[test]
    fn the_users_l4_has_neither_physmap_nor_machine_to_phys() {
        let layout = Layout { ram_bytes: 64 << 20, vcpus: 1 };
        for backend in [Backend::Pvm, Backend::Hardware] {
            let slots = slots(&layout, backend);
            assert_eq!((slots[1][1], slots[2][1]), (0, 0));
        }
    }
}
