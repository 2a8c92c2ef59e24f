//! ELF notes: Xen's `elfnote.h`, and the linker's build id.

use super::{KernelImageError, NOTE_TEXT_BYTES_MAX, NOTES_MAX, XenNotes};
use crate::memory::Gva;

const OWNER_XEN: &[u8] = b"Xen";
const OWNER_GNU: &[u8] = b"GNU";
const NT_GNU_BUILD_ID: u32 = 3;
/// The longest build id: SHA-1 has 20 bytes, a linker may be told to use another hash.
const BUILD_ID_BYTES_MAX: usize = 64;
/// Bytes of `namesz`, `descsz` and `type`.
const HEADER_BYTES: usize = 12;
/// Name and descriptor are each padded to this, in 64-bit files as well.
const ALIGNMENT: usize = 4;

const XEN_ENTRY: u32 = 1;
const XEN_HYPERCALL_PAGE: u32 = 2;
const XEN_VIRT_BASE: u32 = 3;
const XEN_PADDR_OFFSET: u32 = 4;
const XEN_XEN_VERSION: u32 = 5;
const XEN_GUEST_OS: u32 = 6;
const XEN_GUEST_VERSION: u32 = 7;
const XEN_LOADER: u32 = 8;
const XEN_PAE_MODE: u32 = 9;
const XEN_FEATURES: u32 = 10;
const XEN_HV_START_LOW: u32 = 12;
const XEN_L1_MFN_VALID: u32 = 13;
const XEN_SUSPEND_CANCEL: u32 = 14;
const XEN_INIT_P2M: u32 = 15;
const XEN_MOD_START_PFN: u32 = 16;
const XEN_SUPPORTED_FEATURES: u32 = 17;

/// Notes, as far as they have been read.
#[derive(Default)]
pub(super) struct Notes {
    count: usize,
    xen: XenNotes,
    /// `ENTRY` was there: without it nothing else of Xen's notes makes a PV kernel (a PVH kernel has `PHYS32_ENTRY`).
    entry_seen: bool,
    build_id: Option<Vec<u8>>,
}

struct Note<'a> {
    owner: &'a [u8],
    kind: u32,
    desc: &'a [u8],
}

impl Notes {
    /// Reads one `PT_NOTE` segment; a later note of the same type wins.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), KernelImageError> {
        // Ends: every note takes at least its header.
        while bytes.len() >= HEADER_BYTES {
            self.count += 1;
            if self.count > NOTES_MAX {
                return Err(KernelImageError::TooMany { what: "notes", count: self.count, max: NOTES_MAX });
            }
            let (note, rest) = split_note(bytes)?;
            bytes = rest;
            match note.owner {
                OWNER_XEN => self.xen(&note)?,
                OWNER_GNU if note.kind == NT_GNU_BUILD_ID && note.desc.len() <= BUILD_ID_BYTES_MAX => {
                    self.build_id = Some(note.desc.to_vec());
                }
                // Linux' own (build salt, LTO) and other GNU notes say nothing about loading.
                _ => {}
            }
        }
        Ok(())
    }

    /// Everything, once all segments were read.
    pub(super) fn finish(self) -> Result<(XenNotes, Option<Vec<u8>>), KernelImageError> {
        if !self.entry_seen {
            return Err(KernelImageError::NoXenNotes);
        }
        Ok((self.xen, self.build_id))
    }

    fn xen(&mut self, note: &Note<'_>) -> Result<(), KernelImageError> {
        let xen = &mut self.xen;
        match note.kind {
            XEN_ENTRY => {
                xen.entry = Gva(number("ENTRY", note.desc)?);
                self.entry_seen = true;
            }
            XEN_HYPERCALL_PAGE => xen.hypercall_page = Some(Gva(number("HYPERCALL_PAGE", note.desc)?)),
            XEN_VIRT_BASE => xen.virt_base = Gva(number("VIRT_BASE", note.desc)?),
            XEN_PADDR_OFFSET => xen.paddr_offset = number("PADDR_OFFSET", note.desc)?,
            XEN_XEN_VERSION => xen.xen_version = text(note.desc),
            XEN_GUEST_OS => xen.guest_os = text(note.desc),
            XEN_GUEST_VERSION => xen.guest_version = text(note.desc),
            XEN_LOADER => xen.loader = text(note.desc),
            XEN_PAE_MODE => xen.pae_mode = text(note.desc),
            XEN_FEATURES => xen.features = text(note.desc),
            XEN_HV_START_LOW => xen.hv_start_low = Some(Gva(number("HV_START_LOW", note.desc)?)),
            // An array of mask and value pairs; Xen uses the first.
            XEN_L1_MFN_VALID => xen.l1_mfn_valid = pair(note.desc),
            XEN_SUSPEND_CANCEL => xen.suspend_cancel = number("SUSPEND_CANCEL", note.desc)? != 0,
            XEN_INIT_P2M => xen.init_p2m = Some(Gva(number("INIT_P2M", note.desc)?)),
            XEN_MOD_START_PFN => xen.mod_start_pfn = number("MOD_START_PFN", note.desc)? != 0,
            XEN_SUPPORTED_FEATURES => xen.supported_features = number("SUPPORTED_FEATURES", note.desc)?,
            // BSD_SYMTAB, CRASH_*, PHYS32_ENTRY and later ones concern other loaders.
            _ => {}
        }
        Ok(())
    }
}

fn split_note(bytes: &[u8]) -> Result<(Note<'_>, &[u8]), KernelImageError> {
    let field =
        |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes);
    let (name_bytes, desc_bytes, kind) = (field(0) as usize, field(4) as usize, field(8));
    // Two u32 and padding: no overflow in 64 bits.
    let desc_start = HEADER_BYTES + name_bytes.next_multiple_of(ALIGNMENT);
    let desc_end = desc_start + desc_bytes;
    let desc = bytes.get(desc_start..desc_end).ok_or(KernelImageError::Truncated {
        what: "note",
        end: desc_end as u64,
        bytes: bytes.len() as u64,
    })?;
    let owner = &bytes[HEADER_BYTES..HEADER_BYTES + name_bytes];
    let owner = owner.strip_suffix(&[0]).unwrap_or(owner);
    // The last note's padding may be missing.
    let rest = bytes.get(desc_end.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    Ok((Note { owner, kind, desc }, rest))
}

fn number(name: &'static str, desc: &[u8]) -> Result<u64, KernelImageError> {
    if let Ok(long) = <[u8; 8]>::try_from(desc) {
        return Ok(u64::from_le_bytes(long));
    }
    match <[u8; 4]>::try_from(desc) {
        Ok(word) => Ok(u64::from(u32::from_le_bytes(word))),
        Err(_) => Err(KernelImageError::BadNote { name, bytes: desc.len() }),
    }
}

fn pair(desc: &[u8]) -> Option<(u64, u64)> {
    let (mask, rest) = desc.split_first_chunk::<8>()?;
    let value = rest.first_chunk::<8>()?;
    Some((u64::from_le_bytes(*mask), u64::from_le_bytes(*value)))
}

/// A NUL-terminated text, cut at [`NOTE_TEXT_BYTES_MAX`].
fn text(desc: &[u8]) -> String {
    let desc = &desc[..desc.len().min(NOTE_TEXT_BYTES_MAX)];
    let end = desc.iter().position(|&byte| byte == 0).unwrap_or(desc.len());
    String::from_utf8_lossy(&desc[..end]).into_owned()
}
