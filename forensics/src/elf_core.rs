//! Memory as an ELF64 core, in the form of QEMU's `dump-guest-memory`, which crash, gdb and Volatility read.
//!
//! Header, one PT_NOTE, one PT_LOAD a range of RAM with `p_paddr` the guest-physical address. Notes: `CORE` NT_PRSTATUS
//! and `QEMU` (control registers) a vcpu, `VMCOREINFO` where one was found. Source: ELF specification, System V ABI for
//! x86-64, QEMU `docs/specs/` and `target/i386/arch_dump.c`. Reading checks what it needs and no more.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::sparse;
use crate::vcpu::VcpuRegs;

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const NT_PRSTATUS: u32 = 1;
/// `struct elf_prstatus` of x86-64.
const PRSTATUS_BYTES: usize = 336;
/// Where its registers begin, and where its process number is.
const PRSTATUS_REGISTERS: usize = 112;
const PRSTATUS_PID: usize = 32;
/// Version of QEMUCPUState.
const QEMU_STATE_VERSION: u32 = 1;
/// Program headers that a reader takes: a domain has a handful of ranges.
const SEGMENTS_MAX: usize = 4096;
/// Bytes of notes that a reader takes.
const NOTES_BYTES_MAX: u64 = 16 << 20;
const ALIGNMENT: u64 = 4096;

/// A range of the guest's RAM, and where the file of its memory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamRange {
    /// First guest-physical address.
    pub gpa: u64,
    /// Byte offset in the memory file.
    pub file_offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a core holds: made by [`layout`] for writing, or by [`parse`] from a file's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// Ranges of memory; `file_offset` is that in the core.
    pub segments: Vec<RamRange>,
    /// The notes' place in the file.
    pub notes: Range<u64>,
}

/// A note of a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its owner, without the closing NUL: `CORE`, `QEMU`, `VMCOREINFO`.
    pub name: Vec<u8>,
    /// Its type, whose meaning is the owner's.
    pub kind: u32,
    /// Its content.
    pub content: Vec<u8>,
}

