//! The kernel proper: an ELF64 file, System V ABI chapters 4 and 5. Section headers, symbols and relocations are not read.

use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{EM_X86_64, ET_EXEC, FileHeader64, PT_LOAD, PT_NOTE, ProgramHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::{KERNEL_BYTES_MAX, KernelImageError, PROGRAM_HEADERS_MAX, Segment, XenNotes, notes};
use crate::memory::{Gpa, Gva};

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// What every Linux kernel prints first.
const BANNER: &[u8] = b"Linux version ";
/// The longest banner that is believed; Linux' own line has 200 bytes.
const BANNER_BYTES_MAX: usize = 512;
/// The end of guest memory that a segment may claim: far above the domain sizes that we serve.
const PADDR_MAX: u64 = 1 << 40;

/// What an ELF file says about itself.
pub(super) struct ElfParts {
    pub segments: Vec<Segment>,
    pub xen: XenNotes,
    pub build_id: Option<Vec<u8>>,
}

pub(super) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(ELF_MAGIC)
}

/// Reads program headers and notes.
pub(super) fn read(elf: &[u8]) -> Result<ElfParts, KernelImageError> {
    if elf.len() > KERNEL_BYTES_MAX {
        return Err(KernelImageError::TooLarge(elf.len() as u64));
    }
    let headers = program_headers(elf)?;
    let mut segments = Vec::new();
    let mut notes = notes::Notes::default();
    for header in headers {
        match header.p_type(LE) {
            PT_LOAD => segments.extend(segment(header, elf)?),
            PT_NOTE => notes.read(&elf[file_range(header, "note segment", elf)?])?,
            // PT_GNU_STACK, PT_TLS of the per-cpu area, and what else a linker adds: nothing to load.
            _ => {}
        }
    }
    if segments.is_empty() {
        return Err(KernelImageError::WrongElf("it has nothing to load"));
    }
    let (xen, build_id) = notes.finish()?;
    Ok(ElfParts { segments, xen, build_id })
}

fn program_headers(elf: &[u8]) -> Result<&[ProgramHeader64<LE>], KernelImageError> {
    let bytes = elf.len() as u64;
    let header_end = size_of::<FileHeader64<LE>>() as u64;
    if bytes < header_end {
        return Err(KernelImageError::Truncated { what: "ELF header", end: header_end, bytes });
    }
    let header = FileHeader64::<LE>::parse(elf)
        .map_err(|_| KernelImageError::WrongElf("its ELF header is not of 64 bits, little endian"))?;
    if header.e_machine(LE) != EM_X86_64 {
        return Err(KernelImageError::WrongElf("the machine is another"));
    }
    if header.e_type(LE) != ET_EXEC {
        return Err(KernelImageError::WrongElf("the ELF file is not an executable"));
    }
    let count = usize::from(header.e_phnum(LE));
    if count > PROGRAM_HEADERS_MAX {
        return Err(KernelImageError::TooMany { what: "program headers", count, max: PROGRAM_HEADERS_MAX });
    }
    let table_bytes = count * size_of::<ProgramHeader64<LE>>();
    let end = header.e_phoff(LE).saturating_add(table_bytes as u64);
    if end > bytes {
        return Err(KernelImageError::Truncated { what: "program header table", end, bytes });
    }
    header
        .program_headers(LE, elf)
        .map_err(|_| KernelImageError::WrongElf("its program headers are unreadable"))
}

/// `None` for a segment of no bytes.
fn segment(header: &ProgramHeader64<LE>, elf: &[u8]) -> Result<Option<Segment>, KernelImageError> {
    let paddr = Gpa(header.p_paddr(LE));
    let mem_bytes = header.p_memsz(LE);
    let bad = |reason| Err(KernelImageError::BadSegment { paddr, reason });
    if mem_bytes == 0 {
        return Ok(None);
    }
    if header.p_filesz(LE) > mem_bytes {
        return bad("it has more bytes in the file than in memory");
    }
    if mem_bytes > KERNEL_BYTES_MAX as u64 {
        return bad("it is larger than the largest kernel");
    }
    if paddr.0 > PADDR_MAX - mem_bytes {
        return bad("it ends outside any domain's memory");
    }
    if header.p_vaddr(LE).checked_add(mem_bytes).is_none() {
        return bad("it wraps around the end of the address space");
    }
    let file = file_range(header, "segment", elf)?;
    Ok(Some(Segment { paddr, vaddr: Gva(header.p_vaddr(LE)), file, mem_bytes }))
}

fn file_range(
    header: &ProgramHeader64<LE>,
    what: &'static str,
    elf: &[u8],
) -> Result<Range<usize>, KernelImageError> {
    let bytes = elf.len() as u64;
    let (start, length) = (header.p_offset(LE), header.p_filesz(LE));
    let end = start.saturating_add(length);
    if end > bytes {
        return Err(KernelImageError::Truncated { what, end, bytes });
    }
    // Both are at most the file's length, which is a usize.
    Ok(start as usize..end as usize)
}

/// The kernel's banner, where the image has one.
pub(super) fn banner(elf: &[u8]) -> Option<&str> {
    // `linux_proc_banner` comes with printf's own %s: the first match followed by a digit is the real one.
    let at = memchr::memmem::find_iter(elf, BANNER)
        .find(|at| elf.get(at + BANNER.len()).is_some_and(u8::is_ascii_digit))?;
    let line = &elf[at..elf.len().min(at + BANNER_BYTES_MAX)];
    let line = line.split(|&byte| byte == b'\n' || byte == 0).next()?;
    std::str::from_utf8(line).ok()
}
