//! Unpacks the payload of a bzImage (Linux' scripts/Makefile.lib: what the build made it with).
//!
//! The build appends the unpacked size to it, 4 bytes little endian (gzip has that by itself). So the output is
//! allocated once, and a payload that unpacks to anything else is damaged. bzip2, lzma (alone) and lzo are refused:
//! no distribution has used them for x86-64 in years.

use std::borrow::Cow;
use std::io::Read;

use super::{KERNEL_BYTES_MAX, KernelImageError, elf};

/// The legacy frame of lz4, the only one that the kernel's build makes (lz4_Frame_format.md, "Legacy frame").
const LZ4_LEGACY_MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// Every block of a legacy frame but the last unpacks to this much.
const LZ4_LEGACY_BLOCK_BYTES: usize = 8 << 20;
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const BZIP2_MAGIC: &[u8] = b"BZh";
const LZMA_MAGIC: &[u8] = &[0x5d, 0, 0];
const LZO_MAGIC: &[u8] = &[0x89, b'L', b'Z', b'O'];
/// What the kernel's xz may use to unpack, in KiB: presets go up to a dictionary of 64 MiB, the build's is 32 MiB.
const XZ_MEMORY_KIB_MAX: u32 = 128 << 10;
/// Bytes of the size at the payload's end.
const SIZE_BYTES: usize = 4;

/// The ELF file in a payload.
pub(super) fn unpack(payload: &[u8]) -> Result<Cow<'_, [u8]>, KernelImageError> {
    if elf::is_elf(payload) {
        return Ok(Cow::Borrowed(payload));
    }
    let starts = |magic: &[u8]| payload.starts_with(magic);
    let elf = if starts(&LZ4_LEGACY_MAGIC) {
        lz4(payload)?
    } else if starts(ZSTD_MAGIC) {
        zstd(payload)?
    } else if starts(XZ_MAGIC) {
        let (_, packed) = unpacked_bytes("xz", payload)?;
        read_all("xz", payload, lzma_rust2::XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB_MAX))?
    } else if starts(GZIP_MAGIC) {
        read_all("gzip", payload, flate2::bufread::GzDecoder::new(payload))?
    } else {
        return Err(refusal(payload));
    };
    Ok(Cow::Owned(elf))
}

fn refusal(payload: &[u8]) -> KernelImageError {
    let starts = |magic: &[u8]| payload.starts_with(magic);
    KernelImageError::UnsupportedCompression(if starts(BZIP2_MAGIC) {
        "bzip2"
    } else if starts(LZMA_MAGIC) {
        "lzma"
    } else if starts(LZO_MAGIC) {
        "lzo"
    } else {
        "something unknown"
    })
}

/// The size that the payload promises, and the payload without it.
fn unpacked_bytes<'p>(
    compression: &'static str,
    payload: &'p [u8],
) -> Result<(usize, &'p [u8]), KernelImageError> {
    let (packed, size) =
        payload.split_last_chunk::<SIZE_BYTES>().ok_or_else(|| damaged(compression, "no size"))?;
    let size = u32::from_le_bytes(*size) as usize;
    if size > KERNEL_BYTES_MAX {
        return Err(KernelImageError::TooLarge(size as u64));
    }
    Ok((size, packed))
}

/// Blocks of a 4-byte length and data, each unpacked by itself, up to the end.
fn lz4(payload: &[u8]) -> Result<Vec<u8>, KernelImageError> {
    let (size, packed) = unpacked_bytes("lz4", payload)?;
    // Fresh zero pages: the kernel hands them out at the first touch, nothing is cleared twice.
    let mut elf = vec![0; size];
    let mut done = 0;
    let mut rest = packed.get(LZ4_LEGACY_MAGIC.len()..).unwrap_or_default();
    // Ends: every round takes at least the length from `rest`.
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        // Frames may follow each other.
        if *length == LZ4_LEGACY_MAGIC {
            rest = after;
            continue;
        }
        let length = u32::from_le_bytes(*length) as usize;
        let (block, after) =
            after.split_at_checked(length).ok_or_else(|| damaged("lz4", "a block is cut off"))?;
        let room = &mut elf[done..];
        let room_bytes = room.len().min(LZ4_LEGACY_BLOCK_BYTES);
        done += lz4_flex::block::decompress_into(block, &mut room[..room_bytes])
            .map_err(|error| damaged("lz4", error))?;
        rest = after;
    }
    promised("lz4", done, size)?;
    Ok(elf)
}

fn zstd(payload: &[u8]) -> Result<Vec<u8>, KernelImageError> {
    let (_, packed) = unpacked_bytes("zstd", payload)?;
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| damaged("zstd", error))?;
    read_all("zstd", payload, decoder)
}

fn read_all(
    compression: &'static str,
    payload: &[u8],
    reader: impl Read,
) -> Result<Vec<u8>, KernelImageError> {
    let (size, _) = unpacked_bytes(compression, payload)?;
    let mut elf = Vec::with_capacity(size);
    // One byte more than promised, so that a longer one is found out.
    reader.take(size as u64 + 1).read_to_end(&mut elf).map_err(|error| damaged(compression, error))?;
    promised(compression, elf.len(), size)?;
    Ok(elf)
}

fn promised(compression: &'static str, bytes: usize, size: usize) -> Result<(), KernelImageError> {
    if bytes == size {
        return Ok(());
    }
    Err(damaged(compression, format_args!("it unpacks to {bytes} bytes, not to the {size} that it promises")))
}

fn damaged(compression: &'static str, detail: impl ToString) -> KernelImageError {
    KernelImageError::DamagedPayload { compression, detail: detail.to_string() }
}
