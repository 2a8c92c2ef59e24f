//! Descriptor tables of a vcpu: GDT, IDT (one a view on PVM) and TSS (Intel SDM volume 3, chapters 3, 6, 7).

use super::layout::{Backend, Layout, image, symbols, window};
use crate::memory::{Access, Gpa, GuestMemory, MemoryError};

/// Type of a busy 64-bit TSS, as KVM wants it in TR.
pub const TR_ACCESS_BUSY: u8 = 11;

const SEL_SHIM_CS: u64 = 0xe008;
const SEL_USER_CS: u64 = 0x33;
const GATE_PRESENT_INTERRUPT: u64 = 0x8e;
const VECTORS: u64 = 33; // 0..31, and int 0x80 as the last
const VECTOR_BREAKPOINT: u64 = 3;
const VECTOR_OVERFLOW: u64 = 4;
const VECTOR_PAGE_FAULT: u64 = 14;
const VECTOR_INT80: u64 = 0x80;
/// The vector that the VMM injects (hardware backend).
const VECTOR_EVENT: u64 = 0xf0;
const VECTOR_DEBUG: u64 = 1;
/// NMI, #DF, #MC: they may come while the stack pointer is the guest's.
const VECTORS_FATAL: [u64; 3] = [2, 8, 18];
const IST_FATAL: u64 = 1;
/// #DB has a stack of its own: a step over `mov %ss` may be due at LSTAR's first instruction, with the user's stack pointer.
const IST_DEBUG: u64 = 2;

