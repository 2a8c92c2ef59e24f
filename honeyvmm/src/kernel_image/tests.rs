use super::*;

/// An ELF file of one 16-byte segment at 16 MiB and the given notes.
fn elf_with_notes(notes: &[u8]) -> Vec<u8> {
    let mut elf = vec![0; 64 + 2 * 56];
    elf[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    put(&mut elf, 16, &2_u16.to_le_bytes());
    put(&mut elf, 18, &62_u16.to_le_bytes());
    put(&mut elf, 20, &1_u32.to_le_bytes());
    put(&mut elf, 32, &64_u64.to_le_bytes());
    put(&mut elf, 52, &64_u16.to_le_bytes());
    put(&mut elf, 54, &56_u16.to_le_bytes());
    put(&mut elf, 56, &2_u16.to_le_bytes());
    let data = elf.len() as u64;
    elf.extend_from_slice(b"sixteen bytes...");
    header(&mut elf, 64, [1, data, 0xffff_ffff_8100_0000, 0x100_0000, 16, 0x2000]);
    header(&mut elf, 120, [4, data + 16, 0, 0, notes.len() as u64, notes.len() as u64]);
    elf.extend_from_slice(notes);
    elf
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// A program header of type, offset, vaddr, paddr, filesz, memsz.
fn header(elf: &mut [u8], at: usize, [kind, offset, vaddr, paddr, filesz, memsz]: [u64; 6]) {
    put(elf, at, &(kind as u32).to_le_bytes());
    for (index, value) in [offset, vaddr, paddr, filesz, memsz].into_iter().enumerate() {
        put(elf, at + 8 + 8 * index, &value.to_le_bytes());
    }
}

fn note(owner: &[u8], kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend_from_slice(&(owner.len() as u32).to_le_bytes());
    note.extend_from_slice(&(desc.len() as u32).to_le_bytes());
    note.extend_from_slice(&kind.to_le_bytes());
    for part in [owner, desc] {
        note.extend_from_slice(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

fn pv_elf() -> Vec<u8> {
    let notes = [
        note(b"Xen\0", 1, &0xffff_ffff_8200_0180_u64.to_le_bytes()),
        note(b"Xen\0", 3, &0xffff_ffff_8000_0000_u64.to_le_bytes()),
        note(b"Xen\0", 10, b"!writable_page_tables\0"),
        note(b"Xen\0", 16, &1_u32.to_le_bytes()),
        note(b"GNU\0", 3, &[7; 20]),
    ];
    elf_with_notes(&notes.concat())
}

/// A bzImage of protocol 2.15 around a payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    put(&mut image, 0x1fe, &0xaa55_u16.to_le_bytes());
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020f_u16.to_le_bytes());
    put(&mut image, 0x20e, &0x100_u16.to_le_bytes());
    put(&mut image, 0x300, b"6.1.0-test #1\0");
    put(&mut image, 0x24c, &(payload.len() as u32).to_le_bytes());
    image.extend_from_slice(payload);
    image
}

fn sized(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
    packed.extend_from_slice(&(size as u32).to_le_bytes());
    packed
}

fn lz4_payload(elf: &[u8]) -> Vec<u8> {
    let block = lz4_flex::block::compress(elf);
    let packed = [&0x184c_2102_u32.to_le_bytes(), &(block.len() as u32).to_le_bytes(), &block[..]].concat();
    sized(packed, elf.len())
}

fn zstd_payload(elf: &[u8]) -> Vec<u8> {
    let packed = ruzstd::encoding::compress_to_vec(elf, ruzstd::encoding::CompressionLevel::Fastest);
    sized(packed, elf.len())
}

fn xz_payload(elf: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut options = lzma_rust2::XzOptions::with_preset(6);
    options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
    options.prepend_pre_filter(lzma_rust2::FilterType::BcjX86, 0);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(elf).unwrap();
    sized(writer.finish().unwrap(), elf.len())
}

fn gzip_payload(elf: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(elf).unwrap();
    // Gzip's own last field is the unpacked size.
    writer.finish().unwrap()
}

#[test]
fn elf_is_borrowed_and_taken_apart() {
    let elf = pv_elf();
    let image = KernelImage::parse(&elf).unwrap();
    assert_eq!(image.elf().as_ptr(), elf.as_ptr());
    let [segment] = image.segments() else { panic!("{:?}", image.segments()) };
    assert_eq!((segment.paddr, segment.vaddr), (Gpa(0x100_0000), Gva(0xffff_ffff_8100_0000)));
    assert_eq!((image.segment_bytes(segment), segment.mem_bytes), (&b"sixteen bytes..."[..], 0x2000));
    assert_eq!(image.end(), Gpa(0x100_2000));
    let xen = image.xen();
    assert_eq!((xen.entry, xen.virt_base), (Gva(0xffff_ffff_8200_0180), Gva(0xffff_ffff_8000_0000)));
    assert_eq!((xen.hypercall_page, xen.mod_start_pfn), (None, true));
    assert_eq!(xen.features, "!writable_page_tables");
    assert_eq!(image.build_id(), Some(&[7; 20][..]));
}

#[test]
fn bzimage_of_every_supported_compression_unpacks_to_the_same_elf() {
    let elf = pv_elf();
    for (name, payload) in [
        ("none", elf.clone()),
        ("lz4", lz4_payload(&elf)),
        ("zstd", zstd_payload(&elf)),
        ("xz", xz_payload(&elf)),
        ("gzip", gzip_payload(&elf)),
    ] {
        let bzimage = bzimage(&payload);
        let image = KernelImage::parse(&bzimage).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(image.elf(), elf, "{name}");
        assert_eq!(image.version(), Some("6.1.0-test #1"), "{name}");
    }
}

#[test]
fn an_image_cut_anywhere_is_refused() {
    let elf = pv_elf();
    for whole in
        [elf.clone(), bzimage(&lz4_payload(&elf)), bzimage(&zstd_payload(&elf)), bzimage(&xz_payload(&elf))]
    {
        for length in 0..whole.len() {
            assert!(KernelImage::parse(&whole[..length]).is_err(), "cut at {length} of {}", whole.len());
        }
    }
}

#[test]
fn payload_that_unpacks_to_another_length_is_refused() {
    let elf = pv_elf();
    for (name, mut payload) in
        [("lz4", lz4_payload(&elf)), ("zstd", zstd_payload(&elf)), ("xz", xz_payload(&elf))]
    {
        for size in [elf.len() - 1, elf.len() + 1] {
            let at = payload.len() - 4;
            put(&mut payload, at, &(size as u32).to_le_bytes());
            let error = KernelImage::parse(&bzimage(&payload)).unwrap_err();
            assert!(matches!(error, KernelImageError::DamagedPayload { .. }), "{name} {size}: {error}");
        }
    }
}

#[test]
fn every_byte_may_be_any_other_without_a_panic() {
    let elf = pv_elf();
    for whole in [elf.clone(), bzimage(&lz4_payload(&elf))] {
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = KernelImage::parse(&bytes);
            }
        }
    }
}

fn check(bytes: &[u8], sentence: &str) {
    assert_eq!(KernelImage::parse(bytes).unwrap_err().to_string(), sentence);
}

#[test]
fn each_refusal_is_one_sentence() {
    check(b"", "not a kernel: neither a bzImage nor an ELF file");
    check(b"#!/bin/sh\n", "not a kernel: neither a bzImage nor an ELF file");
    check(&pv_elf()[..40], "kernel image is truncated: ELF header ends at byte 64, the file has 40");
    check(
        &bzimage(b"BZh91AY"),
        "kernel payload is compressed with bzip2, which is not supported (lz4, zstd, xz, gzip and none are)",
    );
    check(
        &elf_with_notes(&note(b"Xen\0", 18, &[0; 4])),
        "kernel has no Xen PV notes (CONFIG_XEN_PV is off): it cannot start as a PV guest; Debian's linux-image-cloud-amd64 can",
    );
    check(&elf_with_notes(&note(b"Xen\0", 1, &[0; 3])), "xen note ENTRY has 3 bytes, not 4 or 8");
    check(&elf_with_notes(&note(b"Xen\0", 9, b"").repeat(257)), "kernel has 257 notes, more than 256");
    let mut huge = lz4_payload(&pv_elf());
    let at = huge.len() - 4;
    put(&mut huge, at, &u32::MAX.to_le_bytes());
    check(&bzimage(&huge), "kernel of 4294967295 bytes is larger than 536870912");
    let mut old = bzimage(&pv_elf());
    put(&mut old, 0x206, &0x0207_u16.to_le_bytes());
    check(&old, "bzImage has boot protocol 2.07, older than 2.08: its payload cannot be found");
    let mut other = pv_elf();
    put(&mut other, 18, &183_u16.to_le_bytes());
    check(&other, "not an x86-64 kernel: the machine is another");
    let mut wide = pv_elf();
    put(&mut wide, 64 + 40, &u64::MAX.to_le_bytes());
    check(&wide, "kernel has a bad segment at gpa 0x1000000: it is larger than the largest kernel");
}
