//! The envelope of a Linux kernel: "The real-mode kernel header" of Documentation/arch/x86/boot.rst.
//!
//! Only what leads to the payload is read; the real-mode code and the decompressor in front of it are not used.

use super::KernelImageError;

/// `setup_sects`, u8: sectors of real-mode code after the boot sector.
const SETUP_SECTS: usize = 0x1f1;
/// `boot_flag`, u16.
const BOOT_FLAG: usize = 0x1fe;
const BOOT_FLAG_VALUE: u16 = 0xaa55;
/// `header`: the magic.
const HEADER: usize = 0x202;
const HEADER_VALUE: &[u8; 4] = b"HdrS";
/// `version`, u16 of the boot protocol.
const PROTOCOL: usize = 0x206;
/// The first protocol with `payload_offset` and `payload_length`.
const PROTOCOL_MIN: u16 = 0x0208;
/// `kernel_version`, u16: where the version text is, less 0x200; 0 for none.
const KERNEL_VERSION: usize = 0x20e;
/// `payload_offset`, u32, from the start of the protected-mode code.
const PAYLOAD_OFFSET: usize = 0x248;
/// `payload_length`, u32.
const PAYLOAD_LENGTH: usize = 0x24c;
const HEADER_END: usize = 0x250;
const SECTOR_BYTES: usize = 512;
/// "For backwards compatibility, if the setup_sects field contains 0, the real value is 4."
const SETUP_SECTS_DEFAULT: usize = 4;
/// The longest version text; Linux' own buffer has the same limit.
const VERSION_BYTES_MAX: usize = 256;

/// A bzImage, taken apart.
pub(super) struct BzImage<'a> {
    /// The packed kernel.
    pub payload: &'a [u8],
    /// The version text.
    pub version: Option<String>,
}

impl<'a> BzImage<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, KernelImageError> {
        if bytes.get(HEADER..HEADER + 4) != Some(HEADER_VALUE)
            || read_u16(bytes, BOOT_FLAG) != BOOT_FLAG_VALUE
        {
            return Err(KernelImageError::NotAKernel);
        }
        if bytes.len() < HEADER_END {
            return Err(truncated("setup header", HEADER_END, bytes));
        }
        let protocol = read_u16(bytes, PROTOCOL);
        if protocol < PROTOCOL_MIN {
            return Err(KernelImageError::OldProtocol(protocol));
        }
        let setup_sects = match bytes[SETUP_SECTS] {
            0 => SETUP_SECTS_DEFAULT,
            sects => usize::from(sects),
        };
        // Two u32 and at most 256 sectors: no overflow in 64 bits.
        let start = (setup_sects + 1) * SECTOR_BYTES + read_u32(bytes, PAYLOAD_OFFSET);
        let end = start + read_u32(bytes, PAYLOAD_LENGTH);
        let payload = bytes.get(start..end).ok_or_else(|| truncated("payload", end, bytes))?;
        Ok(Self { payload, version: version(bytes) })
    }
}

fn version(bytes: &[u8]) -> Option<String> {
    let at = match read_u16(bytes, KERNEL_VERSION) {
        0 => return None,
        offset => usize::from(offset) + 0x200,
    };
    let text = bytes.get(at..)?;
    let text = &text[..text.len().min(VERSION_BYTES_MAX)];
    let text = text.split(|&byte| byte == 0).next()?;
    std::str::from_utf8(text).ok().map(str::to_owned)
}

fn truncated(what: &'static str, end: usize, bytes: &[u8]) -> KernelImageError {
    KernelImageError::Truncated { what, end: end as u64, bytes: bytes.len() as u64 }
}

/// The caller has checked that the field is there; one that is not reads as 0.
fn read_u16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u16::from_le_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes) as usize
}