/// A gate: handler, code selector, IST index, DPL.
fn gate(handler: u64, selector: u64, ist: u64, dpl: u64) -> [u64; 2] {
    let low = (handler & 0xffff)
        | selector << 16
        | ist << 32
        | (GATE_PRESENT_INTERRUPT | dpl << 5) << 40
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

fn write_gate(memory: &GuestMemory, idt: Gpa, vector: u64, gate: [u64; 2]) -> Result<(), MemoryError> {
    memory.write_u64(idt.offset(vector * 16), gate[0])?;
    memory.write_u64(idt.offset(vector * 16 + 8), gate[1])
}

/// The vector of the n-th entry stub.
fn vector_of(index: u64) -> u64 {
    if index == VECTORS - 1 { VECTOR_INT80 } else { index }
}

fn dpl_of(vector: u64) -> u64 {
    if matches!(vector, VECTOR_BREAKPOINT | VECTOR_OVERFLOW | VECTOR_INT80) { 3 } else { 0 }
}

/// A guest's descriptor as it may stand in the live GDT: code and data at DPL 3, anything else absent. Guest kernels give theirs DPL 0
/// or 3; ours runs in ring 3 and could not load the former. A gate or TSS of the guest's would be a way to CPL 0.
pub fn sanitized_descriptor(descriptor: u64) -> u64 {
    const CODE_OR_DATA: u64 = 1 << 44;
    const PRESENT: u64 = 1 << 47;
    const DPL_3: u64 = 3 << 45;
    if descriptor & CODE_OR_DATA == 0 {
        return 0;
    }
    if descriptor & PRESENT == 0 { descriptor } else { descriptor | DPL_3 }
}

fn write_gdt(memory: &GuestMemory, gdt: Gpa, tss_va: u64) -> Result<(), MemoryError> {
    const CODE64_DPL0: u64 = 0x00af_9b00_0000_ffff;
    const DATA_DPL0: u64 = 0x00cf_9300_0000_ffff;
    const CODE32_DPL3: u64 = 0x00cf_fb00_0000_ffff;
    const DATA_DPL3: u64 = 0x00cf_f300_0000_ffff;
    const CODE64_DPL3: u64 = 0x00af_fb00_0000_ffff;
    const XEN: u64 = 0xe000;
    let entries = [
        (0xe008, CODE64_DPL0),
        (0xe010, DATA_DPL0),
        (0xe020, CODE32_DPL3),
        (0xe028, DATA_DPL3),
        (0xe030, CODE64_DPL3),
    ];
    for (selector, descriptor) in entries {
        memory.write_u64(gdt.offset(selector), descriptor)?;
    }
    // Linux's user selectors; its own table brings the same.
    for (selector, descriptor) in [(0x20, CODE32_DPL3), (0x28, DATA_DPL3), (0x30, CODE64_DPL3)] {
        memory.write_u64(gdt.offset(selector), descriptor)?;
    }
    let tss = 0x67 | (tss_va & 0xff_ffff) << 16 | 0x89 << 40 | (tss_va >> 24 & 0xff) << 56;
    memory.write_u64(gdt.offset(XEN + 0x40), tss)?;
    memory.write_u64(gdt.offset(XEN + 0x48), tss_va >> 32)
}

fn write_tss(memory: &GuestMemory, tss: Gpa, rsp0: u64, ist1: u64, ist2: u64) -> Result<(), MemoryError> {
    memory.write(tss.offset(4), &rsp0.to_le_bytes())?;
    memory.write(tss.offset(0x24), &ist1.to_le_bytes())?;
    memory.write(tss.offset(0x2c), &ist2.to_le_bytes())?;
    memory.write(tss.offset(0x66), &0x68u16.to_le_bytes()) // no I/O bitmap
}

/// The entry frames that the CPL 0 stubs leave by: rip, cs, rflags, rsp, ss.
fn write_frame(memory: &GuestMemory, at: Gpa, rip: u64, rsp: u64) -> Result<(), MemoryError> {
    for (i, word) in [rip, SEL_USER_CS, 2, rsp, 0x2b].into_iter().enumerate() {
        memory.write_u64(at.offset(8 * i as u64), word)?;
    }
    Ok(())
}

fn write_pvm(memory: &GuestMemory, layout: &Layout, vcpu: u32) -> Result<(), MemoryError> {
    let symbols = symbols(Backend::Pvm);
    let (gpa, va) = (layout.window_gpa(vcpu), layout.window_va(vcpu).0);
    let (kernel, user) = (gpa.offset(window::IDT), layout.user_idt(vcpu));
    for index in 0..VECTORS {
        let vector = vector_of(index);
        let handler = match vector {
            0 => gate(va + symbols.gate_exit, SEL_SHIM_CS, 0, 0),
            VECTOR_BREAKPOINT => gate(va + symbols.gate_call, SEL_SHIM_CS, 0, 3),
            VECTOR_PAGE_FAULT => gate(va + symbols.gate_page_fault, SEL_SHIM_CS, 0, 0),
            _ => gate(va + symbols.kernel_entries + 16 * index, SEL_USER_CS, 1, 0),
        };
        write_gate(memory, kernel, vector, handler)?;
        write_gate(
            memory,
            user,
            vector,
            gate(va + symbols.gate_user + 64 * index, SEL_SHIM_CS, 0, dpl_of(vector)),
        )?;
        let frame = gpa.offset(window::GATE + 128 + 40 * index);
        write_frame(memory, frame, va + symbols.user_entries + 16 * index, va + symbols.main_top)?;
    }
    write_frame(
        memory,
        gpa.offset(window::GATE + 2048),
        va + symbols.page_fault_entry,
        va + symbols.trap_top,
    )?;
    write_tss(memory, gpa.offset(window::TSS), va + symbols.stack0_top, va + symbols.ist_top, 0)
}

fn write_hardware(memory: &GuestMemory, layout: &Layout, vcpu: u32) -> Result<(), MemoryError> {
    let symbols = symbols(Backend::Hardware);
    let (gpa, va) = (layout.window_gpa(vcpu), layout.window_va(vcpu).0);
    let idt = gpa.offset(window::IDT);
    for index in 0..VECTORS {
        let vector = vector_of(index);
        let ist = match vector {
            VECTOR_DEBUG => IST_DEBUG,
            _ if VECTORS_FATAL.contains(&vector) => IST_FATAL,
            _ => 0,
        };
        write_gate(
            memory,
            idt,
            vector,
            gate(va + symbols.entries + 16 * index, SEL_SHIM_CS, ist, dpl_of(vector)),
        )?;
    }
    write_gate(memory, idt, VECTOR_EVENT, gate(va + symbols.irq_entry, SEL_SHIM_CS, 0, 0))?;
    write_tss(
        memory,
        gpa.offset(window::TSS),
        va + symbols.trap_top,
        va + symbols.fatal_top,
        va + symbols.ist_top,
    )
}

/// Fills a vcpu's window: code, descriptor tables, entry frames.
pub fn write_window(
    memory: &GuestMemory,
    layout: &Layout,
    backend: Backend,
    vcpu: u32,
) -> Result<(), MemoryError> {
    let gpa = layout.window_gpa(vcpu);
    memory.write(gpa, image(backend))?;
    write_gdt(memory, gpa.offset(window::GDT), layout.window_va(vcpu).0 + window::TSS)?;
    match backend {
        Backend::Pvm => write_pvm(memory, layout, vcpu),
        Backend::Hardware => write_hardware(memory, layout, vcpu),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_code_descriptor_is_forced_to_ring_3() {
        assert_eq!(sanitized_descriptor(0x00af_9b00_0000_ffff), 0x00af_fb00_0000_ffff);
    }

    #[test]
    fn a_guests_call_gate_and_tss_are_dropped() {
        assert_eq!(sanitized_descriptor(0x0000_8c00_0010_0000), 0);
        assert_eq!(sanitized_descriptor(0x0000_8900_0000_0067), 0);
    }

    #[test]
    fn an_absent_data_descriptor_stays_as_it_is() {
        assert_eq!(sanitized_descriptor(1 << 44), 1 << 44);
    }

    #[test]
    fn a_gate_spreads_its_handler_over_three_fields() {
        let [low, high] = gate(0xffff_8080_1234_5678, 0xe008, 1, 3);
        assert_eq!(low, 0x1234_ee01_e008_5678);
        assert_eq!(high, 0xffff_8080);
    }
}