/// Why bytes are not a core.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// It cannot be read.
    #[error("cannot read the core")]
    Read(#[from] io::Error),
    /// Another kind of file.
    #[error("not an ELF64 little-endian core of x86-64")]
    Kind,
    /// A field says what cannot be.
    #[error("corrupt core: {what} is {value}")]
    Corrupt {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

/// Writes a core into an empty file.
pub fn write(
    memory: &File,
    ranges: &[RamRange],
    vcpus: &[VcpuRegs],
    vmcoreinfo: Option<&[u8]>,
    out: &File,
) -> io::Result<()> {
    let mut notes = Vec::new();
    for (number, regs) in vcpus.iter().enumerate() {
        push_note(&mut notes, b"CORE", NT_PRSTATUS, &prstatus(number as u32 + 1, regs));
        push_note(&mut notes, b"QEMU", 0, &qemu_state(regs));
    }
    if let Some(text) = vmcoreinfo {
        push_note(&mut notes, b"VMCOREINFO", 0, text);
    }
    let core = layout(ranges, notes.len() as u64);
    out.write_all_at(&headers(&core), 0)?;
    out.write_all_at(&notes, core.notes.start)?;
    let mut buffer = Vec::new();
    for (range, segment) in ranges.iter().zip(&core.segments) {
        let source = range.file_offset..range.file_offset + range.bytes;
        sparse::copy(memory, source, out, segment.file_offset, &mut buffer)?;
    }
    // Zero pages at the end are a hole, which only the length shows.
    let end = core.segments.last().map_or(core.notes.end, |last| last.file_offset + last.bytes);
    out.set_len(end)
}

fn layout(ranges: &[RamRange], notes_bytes: u64) -> Core {
    let notes_start = (HEADER_BYTES + (ranges.len() + 1) * PROGRAM_HEADER_BYTES) as u64;
    let mut at = (notes_start + notes_bytes).next_multiple_of(ALIGNMENT);
    let mut segments = Vec::new();
    for range in ranges {
        segments.push(RamRange { file_offset: at, ..range.clone() });
        at = (at + range.bytes).next_multiple_of(ALIGNMENT);
    }
    Core { segments, notes: notes_start..notes_start + notes_bytes }
}

fn headers(core: &Core) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend(ET_CORE.to_le_bytes());
    out.extend(EM_X86_64.to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    out.extend((HEADER_BYTES as u64).to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    let count = core.segments.len() as u16 + 1;
    for field in [HEADER_BYTES as u16, PROGRAM_HEADER_BYTES as u16, count, 0, 0, 0] {
        out.extend(field.to_le_bytes());
    }
    let notes_bytes = core.notes.end - core.notes.start;
    push_program_header(&mut out, PT_NOTE, &core.notes.start, [0, notes_bytes], 0);
    for segment in &core.segments {
        push_program_header(&mut out, PT_LOAD, &segment.file_offset, [segment.gpa, segment.bytes], ALIGNMENT);
    }
    out
}

/// `p_vaddr` is 0, as QEMU writes it without paging information: readers translate by the guest's own page tables.
fn push_program_header(out: &mut Vec<u8>, kind: u32, offset: &u64, [paddr, bytes]: [u64; 2], alignment: u64) {
    let flags = if kind == PT_LOAD { 7_u32 } else { 0 };
    out.extend(kind.to_le_bytes());
    out.extend(flags.to_le_bytes());
    for field in [*offset, 0, paddr, bytes, bytes, alignment] {
        out.extend(field.to_le_bytes());
    }
}

fn push_note(out: &mut Vec<u8>, name: &[u8], kind: u32, content: &[u8]) {
    for field in [name.len() as u32 + 1, content.len() as u32, kind] {
        out.extend(field.to_le_bytes());
    }
    out.extend(name);
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// `struct elf_prstatus`: the process number is the vcpu's, from 1, as QEMU has it.
fn prstatus(number: u32, regs: &VcpuRegs) -> [u8; PRSTATUS_BYTES] {
    let registers = [
        regs.r15,
        regs.r14,
        regs.r13,
        regs.r12,
        regs.rbp,
        regs.rbx,
        regs.r11,
        regs.r10,
        regs.r9,
        regs.r8,
        regs.rax,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        // orig_rax: no system call is being restarted.
        u64::MAX,
        regs.rip,
        regs.cs.into(),
        regs.rflags,
        regs.rsp,
        regs.ss.into(),
        regs.fs_base,
        regs.gs_base,
        regs.ds.into(),
        regs.es.into(),
        regs.fs.into(),
        regs.gs.into(),
    ];
    let mut out = [0; PRSTATUS_BYTES];
    out[PRSTATUS_PID..PRSTATUS_PID + 4].copy_from_slice(&number.to_le_bytes());
    for (place, value) in out[PRSTATUS_REGISTERS..].chunks_exact_mut(8).zip(registers) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    out
}

/// QEMU's `QEMUCPUState`, version 1: what prstatus lacks, above all CR3.
fn qemu_state(regs: &VcpuRegs) -> Vec<u8> {
    let mut out = Vec::new();
    for value in [
        regs.rax,
        regs.rbx,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        regs.rsp,
        regs.rbp,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rip,
        regs.rflags,
    ] {
        out.extend(value.to_le_bytes());
    }
    // cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt: selector, limit, flags, padding, base.
    let plain = [
        (regs.cs, 0),
        (regs.ds, 0),
        (regs.es, 0),
        (regs.fs, regs.fs_base),
        (regs.gs, regs.gs_base),
        (regs.ss, 0),
    ];
    for (selector, base) in plain.into_iter().chain([(0, 0); 4]) {
        for field in [u32::from(selector), 0, 0, 0] {
            out.extend(field.to_le_bytes());
        }
        out.extend(base.to_le_bytes());
    }
    for value in [regs.cr0, 0, regs.cr2, regs.cr3, regs.cr4, regs.kernel_gs_base] {
        out.extend(value.to_le_bytes());
    }
    let mut state = QEMU_STATE_VERSION.to_le_bytes().to_vec();
    state.extend((out.len() as u32 + 8).to_le_bytes());
    state.extend(out);
    state
}

/// Parses a core's headers; `head` is the file's beginning, `file_bytes` its whole length.
pub fn parse(head: &[u8], file_bytes: u64) -> Result<Core, CoreError> {
    let ident = head.get(..HEADER_BYTES).ok_or(CoreError::Kind)?;
    if !ident.starts_with(b"\x7fELF\x02\x01") || u16_at(head, 16) != ET_CORE || u16_at(head, 18) != EM_X86_64
    {
        return Err(CoreError::Kind);
    }
    let (table, entry_bytes, count) = (u64_at(head, 32), u16_at(head, 54), usize::from(u16_at(head, 56)));
    if usize::from(entry_bytes) != PROGRAM_HEADER_BYTES || count > SEGMENTS_MAX {
        return Err(CoreError::Corrupt { what: "e_phnum", value: count as u64 });
    }
    let table =
        usize::try_from(table).ok().and_then(|at| head.get(at..)?.get(..count * PROGRAM_HEADER_BYTES));
    let table = table.ok_or(CoreError::Corrupt { what: "e_phoff", value: u64_at(head, 32) })?;
    let mut core = Core { segments: Vec::new(), notes: 0..0 };
    for header in table.chunks_exact(PROGRAM_HEADER_BYTES) {
        let (offset, paddr, bytes) = (u64_at(header, 8), u64_at(header, 24), u64_at(header, 32));
        let end = offset.checked_add(bytes).filter(|end| *end <= file_bytes);
        let end = end.ok_or(CoreError::Corrupt { what: "p_offset", value: offset })?;
        match u32_at(header, 0) {
            PT_LOAD => core.segments.push(RamRange { gpa: paddr, file_offset: offset, bytes }),
            PT_NOTE => core.notes = offset..end,
            // Cores of other makers have more kinds; they hold no memory.
            _ => {}
        }
    }
    Ok(core)
}

/// Opens a core: its layout and notes.
pub fn open(file: &File) -> Result<(Core, Vec<Note>), CoreError> {
    let file_bytes = file.metadata()?.len();
    let head_bytes = (HEADER_BYTES + SEGMENTS_MAX * PROGRAM_HEADER_BYTES) as u64;
    let mut head = vec![0; file_bytes.min(head_bytes) as usize];
    file.read_exact_at(&mut head, 0)?;
    let core = parse(&head, file_bytes)?;
    let notes_bytes = core.notes.end - core.notes.start;
    if notes_bytes > NOTES_BYTES_MAX {
        return Err(CoreError::Corrupt { what: "length of the notes", value: notes_bytes });
    }
    let mut notes = vec![0; notes_bytes as usize];
    file.read_exact_at(&mut notes, core.notes.start)?;
    let notes = parse_notes(&notes)?;
    Ok((core, notes))
}

/// Parses the content of a PT_NOTE.
pub fn parse_notes(mut bytes: &[u8]) -> Result<Vec<Note>, CoreError> {
    let mut out = Vec::new();
    while bytes.len() >= 12 {
        let (name_bytes, content_bytes, kind) = (u32_at(bytes, 0), u32_at(bytes, 4), u32_at(bytes, 8));
        let corrupt = CoreError::Corrupt { what: "length of a note", value: content_bytes.into() };
        let content_start = 12 + (name_bytes as usize).next_multiple_of(4);
        let content_end = content_start + content_bytes as usize;
        let (Some(name), Some(content)) =
            (bytes.get(12..12 + name_bytes as usize), bytes.get(content_start..content_end))
        else {
            return Err(corrupt);
        };
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        out.push(Note { name: name.to_vec(), kind, content: content.to_vec() });
        bytes = bytes.get(content_end.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(out)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
